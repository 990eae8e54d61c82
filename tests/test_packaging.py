"""The wheel holds everything, and what it declares; the Makefile says what it can do."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import capgpu

ROOT = Path(__file__).resolve().parent.parent
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: Distributions whose module has another name.
MODULES = {"pillow": "PIL"}
#: What code may import without the package asking for it: PyPI has a CuPy for each CUDA, who asks for PyTorch's
#: tensors has PyTorch, and the command imports capgpu.serve where the packages of its extra are.
EXTRAS = {"cupy", "torch", "starlette", "uvicorn"}


#: The environment without folders where modules would be found that are not installed.
WITHOUT_PATHS = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
#: The wheel's kernels are compiled anew: half a minute, and on a machine with much else to do many times that.
pytestmark = pytest.mark.timeout(1200)


def call(*command: object, **options: object) -> str:
    done = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **{"env": WITHOUT_PATHS, **options},
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def package_files() -> Iterator[tuple[str, Path]]:
    """Name each file of the packages as the wheel should."""
    for folder, package in ((ROOT / "capgpu", "capgpu"), (ROOT / "kernels", "capgpu/kernels")):
        for file in folder.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{package}/{file.relative_to(folder).as_posix()}", file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy: building leaves files in its source tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("capgpu", "kernels", "licenses"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path_factory.mktemp("wheel")
    output = call(sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", folder, source)
    assert "deprecat" not in output.lower()
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        wheel_files = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert wheel_files == {name for name, _ in package_files()}
        for name, file in package_files():
            assert archive.read(name) == file.read_bytes(), name


def test_the_wheel_holds_all_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.split("/licenses/", 1)[1]: archive.read(name) for name in archive.namelist() if "/licenses/" in name
        }
    assert {"LICENSE", "NOTICE"} < set(texts)
    assert all(len(text) > 500 for text in texts.values())
    for licence in ("Apache-2.0", "Unicode-3.0"):
        assert any(licence in name for name in texts), licence


def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment, elsewhere = tmp_path / "env", tmp_path / "elsewhere"
    elsewhere.mkdir()
    call(sys.executable, "-m", "venv", "--without-pip", environment)
    python, capgpu = environment / "bin" / "python", environment / "bin" / "capgpu"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    # The dependencies are looked up where these tests found them. A path in a .pth file makes modules
    # importable but runs no .pth files of that path's own, such as that of an editable install.
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CAPGPU_"))}
    options: dict[str, object] = {"cwd": elsewhere, "env": clean}

    home = call(python, "-c", "import capgpu.kernels; print(capgpu.kernels.__file__)", **options)
    assert home.startswith(str(site))
    assert call(capgpu, "info", **options).startswith("backend ")
    tiny = ["--hidden", "16", "--wordvec", "16", "--batch-size", "512", "--epochs", "1"]
    call(capgpu, "train", "--data", "emoji", "--backend", "cpu", "--out", "run", *tiny, **options)
    assert "nearest training picture" in call(capgpu, "eval", "--run", "run", "--sheet", "sheet.png", **options)
    assert (elsewhere / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_every_import_is_a_declared_dependency() -> None:
    names = {re.split(r"[<>=\[; ]", entry, maxsplit=1)[0] for entry in METADATA["project"]["dependencies"]}
    declared = {MODULES.get(name, name.replace("-", "_")) for name in names}
    imported: dict[str, str] = {}
    for name, file in package_files():
        if file.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update({alias.name.split(".")[0]: name for alias in node.names})
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported[node.module.split(".")[0]] = name
    foreign = {
        module: name
        for module, name in imported.items()
        if module not in sys.stdlib_module_names and module not in {"capgpu", *EXTRAS}
    }
    assert {module: name for module, name in foreign.items() if module not in declared} == {}
    assert declared - set(foreign) == set()


def test_the_version_is_written_once_and_the_changelog_has_it() -> None:
    assert METADATA["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "capgpu.__version__"}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## (\S+)", changes, flags=re.M)
    assert latest is not None
    assert latest[1].rstrip(",") == capgpu.__version__


def test_make_lists_its_targets() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", text, flags=re.M)
    assert targets is not None
    for command in ("make", "make help"):
        listed = dict(
            re.findall(
                r"^make ([a-z-]+) +(\S.+)$",
                call(*command.split(), "-C", ROOT, "--no-print-directory"),
                flags=re.M,
            )
        )
        assert sorted(listed) == sorted(targets[1].split())
    for target in listed:
        call("make", "-C", ROOT, "--dry-run", target)


def test_what_ci_runs_is_a_valid_executable_script() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    call("bash", "-n", script)
