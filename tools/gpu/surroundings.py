"""What the stages need of a bare machine: the link of a checkout, packages that came as wheels, folders for caches."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PreparationError", "default_scratch", "environment", "install_wheels", "link_kernels", "plugins", "program"]

ROOT = Path(__file__).resolve().parents[2]
#: pytest plugins that the tests use, by module. Others that are installed stay out: a warning of theirs is an error.
PLUGINS = ("pytest_timeout", "xdist.plugin", "_hypothesis_pytestplugin")
#: Settings that change what is computed, or how: a run starts from the defaults.
_SETTINGS = (
    *("CAPGPU_CUDA_GRAPHS", "CAPGPU_KERNELS", "CAPGPU_TENSOR_CORES", "CUPY_TF32", "NVIDIA_TF32_OVERRIDE"),
    *("CUPY_ACCELERATORS", "CUPY_CACHE_IN_MEMORY", "CUPY_COMPILE_WITH_PTX", "CUPY_CUDA_COMPILE_WITH_DEBUG"),
    "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM",  # the clocks of `times` count on the stream that PyTorch shares
)


class PreparationError(RuntimeError):
    """The machine cannot be prepared; the message says what to do."""


def default_scratch() -> Path:
    """Return the folder of caches: the same for every run of a user, so that a second one need not compile again."""
    return Path(tempfile.gettempdir(), f"capgpu-gpu-run-{os.getuid()}")


def link_kernels(root: Path = ROOT) -> str:
    """Make ``capgpu/kernels`` lead to ``kernels``, where a transfer has not kept the link.

    Parameters
    ----------
    root : Path
        The checkout.

    Returns
    -------
    str
        What was done; empty where nothing was to do.

    Raises
    ------
    PreparationError
        Where the link cannot be made.
    """
    link = root / "capgpu" / "kernels"
    if (link / "__init__.py").exists():
        return ""
    try:
        if link.is_dir() and not link.is_symlink():
            link.rmdir()  # empty, or it is not what it seems, and an error
        else:
            link.unlink(missing_ok=True)  # a link to nowhere, or a text file in its place
        link.symlink_to("../kernels", target_is_directory=True)
    except OSError as error:
        raise PreparationError(
            f"capgpu/kernels is no link to ../kernels and cannot be made one ({error}). Run: "
            f"ln -sfn ../kernels {link}; where links are not possible: cp -r {root / 'kernels'} {link}"
        ) from error
    return "capgpu/kernels was no link to ../kernels: made one"


def install_wheels(wheels: Path, site: Path) -> str:
    """Install the wheels of a folder into another, without a registry.

    Parameters
    ----------
    wheels : Path
        Holds ``*.whl``; may be missing.
    site : Path
        Goes onto PYTHONPATH.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    PreparationError
        With pip's words.
    """
    files = sorted(str(file) for file in wheels.glob("*.whl"))
    if not files:
        return f"no wheels in {wheels}: packages are this interpreter's"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--upgrade", "--target", str(site), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PreparationError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return f"installed {', '.join(Path(file).name for file in files)}"


def environment(scratch: Path, root: Path = ROOT, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of every stage.

    Parameters
    ----------
    scratch : Path
        Folder of caches; ``site`` in it is where `install_wheels` installs.
    root : Path
        The checkout, which goes onto PYTHONPATH as it is.
    base : mapping, optional
        Environment to start from; by default this process's.

    Returns
    -------
    dict of str to str
        All of it.
    """
    found = dict(os.environ if base is None else base)
    for name in _SETTINGS:
        found.pop(name, None)
    path = [str(root), str(scratch / "site"), *filter(None, [found.get("PYTHONPATH", "")])]
    return found | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a stage killed at its limit prints where it was
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "CAPGPU_BACKEND": "cuda",
        "CUPY_CACHE_DIR": str(scratch / "kernels"),
        "XDG_CACHE_HOME": str(scratch / "xdg"),
        "NUMBA_CACHE_DIR": str(scratch / "numba"),
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "COLUMNS": "160",
    }


def plugins() -> list[str]:
    """Return the modules of those pytest plugins that are installed."""
    return [name for name in PLUGINS if importlib.util.find_spec(name.partition(".")[0]) is not None]


def program(name: str) -> str | None:
    """Return the path of a program of the CUDA toolkit: from PATH, the toolkit's usual folder, or a Python package."""
    found = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    if found is None:
        packaged = sorted(Path(folder, "nvidia") for folder in sys.path if Path(folder, "nvidia").is_dir())
        found = next((str(file) for folder in packaged for file in sorted(folder.glob(f"cu*/bin/{name}"))), None)
    return found
