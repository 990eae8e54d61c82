"""Update rules: how a gradient changes a parameter.

Each rule is a function ``rule(w, dw, config=None) -> (next_w, config)`` in the manner of the cs231n
exercises. `config` holds the hyper-parameters and the rule's running state; missing entries are filled in,
and a dictionary passed in is the one returned, its entries replaced. Arrays are never written into: not `w`,
not `dw`, not the state in `config`.

The running state has the dtype of the parameter. For parameters in float16 and bfloat16 it is kept in float32, in which
the whole update is computed; the new parameter is rounded to its dtype. No master copy of the parameter is kept: a step
below half the spacing of the parameter's numbers is lost. At a weight of 0.1 that is 3e-5 in float16 and 2.4e-4 in
bfloat16, so that steps of Adam, about as large as the learning rate, need a rate well above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from capgpu.backend import Array
from capgpu.optim.rules import Config, apply_rule, find_rule

__all__ = [
    "UPDATE_RULES",
    "adam",
    "adamw",
    "rmsprop",
    "sgd",
    "sgd_momentum",
    "update_rule",
]

UpdateRule: TypeAlias = Callable[..., tuple[Array, Config]]


def sgd(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Step against the gradient: ``w - learning_rate * dw``.

    Parameters
    ----------
    w : array, any shape
        The parameter, floating.
    dw : array, shape and dtype of `w`
        The gradient of the loss with respect to it.
    config : dict, optional
        ``learning_rate`` (1e-2).

    Returns
    -------
    next_w : array, shape and dtype of `w`
        The updated parameter, a new array.
    config : dict
        The dictionary passed in (or a new one), completed.

    Raises
    ------
    TypeError
        For dtypes that differ or are not floating, arrays of different libraries, a config that is no dict.
    ValueError
        For shapes that differ, an unknown config entry, or a hyper-parameter out of range.
    """
    return apply_rule("sgd", w, dw, config)


def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Step along a decaying sum of past gradients: ``velocity = momentum * velocity - learning_rate * dw``.

    Parameters
    ----------
    w, dw : array
        As for `sgd`.
    config : dict, optional
        ``learning_rate`` (1e-2), ``momentum`` (0.9) and the state ``velocity`` (zeros).

    Returns
    -------
    next_w, config
        As for `sgd`; ``config["velocity"]`` is the new velocity.

    Raises
    ------
    TypeError, ValueError
        As for `sgd`.

    Notes
    -----
    B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """
    return apply_rule("sgd_momentum", w, dw, config)


def rmsprop(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Divide each gradient entry by a running average of its magnitude.

    Parameters
    ----------
    w, dw : array
        As for `sgd`.
    config : dict, optional
        ``learning_rate`` (1e-2), ``decay_rate`` (0.99), ``epsilon`` (1e-8) and the state ``cache`` (zeros),
        the running average of the squared gradient.

    Returns
    -------
    next_w, config
        As for `sgd`; ``config["cache"]`` is the new average.

    Raises
    ------
    TypeError, ValueError
        As for `sgd`.

    Notes
    -----
    T. Tieleman and G. Hinton, "Lecture 6.5: rmsprop", 2012.
    """
    return apply_rule("rmsprop", w, dw, config)


def adam(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Step along bias-corrected running averages of the gradient and of its square.

    Parameters
    ----------
    w, dw : array
        As for `sgd`.
    config : dict, optional
        ``learning_rate`` (1e-3), ``beta1`` (0.9), ``beta2`` (0.999), ``epsilon`` (1e-8) and the state ``m``,
        ``v`` (zeros) and ``t`` (0), which is raised by one before it is used.

    Returns
    -------
    next_w, config
        As for `sgd`; ``config`` holds the new ``m``, ``v`` and ``t``.

    Raises
    ------
    TypeError, ValueError
        As for `sgd`.

    Notes
    -----
    D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1.
    """
    return apply_rule("adam", w, dw, config)


def adamw(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Step as Adam does, and decay the parameter by ``learning_rate * weight_decay`` apart from the gradient.

    Parameters
    ----------
    w, dw : array
        As for `sgd`.
    config : dict, optional
        As for `adam`, and ``weight_decay`` (1e-2).

    Returns
    -------
    next_w, config
        As for `adam`.

    Raises
    ------
    TypeError, ValueError
        As for `sgd`.

    Notes
    -----
    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.
    """
    return apply_rule("adamw", w, dw, config)


#: The update rules by name.
UPDATE_RULES: dict[str, UpdateRule] = {
    "sgd": sgd,
    "sgd_momentum": sgd_momentum,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
}


def update_rule(name: str) -> UpdateRule:
    """Look an update rule up.

    Parameters
    ----------
    name : str
        One of `UPDATE_RULES`.

    Returns
    -------
    callable
        The rule's function.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.
    """
    find_rule(name)
    return UPDATE_RULES[name]
