"""Base class of the commands: help in groups with examples, and options read from a file of settings."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from capgpu.errors import InvalidValueError
from capgpu.file_formats.content import read_content
from capgpu.visible_text import clipped, short

__all__ = ["Command", "CommandContext", "config_option", "write_commands", "write_examples"]

_MOST_BYTES = 1 << 20


def write_examples(formatter: click.HelpFormatter, examples: Sequence[tuple[str, str]]) -> None:
    """Write command lines below what they do, so that they can be copied.

    Parameters
    ----------
    formatter : click.HelpFormatter
        Where to write.
    examples : sequence of (str, str)
        What a command line does, or an empty text where it follows the one before, and the line.
    """
    if not examples:
        return
    with formatter.section("Examples"):
        for purpose, line in examples:
            if purpose:
                formatter.write(f"{'':{formatter.current_indent}}# {purpose}\n")
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def write_commands(formatter: click.HelpFormatter, title: str, commands: Sequence[click.Command]) -> None:
    """Write a section of commands, each with the whole first sentence of its help.

    Parameters
    ----------
    formatter : click.HelpFormatter
        Where to write.
    title : str
        The heading.
    commands : sequence of click.Command
        The commands.
    """
    with formatter.section(title):
        formatter.write_dl([(command.name or "", _first_sentence(command.help or "")) for command in commands])


def _first_sentence(text: str) -> str:
    return " ".join(re.split(r"\n\s*\n", text.strip())[0].split())


class _HelpFormatter(click.HelpFormatter):
    """Breaks lines at spaces alone: the names of options, which are searched for and copied, stay whole."""

    # no place to break a line for textwrap
    _HYPHEN = "\N{NON-BREAKING HYPHEN}"

    def write(self, string: str) -> None:
        super().write(string.replace(self._HYPHEN, "-"))

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", self._HYPHEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], *args: Any, **settings: Any) -> None:
        super().write_dl([(first, text.replace("-", self._HYPHEN)) for first, text in rows], *args, **settings)


class CommandContext(click.Context):
    """The context of a command whose help breaks lines at spaces alone."""

    formatter_class = _HelpFormatter


class Command(click.Command):
    """A command whose help shows its options in groups and ends with examples.

    Parameters
    ----------
    *args, **settings
        As for `click.Command`.
    groups : mapping of str to sequence of str
        The options of each group, by the heading; other options follow in a group of their own.
    examples : sequence of (str, str)
        What a command line does, and the line.
    """

    context_class = CommandContext

    def __init__(
        self,
        *args: Any,
        groups: Mapping[str, Sequence[str]] | None = None,
        examples: Sequence[tuple[str, str]] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.groups, self.examples = dict(groups or {}), tuple(examples)
        grouped = [option for options in self.groups.values() for option in options]
        unknown = set(grouped) - {option for param in self.params for option in param.opts}
        assert not unknown, f"groups: expected options of {self.name}, got {', '.join(sorted(unknown))}"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group."""
        records = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                records[param.opts[-1]] = record
        for title, names in self.groups.items():
            rows = [records.pop(name) for name in names if name in records]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        with formatter.section("Other options" if self.groups else "Options"):
            formatter.write_dl(list(records.values()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(formatter, self.examples)


def _read_settings(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    """Make the settings in a TOML file the defaults of the command's options."""
    if file is None:
        return
    name = str(ctx.command.name)
    try:
        table = tomllib.loads(read_content(file, _MOST_BYTES, InvalidValueError).decode())
    except InvalidValueError:
        raise
    except (ValueError, RecursionError) as error:  # of the syntax, UTF-8, integers of 5,000 digits
        raise InvalidValueError(f"{file}: expected settings in TOML, such as hidden = 512, got: {error}") from error
    root = ctx.find_root().command
    commands = root.commands.keys() if isinstance(root, click.Group) else {name}
    for key, value in table.items():
        if isinstance(value, dict) and key not in commands:
            near = difflib.get_close_matches(key, commands, 1)
            remedy = f" Did you mean [{near[0]}]?" if near else ""
            raise InvalidValueError(
                f"{file}: expected tables of commands, such as [{name}], got [{clipped(key)}].{remedy}"
            )
    common = {key: value for key, value in table.items() if not isinstance(value, dict)}
    own = table.get(name, {})
    options = {
        option.lstrip("-"): known
        for known in ctx.command.params
        if isinstance(known, click.Option) and known.name not in ("config", "help")
        for option in known.opts
        if option.startswith("--")
    }
    values = {}
    for settings in (common, own if isinstance(own, dict) else {}):
        spelled: dict[str, str] = {}
        for key, value in settings.items():
            option = options.get(key.replace("_", "-"))
            if option is None:
                near = difflib.get_close_matches(key.replace("_", "-"), options, 1)
                remedy = f" Did you mean {near[0]}?" if near else f" capgpu {name} --help lists them."
                raise InvalidValueError(f"{file}: expected options of capgpu {name}, got {clipped(key)}.{remedy}")
            first = spelled.setdefault(str(option.name), key)
            if first != key:
                raise InvalidValueError(f"{file}: expected each option once, got {first} and {key}. Remove one.")
            values[str(option.name)] = _checked(file, key, value, option, ctx)
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _checked(file: Path, key: str, value: Any, option: click.Option, ctx: click.Context) -> Any:
    """Return a value in the form of the command line; `click` would cut 2.5 down to 2, and read "no" as true."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise InvalidValueError(f"{file}: {clipped(key)}: expected true or false, got {short(value)}.")
        return value
    values = value if isinstance(value, list) and option.multiple else [value]
    if any(isinstance(item, (bool, list, dict)) for item in values):
        raise InvalidValueError(f"{file}: {clipped(key)}: expected a number or a text, got {short(value)}.")
    texts = [str(item) for item in values]
    try:
        for text in texts:
            option.type(text, option, ctx)
    except click.BadParameter as error:
        raise InvalidValueError(f"{file}: {clipped(key)}: {error.message[:200]}") from error
    return texts if option.multiple else texts[0]


config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_read_settings,
    help="Read options from this TOML file: lines NAME = VALUE, at its top or in a table named after the command. "
    "Options on the command line come first.",
)
