"""Classes that CuPy compiles to extension types, whose methods cannot be replaced."""

from __future__ import annotations

from typing import Any


class ExtensionType(type):
    """Metaclass of such classes: setting or deleting an attribute of the class raises, as Python does for them."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise TypeError(f"cannot set {name!r} attribute of immutable type '{cls.__module__}.{cls.__qualname__}'")

    def __delattr__(cls, name: str) -> None:
        raise TypeError(f"cannot delete {name!r} attribute of immutable type '{cls.__module__}.{cls.__qualname__}'")
