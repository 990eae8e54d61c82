"""The stage ``env`` reports what the machine lacks, and whether it has a device."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tools.gpu import machine
from tools.gpu.stages import NO_DEVICE


@pytest.fixture
def all_import(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    states = dict.fromkeys((*machine.REQUIRED, *machine.OPTIONAL), "ok")
    monkeypatch.setattr(machine, "imported", states.__getitem__)
    return states


def test_without_a_device_the_cause_is_printed(all_import, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert machine.main() == NO_DEVICE
    assert "no device to run on. backend 'cuda'" in capsys.readouterr().out


def test_a_machine_with_all_packages_and_a_device_passes(standin: Any, all_import, capsys):
    assert machine.main() == 0
    assert "device: Stand-in device" in capsys.readouterr().out


def test_a_missing_required_package_is_named_and_fails(standin: Any, all_import, capsys):
    all_import["array_api_strict"] = "missing: ModuleNotFoundError: No module named 'array_api_strict'"
    all_import["torch"] = "missing: no torch"  # optional: part of a stage is skipped
    all_import["numba"] = "warns: DeprecationWarning: old"
    assert machine.main() == 1
    out = capsys.readouterr().out
    assert "missing: array_api_strict. Bring them as wheels" in out
    assert "import numba: warns: DeprecationWarning: old" in out


def test_imports_distinguish_warnings_from_missing_modules(tmp_path, monkeypatch):
    (tmp_path / "warning_module.py").write_text("import warnings; warnings.warn('old ways', DeprecationWarning)")
    (tmp_path / "broken_module.py").write_text("raise OSError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert machine.imported("json") == "ok"
    assert machine.imported("warning_module") == "warns: DeprecationWarning: old ways"
    assert machine.imported("broken_module") == "missing: OSError: no such library"
