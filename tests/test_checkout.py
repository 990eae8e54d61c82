"""A checkout on the path works without being installed: no metadata, no finder, only the files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_on_pythonpath_needs_no_installation(tmp_path):
    program = (
        "import sys, importlib.metadata as metadata\n"
        "known = metadata.version\n"
        "def version(name):\n"
        "    if name == 'capgpu':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
        # without the installation's own finder, the folder on the path is all there is
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
        "import capgpu, capgpu.kernels, numpy as np\n"
        "from capgpu.layers import affine_forward\n"
        "from bench.peers import ours\n"
        "print(capgpu.__file__, capgpu.kernels.__file__, capgpu.__version__)\n"
        "assert ours.versions()['capgpu'] == capgpu.backend_info()['installed']['capgpu'] == capgpu.__version__\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CAPGPU_BACKEND": "numpy"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    package, kernels, *_ = done.stdout.split()
    assert Path(package) == ROOT / "capgpu" / "__init__.py"
    assert Path(kernels).resolve() == ROOT / "kernels" / "__init__.py"
