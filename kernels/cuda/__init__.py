"""The device's fused kernels, in CUDA C++, compiled at run time by NVRTC: one ``.cu`` file and one launcher each.

Arrays arrive as CuPy arrays of float32 or float64; launchers lay them out contiguously where they are not. An
operation that is not named here is the reference's.
"""

from dataclasses import replace

from capgpu.kernels.reference import KERNELS as REFERENCE

__all__ = ["KERNELS"]

KERNELS = replace(REFERENCE, name="cuda")
