"""Preparation of a bare machine: the checkout's link, wheels without a registry, an environment of known settings."""

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


def put_in_place_of_link(link: Path, damage: str) -> None:
    if damage == "text":
        link.write_text("../kernels")
    elif damage == "empty folder":
        link.mkdir()
    elif damage == "dead link":
        link.symlink_to("nowhere")


@pytest.mark.parametrize("damage", ["missing", "text", "empty folder", "dead link"])
def test_a_damaged_link_is_restored(checkout, damage):
    link = checkout / "capgpu" / "kernels"
    put_in_place_of_link(link, damage)
    assert "made one" in machine_setup.link_kernels(checkout)
    assert link.is_symlink()
    assert (link / "__init__.py").exists()
    assert machine_setup.link_kernels(checkout) == ""


def test_a_copied_folder_in_place_of_the_link_is_accepted(checkout):
    copied_folder = checkout / "capgpu" / "kernels"
    copied_folder.mkdir()
    (copied_folder / "__init__.py").touch()
    assert machine_setup.link_kernels(checkout) == ""
    assert not copied_folder.is_symlink()


def test_a_folder_with_user_files_is_refused_and_not_deleted(checkout):
    (checkout / "capgpu" / "kernels").mkdir()
    user_file = checkout / "capgpu" / "kernels" / "notes.txt"
    user_file.write_text("mine")
    with pytest.raises(machine_setup.PreparationError, match=r"Run: ln -sfn \.\./kernels "):
        machine_setup.link_kernels(checkout)
    assert user_file.read_text() == "mine"


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
    environment = machine_setup.environment(tmp_path)
    code = "import brought_along, capgpu.kernels; print(brought_along.answer, capgpu.__file__)"
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["42", str(machine_setup.ROOT / "capgpu" / "__init__.py")]


def test_without_wheels_nothing_is_installed(tmp_path):
    assert machine_setup.install_wheels(tmp_path / "absent", tmp_path / "site").startswith("no wheels in ")
    assert not (tmp_path / "site").exists()


def test_an_invalid_wheel_raises_pips_error(tmp_path):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("no archive")
    with pytest.raises(machine_setup.PreparationError, match=r"--no-index(.|\n)*broken"):
        machine_setup.install_wheels(tmp_path, tmp_path / "site")


def test_the_environment_has_default_settings_and_its_own_caches(tmp_path):
    settings = {"CAPGPU_TENSOR_CORES": "1", "CUPY_TF32": "1", "CAPGPU_KERNELS": "reference", "CAPGPU_CUDA_GRAPHS": "1"}
    settings |= {"CUPY_CUDA_PER_THREAD_DEFAULT_STREAM": "1", "NVIDIA_TF32_OVERRIDE": "0"}
    base = {**settings, "PYTHONPATH": "/before", "X": "1"}
    environment = machine_setup.environment(tmp_path, Path("/checkout"), base)
    assert not set(settings) & set(environment)
    assert environment["PYTHONPATH"].split(os.pathsep) == ["/checkout", str(tmp_path / "site"), "/before"]
    assert environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"
    assert environment["CAPGPU_BACKEND"] == "cuda"
    assert environment["X"] == "1"
    assert all(
        environment[name].startswith(str(tmp_path)) for name in ("CUPY_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    )


def test_a_program_is_found_in_nvidias_python_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(machine_setup.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(machine_setup.sys, "path", [str(tmp_path)])
    assert machine_setup.program("compute-sanitizer") is None
    file = tmp_path / "nvidia" / "cu13" / "bin" / "compute-sanitizer"
    file.parent.mkdir(parents=True)
    file.touch()
    assert machine_setup.program("compute-sanitizer") == str(file)
