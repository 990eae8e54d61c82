"""The arithmetic of the update rules, and the checks of what is handed to them.

One table holds, for each rule, its arithmetic, its hyper-parameters with their defaults, and its running
state. `capgpu.optim` is the public face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from capgpu.backend import Array, array_namespace
from capgpu.dtypes import is_half, sum_dtype, widened
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.validation import as_float, check_same_dtype
from capgpu.visible_text import hint, short

__all__ = [
    "RULES",
    "Config",
    "Rule",
    "apply_rule",
    "check_config",
    "check_pair",
    "complete_configs",
    "find_rule",
    "run_rule",
]

Config: TypeAlias = dict[str, Any]
Update: TypeAlias = Callable[
    [list[Array], list[Array], list[Config], list[float], Any], tuple[list[Array], list[Config]]
]


# --- the arithmetic: all parameters at once -> (next parameters, changed entries of each config) ---------
# The running state handed in may be overwritten.


def _sgd(
    ws: list[Array], dws: list[Array], configs: list[Config], rates: list[float], scale: Any
) -> tuple[list[Array], list[Config]]:
    updated, _ = kernels_for(ws[0]).momentum_update(ws, dws, None, _momentum_rows(configs, rates), scale)
    return updated, [{} for _ in ws]


def _sgd_momentum(
    ws: list[Array], dws: list[Array], configs: list[Config], rates: list[float], scale: Any
) -> tuple[list[Array], list[Config]]:
    before = [config["velocity"] for config in configs]
    updated, velocities = kernels_for(ws[0]).momentum_update(ws, dws, before, _momentum_rows(configs, rates), scale)
    return updated, [{"velocity": velocity} for velocity in velocities or ()]


def _rmsprop(
    ws: list[Array], dws: list[Array], configs: list[Config], rates: list[float], scale: Any
) -> tuple[list[Array], list[Config]]:
    updated: list[Array] = []
    changed: list[Config] = []
    xp = array_namespace(*ws)
    for w, dw, config, rate in zip(ws, dws, configs, rates, strict=True):
        # hyper-parameters go through float(): a NumPy float64 scalar would promote float32 arrays
        decay, slope = float(config["decay_rate"]), widened(dw) * scale
        cache = decay * config["cache"] + (1.0 - decay) * slope * slope
        moved = widened(w) - rate * slope / (xp.sqrt(cache) + float(config["epsilon"]))
        # NumPy's operators turn arrays without dimensions into scalars
        moved = xp.asarray(moved)
        updated.append(xp.astype(moved, w.dtype) if is_half(w.dtype) else moved)
        changed.append({"cache": xp.asarray(cache)})
    return updated, changed


def _adam(
    ws: list[Array], dws: list[Array], configs: list[Config], rates: list[float], scale: Any
) -> tuple[list[Array], list[Config]]:
    settings = _adam_rows(configs, rates)
    first_moments, second_moments = [config["m"] for config in configs], [config["v"] for config in configs]
    ws, first_moments, second_moments = kernels_for(ws[0]).adam_update(
        ws, dws, first_moments, second_moments, settings, scale
    )
    counts = [config["t"] + 1 for config in configs]
    return ws, [{"m": m, "v": v, "t": t} for m, v, t in zip(first_moments, second_moments, counts, strict=True)]


def _adam_rows(configs: list[Config], rates: list[float]) -> Any:
    """Return `adam_update`'s settings."""
    rows: list[tuple[float, ...]] = []
    previous_settings: tuple[Any, ...] | None = None
    for config, rate in zip(configs, rates, strict=True):
        settings = (
            rate,
            config["beta1"],
            config["beta2"],
            config["t"],
            config["epsilon"],
            config.get("weight_decay", 0.0),
        )
        if settings != previous_settings:
            row, previous_settings = _adam_settings(*settings), settings
        rows.append(row)
    # most often one configuration serves all parameters
    identical = all(other_row is row for other_row in rows)
    return np.array([row]).repeat(len(rows), axis=0) if identical else np.array(rows)


def _momentum_rows(configs: list[Config], rates: list[float]) -> Any:
    """Return `momentum_update`'s settings."""
    return np.array([[rate, float(config.get("momentum", 0.0))] for rate, config in zip(rates, configs, strict=True)])


def _adam_settings(
    rate: float, beta1: Any, beta2: Any, steps: Any, epsilon: Any, weight_decay: Any
) -> tuple[float, ...]:
    """Return a row of `adam_update`'s settings for the step after `steps` ones."""
    beta1, beta2, t = float(beta1), float(beta2), steps + 1
    correction = 1.0 / math.sqrt(1.0 - beta2**t)
    decay = 1.0 - rate * float(weight_decay)
    return rate / (1.0 - beta1**t), beta1, 1.0 - beta1, beta2, 1.0 - beta2, correction, float(epsilon), decay


@dataclass(frozen=True)
class Rule:
    """One update rule.

    Attributes
    ----------
    update : callable
        ``(ws, dws, complete configs, rates, gradients' factor) -> (next ws, changed entries of each config)``.
        Parameters and gradients are not written into; the state arrays may be.
    defaults : mapping of str to float
        Hyper-parameters.
    slots : tuple of str
        State arrays, of the parameter's shape; in its dtype, or in float32 for a parameter of a half type.
    counter : bool
        Whether the state has a step counter ``t``.
    kernel : str
        The operation of the kernels that makes the update, ``"adam"`` or ``"momentum"``; empty for none.
    settings : callable, optional
        ``(complete configs, rates) -> settings`` of that operation.
    known : frozenset of str
        Every entry a config of this rule may have.
    """

    update: Update
    defaults: Mapping[str, float]
    slots: tuple[str, ...] = ()
    counter: bool = False
    kernel: str = ""
    settings: Callable[[list[Config], list[float]], Any] | None = None
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = {*self.defaults, *self.slots, *(("t",) if self.counter else ())}
        object.__setattr__(self, "known", frozenset(names))


