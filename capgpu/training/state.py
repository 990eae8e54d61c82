"""The state of a training run on disk: all that a later process needs to continue with the same bits.

One safetensors file holds the parameters, the optimizer's running state, the best parameters and the losses;
its metadata hold the counters, the seed and the settings. Minibatches and dropout masks are functions of the
seed and the counters, so there is no generator state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.backend import Array, asarray
from capgpu.checkpoint import CheckpointError, load_weights, save_weights
from capgpu.file_formats.json_text import JsonObject
from capgpu.new_folder import create_folder
from capgpu.optim.rules import RULES
from capgpu.visible_text import clipped, short

__all__ = ["REGULARIZATION", "STATE_FILE", "TrainingState", "check_fits", "load_state", "save_state"]

#: The file's name in a checkpoint folder.
STATE_FILE = "training.safetensors"

_FORMAT = "capgpu-training-1"
#: Attributes of the model that are settings of its training; states of earlier versions lack them.
REGULARIZATION = ("feature_dropout", "output_dropout", "layer_dropout", "label_smoothing")
#: These, and that which is no number.
_OF_MODELS = (*REGULARIZATION, "precision")
#: Settings that states of earlier versions lack, and the values they were trained with.
_DEFAULTS_OF_EARLIER_STATES: dict[str, Any] = {
    "group_by_length": False,
    "micro_batch_size": None,
    "param_config": {},
    "frozen": [],
    "self_critical": None,
    "best_by": "val_loss",
}


@dataclass
class TrainingState:
    """State from which a run continues.

    Attributes
    ----------
    step, epoch : int
        Updates and epochs done.
    seed : int
        Seed of minibatches and dropout.
    settings : dict
        Settings that must be the same for the run to be the same.
    params : dict of str to array
        The parameters.
    optimizer : dict
        The optimizer's ``state_dict()``.
    loss_history, val_loss_history : list of float
        Losses of all steps and epochs so far.
    metric_history : list
        What the metric returned after each epoch.
    reward_history : list of float
        Mean reward of each step of self-critical training.
    best_params : dict of str to array
        Parameters of the best epoch; empty where there is none yet.
    best_epoch : int or None
        That epoch; 0 for the start.
    stopped : bool
        Whether the run was ended on purpose before its planned end.
    start_scores : dict
        Scores of the model that self-critical training started from; empty before they are known.
    """

    step: int
    epoch: int
    seed: int
    settings: dict[str, Any]
    params: dict[str, Array]
    optimizer: dict[str, Any]
    loss_history: list[float] = field(default_factory=list)
    val_loss_history: list[float] = field(default_factory=list)
    metric_history: list[Any] = field(default_factory=list)
    reward_history: list[float] = field(default_factory=list)
    best_params: dict[str, Array] = field(default_factory=dict)
    best_epoch: int | None = None
    stopped: bool = False
    start_scores: dict[str, Any] = field(default_factory=dict)


def save_state(folder: str | os.PathLike[str], state: TrainingState) -> None:
    """Save a state into a folder, over the one that is there, all at once.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    state : TrainingState
        The state.

    Raises
    ------
    OSError
        As the system gives it; the state that was there before is unharmed.
    """
    arrays: dict[str, Array] = {
        "loss_history": np.array(state.loss_history, dtype=np.float64),
        "val_loss_history": np.array(state.val_loss_history, dtype=np.float64),
        "reward_history": np.array(state.reward_history, dtype=np.float64),
    }
    for group, values in (("params", state.params), ("best", state.best_params)):
        arrays.update({f"{group}/{name}": array for name, array in values.items()})
    configs: dict[str, dict[str, Any]] = {}
    slots: dict[str, list[str]] = {}
    for name, config in state.optimizer["configs"].items():
        slots[name] = [key for key in RULES[state.optimizer["rule"]].slots if key in config]
        arrays.update({f"optim/{key}/{name}": config[key] for key in slots[name]})
        configs[name] = {key: _number(value) for key, value in config.items() if key not in slots[name]}
    metadata = {
        "format": _FORMAT,
        "step": state.step,
        "epoch": state.epoch,
        "seed": state.seed,
        "settings": state.settings,
        "params": list(state.params),
        "best": list(state.best_params),
        "rule": state.optimizer["rule"],
        "configs": configs,
        "slots": slots,
        "metric_history": state.metric_history,
        "best_epoch": state.best_epoch,
        "stopped": state.stopped,
        "start_scores": state.start_scores,
    }
    target = Path(folder)
    create_folder(target)
    save_weights(target / STATE_FILE, arrays, metadata)


def _number(value: Any) -> int | float:
    return value if isinstance(value, int) else float(value)


def load_state(folder: str | os.PathLike[str]) -> TrainingState:
    """Load the state saved in a folder.

    Parameters
    ----------
    folder : path
        The folder given to `save_state`.

    Returns
    -------
    TrainingState
        With its arrays on the current backend.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or no training state.
    """
    path = Path(folder) / STATE_FILE
    arrays, stored = load_weights(path)
    if stored.get("format") != _FORMAT:
        raise CheckpointError(f"{path} holds no state of a training run.")
    described = JsonObject(stored, f"{path} is damaged: metadata", CheckpointError)

    def array(name: str, like: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        found = arrays.get(name)
        if found is None or (like is not None and found.shape != like.shape):
            shape = "" if like is None else f" of shape {like.shape}"
            got = "no such array" if found is None else f"shape {found.shape}"
            raise CheckpointError(f"{path} is damaged: expected {clipped(name)}{shape}, got {got}.")
        return found

    def losses(name: str) -> list[float]:
        found = array(name)
        if found.dtype != np.float64 or found.ndim != 1:
            raise CheckpointError(
                f"{path} is damaged: {name}: expected float64 in a row, got {found.dtype} of shape {found.shape}."
            )
        return [float(loss) for loss in found]

    params = {name: array(f"params/{name}") for name in described.texts("params")}
    rule, slots = described.text("rule"), described.object("slots")
    if rule not in RULES:
        raise described.wrong(f"one of {', '.join(RULES)}", rule, "rule")
    configs: dict[str, dict[str, Any]] = {}
    for name, config in described.object("configs").objects().items():
        if name not in params:
            raise described.wrong("the names of parameters", name, "configs")
        for key in config.value:
            config.number(key)
        configs[name] = dict(config.value)
        for slot in slots.texts(name):
            if slot not in RULES[rule].slots:
                raise described.wrong(f"the state arrays of {rule}", slot, "slots")
            configs[name][slot] = asarray(array(f"optim/{slot}/{name}", params[name]))
    start = described.object("start_scores").value if "start_scores" in stored else {}
    if start.get("val_loss") is not None:
        described.object("start_scores").number("val_loss")
    best = {name: asarray(array(f"best/{name}", array(f"params/{name}"))) for name in described.texts("best")}
    return TrainingState(
        step=described.integer("step"),
        epoch=described.integer("epoch"),
        seed=described.integer("seed", -(2**63), 2**128),
        settings=_DEFAULTS_OF_EARLIER_STATES | described.object("settings").value,
        params={name: asarray(values) for name, values in params.items()},
        optimizer={"rule": rule, "configs": configs},
        loss_history=losses("loss_history"),
        val_loss_history=losses("val_loss_history"),
        metric_history=described.entries("metric_history"),
        reward_history=losses("reward_history") if "reward_history" in arrays else [],
        best_params=best,
        best_epoch=None if described.value.get("best_epoch") is None else described.integer("best_epoch"),
        stopped="stopped" in stored and described.flag("stopped"),
        start_scores=dict(start),
    )


def check_fits(state: TrainingState, settings: Mapping[str, Any], params: Mapping[str, Array], where: str) -> None:
    """Check that a state continues the run at hand.

    Parameters
    ----------
    state : TrainingState
        The state loaded.
    settings : mapping
        Settings of the run at hand.
    params : mapping of str to array
        Its parameters.
    where : str
        Where the state came from, for the message.

    Raises
    ------
    CheckpointError
        Naming what differs.
    """
    for key, value in settings.items():
        if key in _OF_MODELS and key not in state.settings:
            continue
        if state.settings.get(key) != value:
            raise CheckpointError(
                f"the state in {where} was trained with {key}={short(state.settings.get(key))}, this run has "
                f"{short(value)} and would not continue it. Use the same settings, or another checkpoint folder."
            )
    sizes = {name: (tuple(array.shape), str(array.dtype)) for name, array in params.items()}
    saved = {name: (tuple(array.shape), str(array.dtype)) for name, array in state.params.items()}
    if sizes != saved:
        name = min(name for name in sizes.keys() | saved.keys() if sizes.get(name) != saved.get(name))
        raise CheckpointError(
            f"the state in {where} belongs to another model: {clipped(name)} is {saved.get(name, 'missing')} there "
            f"and {sizes.get(name, 'missing')} here. Make the model as it was, or use another folder."
        )
