"""Packages of extras: a missing one is named with the command that installs it, and every extra exists."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import capgpu
from capgpu import optional_deps
from capgpu.cli import main
from capgpu.optional_deps import MissingExtraError, install_command, require

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_module_is_returned():
    assert require("json", "vision", "Reading") is sys.modules["json"]


def test_a_missing_package_is_refused_with_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MissingExtraError,
        match=r"^Seeing needs the package onnxruntime.*pip install 'onnxruntime>=\S+' 'onnx>=\S+' effic\S+$",
    ):
        require("onnxruntime", "vision", "Seeing")


def test_the_command_to_install_is_that_of_the_installation_where_there_is_no_checkout(monkeypatch, tmp_path):
    stored = ["numpy>=2.0", "onnx>=1.16; extra == 'vision'", 'h5py>=3; python_version > "3" and extra == "h5"']
    monkeypatch.setattr(optional_deps, "__file__", str(tmp_path / "capgpu" / "optional_deps.py"))
    monkeypatch.setattr("importlib.metadata.requires", lambda name: stored)
    assert install_command("vision") == "pip install 'onnx>=1.16'"
    assert install_command("h5") == "pip install 'h5py>=3'"
    stored.append("capgpu[vision,h5]; extra == 'all'")
    assert install_command("all") == "pip install 'onnx>=1.16' 'h5py>=3'"


def test_the_command_reports_a_missing_package_in_one_line(monkeypatch, tmp_path):
    picture = tmp_path / "picture.png"
    picture.touch()

    def fail(*_: object) -> int:
        raise MissingExtraError("Seeing needs a package.")

    monkeypatch.setattr(sys.modules["capgpu.cli.caption"], "_caption_files", fail)
    result = CliRunner().invoke(main, ["caption", "--run", str(tmp_path), "--backend", "numpy", str(picture)])
    assert (result.exit_code, result.stderr) == (2, "capgpu: error: Seeing needs a package.\n")


def test_every_extra_named_in_a_message_installs_the_missing_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = [
        [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args[:2]]
        for file in Path(capgpu.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require"
    ]
    assert asked
    for module, extra in asked:
        # a module in a variable is one of several of the same extra
        packages = [re.split("[<>=]", entry)[0].replace("-", "_") for entry in extras[extra]]
        assert module is None or module.split(".")[0] in packages, (module, extra)
