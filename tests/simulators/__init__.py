"""Simulators of CUDA hardware and of CuPy, for tests on machines without a GPU; see README.md."""
