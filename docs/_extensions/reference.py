"""Directives that write the reference from the package itself, so that no name can be missing.

``.. public:: capgpu.layers`` documents a module: its docstring, a table of its public names, and each of them. The
names are those of ``__all__``, or those that ``:names:`` lists; ``:skip:`` leaves some out.

``.. commands::`` prints the help of each command of ``capgpu``.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

from capgpu.cli import main
from capgpu.cli.command import CommandContext


def _listed(argument: str | None) -> list[str]:
    return (argument or "").replace(",", " ").split()


def _directive(value: Any) -> list[str]:
    """Return the name and the options of the directive that documents a value."""
    if inspect.isclass(value):
        if issubclass(value, BaseException):
            return ["autoexception", ":show-inheritance:"]
        return ["autoclass", ":members:", ":inherited-members: object, tuple, dict, list, str, int"]
    return ["autofunction"] if inspect.isroutine(value) else ["autodata", ":no-value:"]


class Public(Directive):
    """Documents the public names of a module."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "names": directives.unchanged,
        "skip": directives.unchanged,
        "without-docstring": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the directive."""
        module = import_module(self.arguments[0])
        names = _listed(self.options.get("names")) or [
            name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)
        ]
        names = [name for name in names if name not in _listed(self.options.get("skip"))]
        lines = [f".. currentmodule:: {module.__name__}", "", ".. autosummary::", "   :nosignatures:", ""]
        lines += [f"   {name}" for name in names]
        if "without-docstring" not in self.options:
            lines[:0] = [f".. automodule:: {module.__name__}", "   :no-members:", ""]
        for name in names:
            directive, *options = _directive(getattr(module, name))
            lines += ["", f".. {directive}:: {module.__name__}.{name}", *(f"   {option}" for option in options)]
        content = StringList(lines, source=self.state_machine.get_source(self.lineno))
        box = nodes.Element()
        self.state.nested_parse(content, self.content_offset, box)
        return box.children


class Commands(Directive):
    """Prints the help texts of the command and of its subcommands."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each command."""
        document = self.state.document
        sections: list[nodes.Node] = []
        with CommandContext(main, info_name="capgpu", **main.context_settings) as context:
            for name in main.list_commands(context):
                command = main.get_command(context, name)
                assert command is not None
                section = nodes.section(ids=[f"capgpu-{name}"], names=[name])
                settings = {**command.context_settings, "max_content_width": 90}
                with CommandContext(command, parent=context, info_name=name, **settings) as own:
                    text = command.get_help(own)
                section += nodes.title(text=f"capgpu {name}")
                section += nodes.literal_block(text, text, language="text")
                document.note_explicit_target(section)
                sections.append(section)
        return sections


def _missing(app: Sphinx, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """Resolve what is documented by another name, and what has no entry: parameters and modules are set as code.

    Docstrings put the names of parameters into single backticks as they do other names. What has a dot in its name and
    is neither documented nor a module stays a broken reference.
    """
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    target = node["reftarget"]
    if target.isidentifier() or isinstance(_found(target), ModuleType):
        return nodes.literal(text=target)
    # by a shorter name than that of its module, or by a longer one: capgpu.model.CaptioningRNN.loss, Caption.source
    objects = {name: entry for name, entry in env.get_domain("py").objects.items() if not entry.aliased}
    for part in (target, target.rpartition(".")[0]):
        named = f".{part.rpartition('.')[2]}"
        ends = [name for name in objects if name.endswith(f".{part}") or (name.endswith(named) and _same(name, part))]
        if len(ends) == 1 and (part == target or _has_field(ends[0], target)):
            entry = objects[ends[0]]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [content], ends[0])
    return None


def _has_field(class_name: str, target: str) -> bool:
    """Return whether a class has the attribute that a dotted name ends with: its page lists it under Attributes."""
    attribute = target.rpartition(".")[2]
    return attribute in getattr(_found(class_name), "__annotations__", {}) or f"{attribute} :" in (
        inspect.getdoc(_found(class_name)) or ""
    )


def _same(first: str, second: str) -> bool:
    """Return whether two dotted names stand for one object."""
    return _found(first) is not None and _found(first) is _found(second)


def _found(dotted: str) -> Any:
    """Return what a dotted name stands for, None for nothing."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            value = getattr(value, part, None)
        return value
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("public", Public)
    app.add_directive("commands", Commands)
    app.connect("missing-reference", _missing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
