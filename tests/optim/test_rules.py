"""Update rules: the values the course publishes, PyTorch's trajectories, and what a call may not touch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import BackendCase

import capgpu
from capgpu.optim import (
    UPDATE_RULES,
    Optimizer,
    adam,
    adamw,
    clip_gradients,
    rmsprop,
    sgd,
    sgd_momentum,
    update_rule,
)
from oracles.snapshots import frozen

RULES = sorted(UPDATE_RULES)


def ramp(low: float, high: float) -> np.ndarray[Any, Any]:
    """Return the 4 x 5 inputs of the course's notebook on fully connected networks."""
    return np.linspace(low, high, num=20).reshape(4, 5)


MOMENTUM_NEXT_W = [
    [0.1406, 0.20738947, 0.27417895, 0.34096842, 0.40775789],
    [0.47454737, 0.54133684, 0.60812632, 0.67491579, 0.74170526],
    [0.80849474, 0.87528421, 0.94207368, 1.00886316, 1.07565263],
    [1.14244211, 1.20923158, 1.27602105, 1.34281053, 1.4096],
]
MOMENTUM_VELOCITY = [
    [0.5406, 0.55475789, 0.56891579, 0.58307368, 0.59723158],
    [0.61138947, 0.62554737, 0.63970526, 0.65386316, 0.66802105],
    [0.68217895, 0.69633684, 0.71049474, 0.72465263, 0.73881053],
    [0.75296842, 0.76712632, 0.78128421, 0.79544211, 0.8096],
]
RMSPROP_NEXT_W = [
    [-0.39223849, -0.34037513, -0.28849239, -0.23659121, -0.18467247],
    [-0.132737, -0.08078555, -0.02881884, 0.02316247, 0.07515774],
    [0.12716641, 0.17918792, 0.23122175, 0.28326742, 0.33532447],
    [0.38739248, 0.43947102, 0.49155973, 0.54365823, 0.59576619],
]
RMSPROP_CACHE = [
    [0.5976, 0.6126277, 0.6277108, 0.64284931, 0.65804321],
    [0.67329252, 0.68859723, 0.70395734, 0.71937285, 0.73484377],
    [0.75037008, 0.7659518, 0.78158892, 0.79728144, 0.81302936],
    [0.82883269, 0.84469141, 0.86060554, 0.87657507, 0.8926],
]
ADAM_NEXT_W = [
    [-0.40094747, -0.34836187, -0.29577703, -0.24319299, -0.19060977],
    [-0.1380274, -0.08544591, -0.03286534, 0.01971428, 0.0722929],
    [0.1248705, 0.17744702, 0.23002243, 0.28259667, 0.33516969],
    [0.38774145, 0.44031188, 0.49288093, 0.54544852, 0.59801459],
]
ADAM_M = [
    [0.48, 0.49947368, 0.51894737, 0.53842105, 0.55789474],
    [0.57736842, 0.59684211, 0.61631579, 0.63578947, 0.65526316],
    [0.67473684, 0.69421053, 0.71368421, 0.73315789, 0.75263158],
    [0.77210526, 0.79157895, 0.81105263, 0.83052632, 0.85],
]
ADAM_V = [
    [0.69966, 0.68908382, 0.67851319, 0.66794809, 0.65738853],
    [0.64683452, 0.63628604, 0.6257431, 0.61520571, 0.60467385],
    [0.59414753, 0.58362676, 0.57311152, 0.56260183, 0.55209767],
    [0.54159906, 0.53110598, 0.52061845, 0.51013645, 0.49966],
]


