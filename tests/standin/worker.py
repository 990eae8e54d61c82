"""A worker of the benchmarks whose GPU is the stand-in: ``python -m standin.worker MODULE MODE``."""

from __future__ import annotations

import bench.worker
from standin import cupy_standin

if __name__ == "__main__":
    with cupy_standin.installed():
        bench.worker.main()
