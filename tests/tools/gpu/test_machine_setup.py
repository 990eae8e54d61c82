"""A bare machine is prepared: the link of the checkout, wheels without a registry, an environment of known settings."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.gpu import machine_setup


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "kernels").mkdir(parents=True)
    (root / "capgpu").mkdir()
    (root / "kernels" / "__init__.py").touch()
    return root


def spoilt(link: Path, how: str) -> None:
    if how == "text":
        link.write_text("../kernels")
    elif how == "empty folder":
        link.mkdir()
    elif how == "dead link":
        link.symlink_to("nowhere")


@pytest.mark.parametrize("how", ["missing", "text", "empty folder", "dead link"])
def test_a_link_that_did_not_survive_is_made_again(checkout, how):
    link = checkout / "capgpu" / "kernels"
    spoilt(link, how)
    assert "made one" in machine_setup.link_kernels(checkout)
    assert link.is_symlink()
    assert (link / "__init__.py").exists()
    assert machine_setup.link_kernels(checkout) == ""


def test_a_copied_folder_serves_as_well(checkout):
    copied = checkout / "capgpu" / "kernels"
    copied.mkdir()
    (copied / "__init__.py").touch()
    assert machine_setup.link_kernels(checkout) == ""
    assert not copied.is_symlink()


def test_what_is_not_the_links_place_is_left_alone_and_the_remedy_told(checkout):
    (checkout / "capgpu" / "kernels").mkdir()
    kept = checkout / "capgpu" / "kernels" / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(machine_setup.PreparationError, match=r"Run: ln -sfn \.\./kernels "):
        machine_setup.link_kernels(checkout)
    assert kept.read_text() == "mine"


def wheel(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", text)
        file.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}-1.0.dist-info/RECORD", "")


def test_wheels_are_installed_without_a_registry_and_can_be_imported(tmp_path):
    wheel(tmp_path / "wheels", "brought_along", "answer = 42\n")
    assert "brought_along-1.0" in machine_setup.install_wheels(tmp_path / "wheels", tmp_path / "site")
    found = machine_setup.environment(tmp_path)
    code = "import brought_along, capgpu.kernels; print(brought_along.answer, capgpu.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=found, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["42", str(machine_setup.ROOT / "capgpu" / "__init__.py")]


def test_a_machine_that_has_all_packages_needs_no_wheels(tmp_path):
    assert machine_setup.install_wheels(tmp_path / "absent", tmp_path / "site").startswith("no wheels in ")
    assert not (tmp_path / "site").exists()


def test_a_wheel_that_is_none_is_told_with_pips_words(tmp_path):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("no archive")
    with pytest.raises(machine_setup.PreparationError, match=r"--no-index(.|\n)*broken"):
        machine_setup.install_wheels(tmp_path, tmp_path / "site")


def test_a_run_starts_from_the_default_settings_with_its_own_caches(tmp_path):
    settings = {"CAPGPU_TENSOR_CORES": "1", "CUPY_TF32": "1", "CAPGPU_KERNELS": "reference", "CAPGPU_CUDA_GRAPHS": "1"}
    settings |= {"CUPY_CUDA_PER_THREAD_DEFAULT_STREAM": "1", "NVIDIA_TF32_OVERRIDE": "0"}
    base = {**settings, "PYTHONPATH": "/before", "X": "1"}
    found = machine_setup.environment(tmp_path, Path("/checkout"), base)
    assert not set(settings) & set(found)
    assert found["PYTHONPATH"].split(os.pathsep) == ["/checkout", str(tmp_path / "site"), "/before"]
    assert found["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"
    assert found["CAPGPU_BACKEND"] == "cuda"
    assert found["X"] == "1"
    assert all(
        found[name].startswith(str(tmp_path)) for name in ("CUPY_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    )


def test_a_program_is_found_in_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(machine_setup.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(machine_setup.sys, "path", [str(tmp_path)])
    assert machine_setup.program("compute-sanitizer") is None
    file = tmp_path / "nvidia" / "cu13" / "bin" / "compute-sanitizer"
    file.parent.mkdir(parents=True)
    file.touch()
    assert machine_setup.program("compute-sanitizer") == str(file)