@pytest.mark.parametrize(
    ("rule", "config", "next_w", "state"),
    [
        (
            sgd_momentum,
            {"learning_rate": 1e-3, "velocity": ramp(0.6, 0.9)},
            MOMENTUM_NEXT_W,
            {"velocity": MOMENTUM_VELOCITY},
        ),
        (rmsprop, {"learning_rate": 1e-2, "cache": ramp(0.6, 0.9)}, RMSPROP_NEXT_W, {"cache": RMSPROP_CACHE}),
        (
            adam,
            {"learning_rate": 1e-2, "m": ramp(0.6, 0.9), "v": ramp(0.7, 0.5), "t": 5},
            ADAM_NEXT_W,
            {"m": ADAM_M, "v": ADAM_V},
        ),
    ],
)
def test_updates_equal_the_courses_published_values(
    backend: BackendCase, rule: Callable[..., Any], config: dict[str, Any], next_w: Any, state: dict[str, Any]
) -> None:
    config = {key: backend.asarray(value) if hasattr(value, "shape") else value for key, value in config.items()}
    actual, _ = rule(backend.asarray(ramp(-0.4, 0.6)), backend.asarray(ramp(-0.6, 0.4)), config=config)
    half_a_digit = 5.001e-9  # the tables are printed with eight decimals
    np.testing.assert_allclose(backend.to_numpy(actual), next_w, rtol=0, atol=half_a_digit)
    for key, value in state.items():  # read, as the notebooks do, from the dictionary passed in
        np.testing.assert_allclose(backend.to_numpy(config[key]), value, rtol=0, atol=half_a_digit)


def test_adam_increments_its_step_before_the_bias_correction() -> None:
    config = {"t": 5}
    adam(np.ones(2), np.ones(2), config)
    assert config["t"] == 6


def test_sgd_steps_against_the_gradient(backend: BackendCase) -> None:
    w, _ = sgd(backend.asarray(np.array([1.0, -2.0])), backend.asarray(np.array([0.5, 4.0])), {"learning_rate": 0.1})
    np.testing.assert_allclose(backend.to_numpy(w), [0.95, -2.4], rtol=1e-15)


def test_adamw_applies_weight_decay_outside_the_moments() -> None:
    w = np.array([2.0, -3.0])
    decayed, _ = adamw(w, np.zeros(2), {"learning_rate": 0.1, "weight_decay": 0.5})
    np.testing.assert_allclose(decayed, 0.95 * w, rtol=1e-15)
    same, _ = adamw(w, np.array([0.3, 0.1]), {"weight_decay": 0.0})
    np.testing.assert_array_equal(same, adam(w, np.array([0.3, 0.1]))[0])


