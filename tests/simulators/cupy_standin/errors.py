"""The errors of the CUDA runtime and the one check that raises them for an unusable device."""

from __future__ import annotations

from .state import STATE

INVALID_VALUE = 1
INSUFFICIENT_DRIVER = 35
NO_DEVICE = 100
INVALID_DEVICE = 101
ILLEGAL_STATE = 401
ILLEGAL_ADDRESS = 700
CAPTURE_UNSUPPORTED = 900

_EXPLANATIONS = {
    INVALID_VALUE: ("cudaErrorInvalidValue", "invalid argument"),
    INSUFFICIENT_DRIVER: (
        "cudaErrorInsufficientDriver",
        "CUDA driver version is insufficient for CUDA runtime version",
    ),
    NO_DEVICE: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    ILLEGAL_STATE: ("cudaErrorIllegalState", "the operation cannot be performed in the present state"),
    ILLEGAL_ADDRESS: ("cudaErrorIllegalAddress", "an illegal memory access was encountered"),
    CAPTURE_UNSUPPORTED: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    INVALID_DEVICE: ("cudaErrorInvalidDevice", "invalid device ordinal"),
}


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime; the message is its name and its explanation."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__("{}: {}".format(*_EXPLANATIONS[status]))


CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"


def ensure_usable() -> None:
    """Raise what the simulated machine raises whenever its device is touched."""
    if STATE.failure is not None:
        raise CUDARuntimeError(STATE.failure)