_ADAM = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
RULES = {
    "sgd": Rule(_sgd, {"learning_rate": 1e-2}, kernel="momentum", settings=_momentum_rows),
    "sgd_momentum": Rule(
        _sgd_momentum,
        {"learning_rate": 1e-2, "momentum": 0.9},
        ("velocity",),
        kernel="momentum",
        settings=_momentum_rows,
    ),
    "rmsprop": Rule(_rmsprop, {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8}, ("cache",)),
    "adam": Rule(_adam, _ADAM, ("m", "v"), counter=True, kernel="adam", settings=_adam_rows),
    "adamw": Rule(_adam, {**_ADAM, "weight_decay": 1e-2}, ("m", "v"), counter=True, kernel="adam", settings=_adam_rows),
}


# --- checks -----------------------------------------------------------------------------------------------


def find_rule(name: str) -> Rule:
    """Look a rule up by its name, or raise ValueError listing the known ones."""
    try:
        return RULES[name]
    except (KeyError, TypeError):
        raise InvalidValueError(
            f"update rule: expected one of {', '.join(sorted(RULES))}, got {short(name)}.{hint(name, RULES)}"
        ) from None


def check_config(name: str, config: Mapping[str, Any]) -> None:
    """Check keys and values: a misspelt learning rate must not be ignored."""
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise InvalidTypeError(f"{name}: config: expected a dict such as {{'learning_rate': 1e-3}}, got {kind}.")
    known = RULES[name].known
    for key, value in config.items():
        if key not in known:
            names = ", ".join(sorted(known))
            raise InvalidValueError(
                f"{name}: expected config entries among {names}, got {short(key)}.{hint(key, known)}"
            )
        if key in RULES[name].slots:
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            raise InvalidTypeError(f"{name}: {key}: expected a number, got {short(value)}.")
        number, expected = as_float(value), ""
        if key in ("learning_rate", "epsilon"):
            expected = "" if math.isfinite(number) and number > 0 else "that is positive and finite"
        elif key == "t":
            expected = "" if number >= 0 and number.is_integer() else "of 0 or more, an integer"
        elif key == "weight_decay":
            expected = "" if math.isfinite(number) and number >= 0 else "that is finite, 0 or more"
        elif not 0 <= number < 1:
            expected = "in [0, 1)"
        if expected:
            raise InvalidValueError(f"{name}: {key}: expected a value {expected}, got {short(value)}.")


def check_pair(owner: str, w: Array, dw: Array, name: str = "w", dname: str = "dw") -> None:
    """Check that two arrays of an update have one shape and one dtype."""
    if tuple(w.shape) != tuple(dw.shape):
        raise InvalidValueError(f"{owner}: {dname}: expected shape {tuple(w.shape)}, as {name}, got {tuple(dw.shape)}.")
    if w.dtype != dw.dtype:
        raise InvalidTypeError(
            f"{owner}: {dname}: expected dtype {w.dtype}, as {name}, got {dw.dtype}. Convert one of them."
        )


def _complete(rule: Rule, xp: Any, w: Array, config: Config) -> None:
    """Fill in what a config lacks: defaults, and zeros for the running state."""
    for key, value in rule.defaults.items():
        config.setdefault(key, value)
    for slot in rule.slots:
        if slot not in config:
            config[slot] = xp.zeros_like(w, dtype=sum_dtype(w.dtype, xp))
    if rule.counter:
        config.setdefault("t", 0)


def run_rule(
    name: str, ws: list[Array], dws: list[Array], configs: list[Config], rates: list[float], scale: Any
) -> tuple[list[Array], list[Config]]:
    """Run a rule on checked arguments of one library and dtype; return parameters and configs' changed entries.

    The configs are completed; their state arrays may be overwritten.
    """
    rule = complete_configs(name, ws, configs)
    return rule.update(ws, dws, configs, rates, scale)


def complete_configs(name: str, ws: list[Array], configs: list[Config]) -> Rule:
    """Fill in what configs lack for a rule: defaults, and zeros for the running state; return the rule."""
    rule = RULES[name]
    for w, config in zip(ws, configs, strict=True):
        if not rule.known <= config.keys():
            _complete(rule, array_namespace(w), w, config)
    return rule


def apply_rule(name: str, w: Array, dw: Array, config: Config | None) -> tuple[Array, Config]:
    """Check the arguments of a public rule, run it, and leave the new state in the config."""
    if config is None:
        config = {}
    check_config(name, config)
    rule = RULES[name]
    state = {slot: config[slot] for slot in rule.slots if slot in config}
    xp = array_namespace(w=w, dw=dw, **state)
    check_pair(name, w, dw)
    check_same_dtype(xp, w=w)
    for slot, array in state.items():
        # the state of a half type is kept in float32
        check_pair(name, widened(w), array, "w", slot)
    rate = float(config.get("learning_rate", rule.defaults["learning_rate"]))
    # the caller's state arrays are not to be written into
    own = config | {slot: xp.asarray(array, copy=True) for slot, array in state.items()}
    (next_w,), (changed,) = run_rule(name, [w], [dw], [own], [rate], 1.0)
    config.update(own | changed)
    return next_w, config
