"""One update rule applied to all parameters of a model, and the clipping of their gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from capgpu.backend import Array, array_namespace, asarray, is_host_array
from capgpu.dtypes import is_half
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.optim.rules import RULES, Config, check_config, check_pair, find_rule, run_rule
from capgpu.validation import check_positive
from capgpu.visible_text import hint, short

__all__ = ["Optimizer", "clip_gradients"]


def clip_gradients(grads: Mapping[str, Array], max_norm: float) -> tuple[dict[str, Array], Array]:
    """Scale all gradients by one factor so that their joint Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grads : mapping of str to array
        The gradients; not written into.
    max_norm : float
        The largest norm allowed, positive and finite.

    Returns
    -------
    clipped : dict of str to array
        The gradients times ``min(1, max_norm / norm)``; their bits are unchanged below the limit.
    norm : array without dimensions
        The norm before clipping, on the gradients' device: nothing waits for it. In float32 for half types.

    Raises
    ------
    ValueError
        For no gradients, or a `max_norm` that is not positive and finite.

    Notes
    -----
    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", 2013.
    """
    check_positive("max_norm", max_norm)
    if not grads:
        raise InvalidValueError("grads: expected at least one gradient, got none.")
    array_namespace(*grads.values())
    norm, scale = kernels_for(next(iter(grads.values()))).gradient_norm(list(grads.values()), max_norm)
    clipped = {name: gradient * scale for name, gradient in grads.items()}
    # the factor of half types, and with it the product, is float32
    return {name: a.astype(grads[name].dtype) if is_half(grads[name].dtype) else a for name, a in clipped.items()}, norm


class Optimizer:
    """One update rule applied to all parameters of a model.

    Parameters
    ----------
    rule : str
        One of `UPDATE_RULES`.
    config : dict, optional
        Hyper-parameters of the rule, the same for every parameter; copied.
    names : iterable of str
        Parameters to make a config for at once; others get theirs at their first update.
    param_config : mapping of str to dict, optional
        Hyper-parameters of single parameters, in place of those of `config`: ``{"W_embed": {"learning_rate": 1e-4}}``.
    frozen : sequence of str
        Parameters that `step` leaves as they are, and whose gradients do not count in the norm of `clip_norm`.

    Attributes
    ----------
    rule : str
        The rule's name.
    config : dict
        The hyper-parameters every parameter starts from.
    configs : dict of str to dict
        The config of each parameter: hyper-parameters and running state.

    Raises
    ------
    TypeError, ValueError
        For an unknown rule, an unknown entry or a value out of range in `config` or `param_config`, or parameters in
        `param_config` or `frozen` that are not in `names`, or all of them in `frozen`.

    Examples
    --------
    >>> from capgpu.optim import Optimizer
    >>> optimizer = Optimizer(
    ...     "adam", {"learning_rate": 1e-3}, ["W", "b"], param_config={"W": {"learning_rate": 1e-4}}, frozen=["b"]
    ... )
    >>> optimizer.configs["W"]["learning_rate"]
    0.0001
    >>> optimizer
    Optimizer('adam', {'learning_rate': 0.001}, param_config={'W': {'learning_rate': 0.0001}}, frozen=('b',))
    """

    def __init__(
        self,
        rule: str,
        config: Mapping[str, Any] | None = None,
        names: Iterable[str] = (),
        *,
        param_config: Mapping[str, Mapping[str, Any]] | None = None,
        frozen: Sequence[str] = (),
    ) -> None:
        definition = find_rule(rule)
        check_config(rule, {} if config is None else config)
        self.rule = rule
        self.config: Config = dict(definition.defaults) | dict(config or {})
        for key in self.config:
            if key not in definition.defaults:
                raise InvalidValueError(
                    f"{rule}: expected hyper-parameters, got {key}, the running state of a parameter. Set it in "
                    f"configs[name][{key!r}]."
                )
        names = tuple(names)
        param_config = {} if param_config is None else param_config
        if not isinstance(param_config, Mapping) or not all(isinstance(v, Mapping) for v in param_config.values()):
            raise InvalidTypeError(
                "param_config: expected a dict of dicts, such as {'W_embed': {'learning_rate': 1e-4}}, got "
                f"{short(param_config)}."
            )
        if isinstance(frozen, str) or not isinstance(frozen, Collection):
            raise InvalidTypeError(f"frozen: expected a list of names of parameters, got {short(frozen)}.")
        self.param_config = {name: dict(changes) for name, changes in param_config.items()}
        self.frozen = tuple(frozen)
        self._given = dict(config or {})
        self._check_names(names)
        self.configs: dict[str, Config] = {name: self._initial_config(name) for name in names}

    def _check_names(self, names: tuple[str, ...]) -> None:
        """Check the settings of single parameters."""
        for argument, given in (("param_config", self.param_config), ("frozen", self.frozen)):
            for name in given:
                if name not in names:
                    raise InvalidValueError(
                        f"{argument}: expected parameters of {', '.join(names)}, got {short(name)}.{hint(name, names)}"
                    )
        if names and set(self.frozen) >= set(names):
            raise InvalidValueError("frozen: expected some parameters to train, got all of them.")
        for name, changes in self.param_config.items():
            check_config(self.rule, changes)
            state = sorted(changes.keys() - RULES[self.rule].defaults.keys())
            if state:
                raise InvalidValueError(f"param_config[{name!r}]: expected hyper-parameters, got the state {state[0]}.")

    def _initial_config(self, name: str) -> Config:
        return self.config | self.param_config.get(name, {})

    def __repr__(self) -> str:
        special = "".join(
            f", {name}={value!r}"
            for name, value in (("param_config", self.param_config), ("frozen", self.frozen))
            if value
        )
        return f"Optimizer({self.rule!r}, {self._given!r}{special})"

    def step(
        self,
        params: MutableMapping[str, Array],
        grads: Mapping[str, Array],
        learning_rate_scale: float = 1.0,
        clip_norm: float | None = None,
    ) -> Array | None:
        """Update every parameter that is not frozen: the entries of `params` are replaced, all of them or none.

        Parameters
        ----------
        params : dict of str to array
            The parameters.
        grads : mapping of str to array
            A gradient for each of them, of the same shape and dtype.
        learning_rate_scale : float
            Multiplies the learning rate of every config (a schedule's factor).
        clip_norm : float, optional
            Clip the gradients to this joint norm first, see `clip_gradients`.

        Returns
        -------
        array without dimensions or None
            The norm of the gradients before clipping; None without `clip_norm`.

        Raises
        ------
        ValueError
            For a missing gradient or another shape.
        TypeError
            For another dtype, or arrays of different libraries.
        """
        names = [name for name in params if name not in self.frozen]
        ws, dws, configs, rates = [], [], [], []
        for name in names:
            w = params[name]
            dw = grads.get(name)
            if dw is None:
                raise InvalidValueError(f"grads: expected a gradient of every parameter, got none of {name!r}.")
            if dw.shape != w.shape or dw.dtype != w.dtype:
                check_pair(self.rule, w, dw, f"params[{name!r}]", f"grads[{name!r}]")
            config = self.configs.get(name)
            if config is None:
                config = self.configs[name] = self._initial_config(name)
            ws.append(w)
            dws.append(dw)
            configs.append(config)
            rates.append(float(config["learning_rate"]) * learning_rate_scale)
        array_namespace(*ws, *dws)
        norm, scale = None, 1.0
        if clip_norm is not None:
            check_positive("clip_norm", clip_norm)
            norm, scale = kernels_for(ws[0]).gradient_norm(dws, clip_norm)
        updated, states = run_rule(self.rule, ws, dws, configs, rates, scale)
        for config, state in zip(configs, states, strict=True):
            config.update(state)
        params.update(zip(names, updated, strict=True))
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to continue with the same bits.

        Returns
        -------
        dict
            ``rule`` and ``configs``; the arrays in it are the optimizer's own, not copies.
        """
        return {"rule": self.rule, "configs": {name: dict(config) for name, config in self.configs.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of another optimizer of the same rule.

        Parameters
        ----------
        state : dict
            What `state_dict` returned. Its arrays are copied, host arrays to the current backend.

        Raises
        ------
        ValueError
            For the state of another rule, or values that are none of this rule's.
        """
        if state["rule"] != self.rule:
            raise InvalidValueError(
                f"state: expected one of the update rule {self.rule!r}, got {state['rule']!r}. Make the optimizer with "
                "the same rule."
            )
        slots = RULES[self.rule].slots
        configs: dict[str, Config] = {}
        for name, config in state["configs"].items():
            check_config(self.rule, config)
            state_arrays = {slot: config[slot] for slot in slots if slot in config}
            configs[name] = {**config, **{slot: _moved_copy(array) for slot, array in state_arrays.items()}}
        self.configs = configs


def _moved_copy(array: Array) -> Array:
    moved = asarray(array) if is_host_array(array) else array
    return array_namespace(moved).asarray(moved, copy=True)
