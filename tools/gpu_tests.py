"""Run the tests on the CUDA device of this machine, then the kernels' once more under NVIDIA's checkers.

    python -m tools.gpu_tests [pytest's arguments]

Exit status: 0 all passed; 1 something failed; 2 there is no device to test on. compute-sanitizer comes with the CUDA
toolkit and in the package nvidia-cuda-sanitizer-api; where it is missing, that is said and its runs are left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
#: Bytes out of bounds; races in shared memory; barriers that not all threads reach. Each is many times slower than a
#: plain run, so they get the kernels' tests alone, without the ones that draw their examples.
CHECKERS = ("memcheck", "racecheck", "synccheck")
CHECKED = ("tests/kernels", "-k", "not any_batch")
_FOUND = 9


def device() -> str:
    """Return the name of the device.

    Raises
    ------
    BackendUnavailableError
        Saying what is missing.
    """
    from capgpu.backend import backend_info, set_backend

    set_backend("cuda")
    return str(backend_info()["device"])


def sanitizer() -> str | None:
    """Return the path of compute-sanitizer, from the toolkit or from its package; None where there is neither."""
    found = shutil.which("compute-sanitizer")
    if found is None:
        packaged = sorted(Path(folder, "nvidia") for folder in sys.path if Path(folder, "nvidia").is_dir())
        found = next((str(file) for folder in packaged for file in folder.glob("cu*/bin/compute-sanitizer")), None)
    return found


def _run(title: str, command: Sequence[str]) -> bool:
    print(f"\n=== {title}: {' '.join(command)}", flush=True)
    # the tests choose their backend themselves; what they start must not find another
    environment = {**os.environ, "CAPGPU_BACKEND": "cuda"}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code == 5:  # pytest collected nothing: on a device that is a failure, not a success
        print(f"{title}: no test ran", flush=True)
    return code == 0


def main(arguments: Sequence[str]) -> int:
    """Run everything; return the exit status."""
    from capgpu.backend import BackendUnavailableError

    try:
        name = device()
    except BackendUnavailableError as error:
        print(f"no device to test on. {error}", file=sys.stderr)
        return 2
    print(f"testing on {name}")
    pytest = (sys.executable, "-m", "pytest", "-m", "gpu")
    passed = [_run("tests", (*pytest, *arguments))]
    checker = sanitizer()
    if checker is None:
        print(
            "\ncompute-sanitizer is not here (it comes with the CUDA toolkit, or with pip install "
            "nvidia-cuda-sanitizer-api): its runs are left out"
        )
    else:
        for tool in CHECKERS:
            # pytest in the process that is watched: CuPy's own kernels are watched with ours
            watched = (checker, f"--tool={tool}", f"--error-exitcode={_FOUND}", *pytest, *CHECKED)
            passed.append(_run(tool, watched))
    print(f"\n{sum(passed)} of {len(passed)} runs passed on {name}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
