"""The methods of ``cupy.ndarray`` that compute, wrapped in the same way as functions."""

from __future__ import annotations

import numpy as np

from . import adapters
from .array import ndarray
from .calls import wrapped

METHODS = {
    "all": "self axis out keepdims",
    "any": "self axis out keepdims",
    "argmax": "self axis out dtype keepdims",
    "argmin": "self axis out dtype keepdims",
    "argpartition": "self kth axis",
    "argsort": "self axis kind",
    "byteswap": "self inplace",
    "choose": "self choices out mode",
    "clip": "self min max out",
    "compress": "self condition axis out",
    "conj": "self",
    "conjugate": "self",
    "cumprod": "self axis dtype out",
    "cumsum": "self axis dtype out",
    "diagonal": "self offset axis1 axis2",
    "dot": "self b out",
    "max": "self axis out keepdims",
    "mean": "self axis dtype out keepdims",
    "min": "self axis out keepdims",
    "nonzero": "self",
    "partition": "self kth axis",
    "prod": "self axis dtype out keepdims",
    "ptp": "self axis out keepdims",
    "put": "self indices values mode",
    "repeat": "self repeats axis",
    "round": "self decimals out",
    "searchsorted": "self v side sorter",
    "sort": "self axis kind",
    "std": "self axis dtype out ddof keepdims",
    "sum": "self axis dtype out keepdims",
    "take": "self indices axis out",
    "trace": "self offset axis1 axis2 dtype out",
    "var": "self axis dtype out ddof keepdims",
}


def attach_methods() -> None:
    """Give `ndarray` its methods."""
    for name, parameters in METHODS.items():
        function = adapters.METHODS.get(name) or getattr(np.ndarray, name)
        setattr(ndarray, name, wrapped(name, parameters, function))
