"""The options of a command are the settings of an encoder."""

from __future__ import annotations

import inspect

import click
import pytest
from click.testing import CliRunner

from capgpu.cli.encoder_options import ENCODER_SETTINGS, encoder_options
from capgpu.vision import open_encoder


def given(*args: str) -> tuple[dict[str, object], str]:
    seen: dict[str, object] = {}

    @click.command()
    @encoder_options
    def command(**options: object) -> None:
        seen.update(options)

    return seen, CliRunner().invoke(command, args).output


def test_options_are_the_settings_of_an_encoder_with_its_defaults():
    defaults = {name: parameter.default for name, parameter in inspect.signature(open_encoder).parameters.items()}
    del defaults["projection"]
    assert given()[0] == defaults
    assert set(defaults) == set(ENCODER_SETTINGS)


def test_channels_are_given_together_or_one_by_one():
    assert given("--mean", "1,2,3.5", "--std", "255")[0]["mean"] == [1.0, 2.0, 3.5]
    assert given("--std", "255")[0]["std"] == [255.0] * 3


@pytest.mark.parametrize("value", ["much", "1,2", "1,2,3,4", ""])
def test_other_numbers_of_channels_are_refused(value):
    assert "expected one number, or three separated by commas" in given("--mean", value)[1]
