"""Prepare a bare machine for the stages: the checkout's link, packages from wheels, the environment and its caches."""

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
#: Modules of the pytest plugins that the tests use. Other installed plugins are not loaded: their warnings are errors.
PLUGINS = ("pytest_timeout", "xdist.plugin", "_hypothesis_pytestplugin")
#: Environment variables that change what is computed, or how; they are unset, so that a run uses the defaults.
_UNSET_VARIABLES = (
    *("CAPGPU_CUDA_GRAPHS", "CAPGPU_KERNELS", "CAPGPU_TENSOR_CORES", "CUPY_TF32", "NVIDIA_TF32_OVERRIDE"),
    *("CUPY_ACCELERATORS", "CUPY_CACHE_IN_MEMORY", "CUPY_COMPILE_WITH_PTX", "CUPY_CUDA_COMPILE_WITH_DEBUG"),
    "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM",  # the clocks of `times` count on the stream that PyTorch shares
)


class PreparationError(RuntimeError):
    """The machine cannot be prepared; the message says what to do."""


def default_scratch() -> Path:
    """Return the user's folder of caches, shared by all runs so that later ones need not compile again."""
    return Path(tempfile.gettempdir(), f"capgpu-gpu-run-{os.getuid()}")


def link_kernels(root: Path = ROOT) -> str:
    """Restore the symbolic link ``capgpu/kernels`` -> ``kernels`` if a file transfer has lost it.

    Parameters
    ----------
    root : Path
        The checkout.

    Returns
    -------
    str
        A line for the summary; empty if the link exists.

    Raises
    ------
    PreparationError
        If the link cannot be created.
    """
    link = root / "capgpu" / "kernels"
    if (link / "__init__.py").exists():
        return ""
    try:
        if link.is_dir() and not link.is_symlink():
            link.rmdir()  # raises unless the folder is empty
        else:
            link.unlink(missing_ok=True)  # a dangling link, or a text file that a transfer has put in its place
        link.symlink_to("../kernels", target_is_directory=True)
    except OSError as error:
        raise PreparationError(
            f"capgpu/kernels is no link to ../kernels and cannot be made one ({error}). Run: "
            f"ln -sfn ../kernels {link}; where links are not possible: cp -r {root / 'kernels'} {link}"
        ) from error
    return "capgpu/kernels was no link to ../kernels: made one"


def install_wheels(wheels: Path, site: Path) -> str:
    """Install the wheels of a folder into another folder, without a package registry.

    Parameters
    ----------
    wheels : Path
        Folder of ``*.whl`` files; may be missing.
    site : Path
        Target folder, which `environment` puts on PYTHONPATH.

    Returns
    -------
    str
        A line for the summary.

    Raises
    ------
    PreparationError
        If pip fails; with its error output.
    """
    files = sorted(str(file) for file in wheels.glob("*.whl"))
    if not files:
        return f"no wheels in {wheels}: packages are this interpreter's"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--upgrade", "--target", str(site), *files]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode:
        raise PreparationError(f"{' '.join(command)} failed:\n{pip.stderr.strip()}")
    return f"installed {', '.join(Path(file).name for file in files)}"


def environment(scratch: Path, root: Path = ROOT, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of every stage.

    Parameters
    ----------
    scratch : Path
        Folder of caches; ``site`` in it is where `install_wheels` installs.
    root : Path
        The checkout, which is put on PYTHONPATH.
    base : mapping, optional
        Environment to start from; by default this process's.

    Returns
    -------
    dict of str to str
        The complete environment.
    """
    variables = dict(os.environ if base is None else base)
    for name in _UNSET_VARIABLES:
        variables.pop(name, None)
    python_path = [str(root), str(scratch / "site"), *filter(None, [variables.get("PYTHONPATH", "")])]
    return variables | {
        "PYTHONPATH": os.pathsep.join(python_path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a stage aborted at its limit prints its traceback
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "CAPGPU_BACKEND": "cuda",
        "CUPY_CACHE_DIR": str(scratch / "kernels"),
        "XDG_CACHE_HOME": str(scratch / "xdg"),
        "NUMBA_CACHE_DIR": str(scratch / "numba"),
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "COLUMNS": "160",
    }


def plugins() -> list[str]:
    """Return the modules of `PLUGINS` that are installed."""
    return [name for name in PLUGINS if importlib.util.find_spec(name.partition(".")[0]) is not None]


def program(name: str) -> str | None:
    """Return the path of a CUDA toolkit program: from PATH, /usr/local/cuda or NVIDIA's Python packages."""
    path = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    if path is None:
        package_folders = sorted(
            Path(package_folder, "nvidia") for package_folder in sys.path if Path(package_folder, "nvidia").is_dir()
        )
        path = next(
            (
                str(file)
                for package_folder in package_folders
                for file in sorted(package_folder.glob(f"cu*/bin/{name}"))
            ),
            None,
        )
    return path
