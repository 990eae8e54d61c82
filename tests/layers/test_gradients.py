"""Every hand-written backward pass against differences of its own forward pass, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.layer_cases import LAYERS, Sizes
from oracles.numbers import distance, numeric_gradient


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_backward_is_the_derivative_of_forward(backend, random, case):
    arguments = case.arguments(random, Sizes(N=2, T=3, D=3, H=4, V=5))
    backend_arguments = {name: backend.asarray(value) for name, value in arguments.items()}
    outputs, cache = case.forward(**backend_arguments)
    # a loss has nothing above it but itself
    upstream = [random.standard_normal(output.shape) if output.ndim else np.asarray(1.0) for output in outputs]
    gradients = case.backward(tuple(backend.asarray(u) for u in upstream), cache)
    names = case.floats(arguments)
    assert len(gradients) == len(names)
    for name, gradient in zip(names, gradients, strict=True):

        def forward(value, name=name):
            outputs, _ = case.forward(**{**backend_arguments, name: backend.asarray(value)})
            return np.array([np.sum(backend.to_numpy(o) * u) for o, u in zip(outputs, upstream, strict=True)])

        assert distance(backend.to_numpy(gradient), numeric_gradient(forward, arguments[name])) < 1e-6, name