@pytest.mark.parametrize(
    ("rule", "config", "torch_name", "torch_config"),
    [
        ("sgd_momentum", {"learning_rate": 0.02, "momentum": 0.8}, "SGD", {"lr": 0.02, "momentum": 0.8}),
        ("rmsprop", {"learning_rate": 0.03, "decay_rate": 0.9}, "RMSprop", {"lr": 0.03, "alpha": 0.9}),
        ("adam", {"learning_rate": 0.05, "beta1": 0.8}, "Adam", {"lr": 0.05, "betas": (0.8, 0.999)}),
        ("adamw", {"learning_rate": 0.05, "weight_decay": 0.1}, "AdamW", {"lr": 0.05, "weight_decay": 0.1}),
    ],
)
def test_several_updates_agree_with_pytorch(
    rule: str,
    config: dict[str, Any],
    torch_name: str,
    torch_config: dict[str, Any],
    random: np.random.Generator,
) -> None:
    torch = pytest.importorskip("torch")
    w = random.standard_normal((3, 4))
    torch_parameter = torch.nn.Parameter(torch.tensor(w))
    optimizer = getattr(torch.optim, torch_name)([torch_parameter], **torch_config)
    for _ in range(20):
        dw = random.standard_normal((3, 4))
        w, config = update_rule(rule)(w, dw, config)
        torch_parameter.grad = torch.tensor(dw)
        optimizer.step()
    np.testing.assert_allclose(w, torch_parameter.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_hyper_parameters_do_not_change_the_dtype(backend: BackendCase, rule: str, dtype: str) -> None:
    w, dw = backend.asarray(ramp(-0.4, 0.6), dtype=dtype), backend.asarray(ramp(-0.6, 0.4), dtype=dtype)
    config: dict[str, Any] = {"learning_rate": np.float64(1e-2)}
    for _ in range(2):
        w, config = update_rule(rule)(w, dw, config)
        arrays = [w, *(value for key, value in config.items() if key in ("velocity", "cache", "m", "v"))]
        assert [backend.to_numpy(array).dtype.name for array in arrays] == [dtype] * len(arrays)


@pytest.mark.parametrize("rule", RULES)
def test_arguments_are_not_changed(backend: BackendCase, rule: str) -> None:
    w, dw = backend.strided(ramp(-0.4, 0.6)), backend.strided(ramp(-0.6, 0.4))
    _, config = update_rule(rule)(w, dw)
    handed = dict(config)
    before = frozen([w, dw, handed])
    _, returned = update_rule(rule)(w, dw, config)
    assert frozen([w, dw, handed]) == before
    assert returned is config


@pytest.mark.parametrize("rule", RULES)
def test_a_zero_dimensional_array_stays_an_array(backend: BackendCase, rule: str) -> None:
    w, config = backend.asarray(np.array(2.0)), None
    for _ in range(2):
        w, config = update_rule(rule)(w, backend.asarray(np.array(0.5)), config)
    assert type(w) is type(backend.asarray(np.zeros(3)))
    assert w.shape == ()
    assert float(w) < 2.0


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"lerning_rate": 0.1}, ValueError, "learning_rate"),
        ({"learning_rate": 0.0}, ValueError, "positive"),
        ({"learning_rate": math.nan}, ValueError, "finite"),
        ({"learning_rate": "fast"}, TypeError, "number"),
        ({"beta1": 1.0}, ValueError, r"\[0, 1\)"),
        ({"epsilon": -1e-8}, ValueError, "epsilon"),
        ({"t": 1.5}, ValueError, "expected a value of 0 or more, an integer"),
        ({"t": math.inf}, ValueError, "expected a value of 0 or more, an integer"),
        ({"m": np.zeros(3)}, ValueError, "shape"),
        ({"v": np.zeros((4, 5), dtype=np.float32)}, TypeError, "float32"),
        ([("learning_rate", 0.1)], TypeError, "dict"),
    ],
)
def test_invalid_configs_are_refused_with_the_cause(config: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        adam(ramp(-0.4, 0.6), ramp(-0.6, 0.4), config)


@pytest.mark.parametrize("rule", RULES)
def test_a_gradient_of_another_shape_or_dtype_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=r"dw: expected shape \(4, 5\), as w, got \(5,\)"):
        update_rule(rule)(ramp(0, 1), np.ones(5))
    with pytest.raises(TypeError, match="dw: expected dtype float64, as w, got float32"):
        update_rule(rule)(ramp(0, 1), ramp(0, 1).astype(np.float32))
    with pytest.raises(TypeError, match="int64"):
        update_rule(rule)(np.ones(3, dtype=np.int64), np.ones(3, dtype=np.int64))
    with pytest.raises(TypeError, match="expected an array"):
        update_rule(rule)([1.0], np.ones(1))


def test_mixed_host_and_device_arrays_are_refused(cupy: Any) -> None:
    with pytest.raises(TypeError, match=r"to_numpy\(dw\)"):
        sgd(np.ones(3), cupy.ones(3))


@pytest.mark.parametrize("rule", RULES)
def test_an_update_never_waits_for_the_device(rule: str, standin: Any) -> None:
    capgpu.set_backend("cuda")
    params = {"a": capgpu.asarray(np.ones((4, 5))), "b": capgpu.asarray(np.ones(3))}
    grads = {name: 0.5 * array for name, array in params.items()}
    optimizer = Optimizer(rule)
    with standin.forbid_synchronisation():
        for _ in range(2):
            optimizer.step(params, grads, 0.5, clip_norm=0.1)


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"one of adam, adamw, rmsprop, sgd, sgd_momentum, got .*Did you mean 'adam'"):
        update_rule("adma")


# --- clipping ---------------------------------------------------------------------------------------------


