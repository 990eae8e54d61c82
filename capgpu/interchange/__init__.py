"""Conversion of captioners to and from PyTorch's state dictionaries, and export to ONNX."""

from capgpu.interchange.onnx_files import BEGIN_FILE, STEP_FILE, export_onnx
from capgpu.interchange.torch_state import (
    from_torch,
    load_torch_safetensors,
    save_torch_safetensors,
    to_torch,
    torch_arrays,
)

__all__ = [
    "BEGIN_FILE",
    "STEP_FILE",
    "export_onnx",
    "from_torch",
    "load_torch_safetensors",
    "save_torch_safetensors",
    "to_torch",
    "torch_arrays",
]
