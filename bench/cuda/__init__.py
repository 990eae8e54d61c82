"""The CUDA kernels on paper (compiled, counted) and on a device (timed)."""