def test_gradients_above_the_limit_are_scaled_to_it_and_keep_their_direction(backend: BackendCase) -> None:
    host = {"a": ramp(-3, 5), "b": np.array([7.0, -1.0])}
    clipped, norm = clip_gradients({name: backend.asarray(value) for name, value in host.items()}, 2.0)
    expected = math.sqrt(sum(float((value**2).sum()) for value in host.values()))
    assert float(norm) == pytest.approx(expected, rel=1e-12)
    for name, value in host.items():
        np.testing.assert_allclose(backend.to_numpy(clipped[name]), value * 2.0 / expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_below_the_limit_keep_their_bits(backend: BackendCase, dtype: str) -> None:
    grads = {
        "a": backend.asarray(ramp(-0.3, 0.5), dtype=dtype),
        "zero": backend.asarray(np.zeros(3), dtype=dtype),
    }
    clipped, _ = clip_gradients(grads, 100.0)
    assert frozen(clipped) == frozen(grads)


def test_clipping_needs_a_limit_and_gradients() -> None:
    with pytest.raises(ValueError, match="max_norm: expected a positive finite number, got 0"):
        clip_gradients({"a": np.ones(2)}, 0)
    with pytest.raises(ValueError, match="expected at least one gradient"):
        clip_gradients({}, 1.0)


# --- the optimizer over all parameters --------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_optimizer_applies_the_rule_to_each_parameter(backend: BackendCase, rule: str) -> None:
    params = {"a": backend.asarray(ramp(-0.4, 0.6)), "b": backend.asarray(np.ones(3))}
    alone, configs = dict(params), {"a": {"learning_rate": 0.02}, "b": {"learning_rate": 0.02}}
    optimizer = Optimizer(rule, {"learning_rate": 0.04})
    for step in range(3):
        grads = {"a": backend.asarray(ramp(-0.6, 0.4) * step), "b": backend.asarray(np.arange(3.0))}
        optimizer.step(params, grads, learning_rate_scale=0.5)
        for name in alone:
            alone[name], configs[name] = update_rule(rule)(alone[name], grads[name], configs[name])
    assert frozen(params) == frozen(alone)


def test_the_optimizer_clips_over_all_parameters_together() -> None:
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    norm = Optimizer("sgd", {"learning_rate": 1.0}).step(params, {"a": np.array([3.0]), "b": np.array([4.0])}, 1.0, 1.0)
    assert norm == pytest.approx(5.0)
    np.testing.assert_allclose([params["a"][0], params["b"][0]], [-0.6, -0.8], rtol=1e-12)


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        ({"a": np.ones(2)}, ValueError, "expected a gradient of every parameter, got none of 'b'"),
        ({"a": np.ones(2), "b": np.ones(4)}, ValueError, r"grads\['b'\]: expected shape \(3,\)"),
        ({"a": np.ones(2), "b": np.ones(3, dtype=np.float32)}, TypeError, "float32"),
    ],
)
def test_a_step_with_an_invalid_gradient_updates_no_parameter(grads: Any, error: type[Exception], message: str) -> None:
    params = {"a": np.ones(2), "b": np.ones(3)}
    optimizer = Optimizer("adam")
    with pytest.raises(error, match=message):
        optimizer.step(params, grads)
    assert frozen(params) == frozen({"a": np.ones(2), "b": np.ones(3)})
    assert optimizer.configs["a"].get("t", 0) == 0


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_state_continues_with_the_same_bits(backend: BackendCase, rule: str) -> None:
    grads = {"a": backend.asarray(ramp(-0.6, 0.4))}
    params = {"a": backend.asarray(ramp(-0.4, 0.6))}
    one, other = Optimizer(rule), Optimizer(rule)
    one.step(params, grads)
    other.load_state_dict(one.state_dict())
    continued = dict(params)
    one.step(params, grads)
    other.step(continued, grads)
    assert frozen(params) == frozen(continued)


def test_a_loaded_state_shares_no_memory_with_the_other_optimizer(backend: BackendCase) -> None:
    one, other = Optimizer("sgd_momentum"), Optimizer("sgd_momentum")
    one.step({"a": backend.asarray(np.ones(3))}, {"a": backend.asarray(np.ones(3))})
    other.load_state_dict(one.state_dict())
    before = frozen(other.configs)
    one.configs["a"]["velocity"][0] = 5.0
    assert frozen(other.configs) == before


def test_a_state_of_another_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="state: expected one of the update rule 'sgd', got 'adam'"):
        Optimizer("sgd").load_state_dict(Optimizer("adam").state_dict())


def test_the_state_of_one_parameter_is_refused_as_a_setting_for_all() -> None:
    with pytest.raises(ValueError, match="got velocity, the running state"):
        Optimizer("sgd_momentum", {"velocity": np.zeros(3)})
