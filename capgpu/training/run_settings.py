"""The settings of a training run: those stored in its folder, for resuming, and texts that stand for values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from capgpu.checkpoint import CheckpointError
from capgpu.errors import InvalidValueError
from capgpu.file_formats.json_text import JsonObject
from capgpu.layers.cells import CELLS
from capgpu.metrics.coco import METRIC_NAMES
from capgpu.metrics.rewards import REWARDS
from capgpu.optim import UPDATE_RULES
from capgpu.optim.schedules import SCHEDULES
from capgpu.training.run_folder import RunFolder
from capgpu.training.self_critical import Baseline
from capgpu.visible_text import short

__all__ = ["parse_reward", "resumed_settings", "stored_settings"]

#: Settings that runs of earlier versions lack, and the values they were trained with.
_DEFAULTS_OF_EARLIER_RUNS = {
    "tie_weights": False,
    "label_smoothing": 0.0,
    "group_by_length": False,
    "precision": "float32",
    "layers": 1,
    "layer_dropout": 0.0,
    "warmup": 0,
    "weight_decay": None,
    "clip_norm": None,
    "metric": None,
    "patience": None,
    "self_critical": False,
    "from_run": None,
    "samples": 5,
    "reward": "CIDEr",
    "baseline": "samples",
    "sharpen": 1.0,
}
#: Settings by their type; others are texts.
_COUNTS = ("hidden", "layers", "wordvec", "epochs", "batch_size", "samples")
_RATES = ("dropout", "layer_dropout", "label_smoothing")
_FLAGS = ("tie_weights", "group_by_length", "self_critical")
#: The values of settings with few.
_CHOICES = {
    "cell": tuple(CELLS),
    "update_rule": tuple(UPDATE_RULES),
    "schedule": tuple(SCHEDULES),
    "baseline": get_args(Baseline),
}


def resumed_settings(run: RunFolder, given: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of an unfinished run, and reject given settings that differ.

    Parameters
    ----------
    run : RunFolder
        The run to resume.
    given : mapping
        Settings that the user gave explicitly.
    known : tuple of str
        The names of all settings.

    Returns
    -------
    dict
        The stored settings.

    Raises
    ------
    CheckpointError
        If the run's configuration is missing or incomplete.
    ValueError
        If the run has finished, or a given setting differs from the stored one.
    """
    stored = stored_settings(run, known)
    if run.summary.exists():
        raise InvalidValueError(f"{run.path}: expected an unfinished run to resume, got a finished one.")
    for name, value in given.items():
        if value != stored[name]:
            option = f"--{name.replace('_', '-')}"
            raise InvalidValueError(
                f"{option}: expected {stored[name]}, with which the run in {run.path} was started, got {value}. A "
                f"resumed run keeps its settings: omit {option}."
            )
    return stored


def stored_settings(run: RunFolder, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings with which a run was started, and check the types of some.

    Parameters
    ----------
    run : RunFolder
        The run.
    names : tuple of str
        The names of those that are needed.

    Returns
    -------
    dict
        All settings.

    Raises
    ------
    CheckpointError
        If the run's configuration is missing, incomplete or damaged.
    """
    stored = {**_DEFAULTS_OF_EARLIER_RUNS, **run.settings()}
    missing = [name for name in names if name not in stored]
    if missing:
        raise CheckpointError(
            f"{run.config}: expected the settings {', '.join(missing)}, got none of them. Start over with --force."
        )
    _check_types(JsonObject(stored, f"{run.config} is damaged: settings", CheckpointError), names)
    return stored


def _check_types(settings: JsonObject, known: tuple[str, ...]) -> None:
    for name in known:
        if name in _COUNTS:
            settings.integer(name, 1)
        elif name in _RATES and not 0 <= settings.number(name) < 1:
            raise settings.wrong("a number from 0 to below 1", settings.value[name], name)
        elif name in ("learning_rate", "sharpen") and settings.number(name) <= 0:
            raise settings.wrong("a number above 0", settings.value[name], name)
        elif name in _FLAGS:
            settings.flag(name)
        elif name in ("seed", "warmup"):
            settings.integer(name)
        elif name == "patience" and settings.value[name] is not None:
            settings.integer(name, 1)
        elif name == "clip_norm" and settings.value[name] is not None and settings.number(name) <= 0:
            raise settings.wrong("a number above 0", settings.value[name], name)
        elif name == "weight_decay" and settings.value[name] is not None:
            if settings.number(name) < 0 or settings.value.get("update_rule") != "adamw":
                raise settings.wrong("none, or 0 or more with the update rule adamw", settings.value[name], name)
        elif name == "metric" and settings.value[name] not in (None, *METRIC_NAMES):
            raise settings.wrong(f"one of {', '.join(METRIC_NAMES)}", settings.value[name], name)
        elif name == "from_run" and settings.value[name] is None:
            continue
        elif name in ("data", "dtype", "precision", "from_run", "reward", *_CHOICES):
            text = settings.text(name)
            if name in _CHOICES and text not in _CHOICES[name]:
                raise settings.wrong(f"one of {', '.join(_CHOICES[name])}", text, name)


def parse_reward(text: str) -> dict[str, float]:
    """Parse the reward of self-critical training.

    Parameters
    ----------
    text : str
        A score, such as ``CIDEr``, or several with factors, such as ``CIDEr=1,BLEU-4=0.5``.

    Returns
    -------
    dict of str to float
        Factors by the names of scores, as `capgpu.training.self_critical.SelfCritical` takes them.

    Raises
    ------
    ValueError
        For another form, an unknown score, or one that is named twice.
    """
    reward: dict[str, float] = {}
    for part in text.split(","):
        name, _, factor = part.strip().partition("=")
        try:
            value = float(factor or 1.0)
        except ValueError:
            value = math.nan
        if name not in REWARDS or name in reward or not math.isfinite(value):
            raise InvalidValueError(
                f"--reward: expected some of {', '.join(REWARDS)}, each once, alone or with a factor as in "
                f"CIDEr=1,BLEU-4=0.5, got {short(text)}."
            )
        reward[name] = value
    return reward
