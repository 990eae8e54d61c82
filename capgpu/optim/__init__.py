"""Optimization: update rules, an optimizer over all parameters, learning-rate schedules, gradient clipping."""

from capgpu.optim.functional import UPDATE_RULES, adam, adamw, rmsprop, sgd, sgd_momentum, update_rule
from capgpu.optim.optimizer import Optimizer, clip_gradients

__all__ = [
    "UPDATE_RULES",
    "Optimizer",
    "adam",
    "adamw",
    "clip_gradients",
    "rmsprop",
    "sgd",
    "sgd_momentum",
    "update_rule",
]
