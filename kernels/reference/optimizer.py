"""The oracle of the update rules over all parameters."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array, array_namespace
from capgpu.dtypes import widened

__all__ = ["adam_update", "gradient_norm", "momentum_update"]


def gradient_norm(grads: list[Array], max_norm: float) -> tuple[Array, Array]:
    """Compute the joint Euclidean norm of arrays, and the factor that limits it.

    Parameters
    ----------
    grads : list of array
        Arrays of any shapes, at least one.
    max_norm : float
        The largest norm allowed, positive and finite.

    Returns
    -------
    norm : array, shape ()
        ``sqrt(sum of all squares)``, in their dtype; in float32 for half types, since the squares would leave the range
        of float16.
    factor : array, shape ()
        ``min(1, max_norm / norm)``, in the norm's dtype: exactly 1 up to the limit, NaN for a norm that is NaN.
    """
    xp = array_namespace(*grads)
    total: Array = 0.0
    for gradient in map(widened, grads):
        total = total + xp.sum(gradient * gradient)
    norm = xp.sqrt(total)
    limit = xp.full_like(norm, max_norm)
    return norm, limit / xp.maximum(norm, limit)


def adam_update(
    params: list[Array], grads: list[Array], first: list[Array], second: list[Array], settings: Any, scale: Any
) -> tuple[list[Array], list[Array], list[Array]]:
    """Update all parameters by Adam (Kingma and Ba 2015), with decoupled weight decay (Loshchilov and Hutter 2019).

    Parameters
    ----------
    params, grads : list of array
        Parameters and their gradients, alike in shape; not written into.
    first, second : list of array
        Running means of the gradients and of their squares, in the parameters' dtype; in float32 for half types: in
        float16 a mean of squares below 6e-8 would vanish, in bfloat16 it would not move. A fused kernel may update them
        in place: hand in arrays of your own, and use those returned.
    settings : numpy.ndarray of float64, shape (P, 8)
        For each parameter: step size over ``1 - beta1**t``; beta1; 1 - beta1; beta2; 1 - beta2;
        ``1 / sqrt(1 - beta2**t)``; epsilon; factor of the parameter itself (1 without weight decay).
    scale : float or array, shape ()
        Factor of all gradients (clipping).

    Returns
    -------
    params, first, second : list of array
        ``m = beta1 m + (1 - beta1) s g; v = beta2 v + (1 - beta2) (s g)**2;
        w = decay w - step m / (sqrt(v) correction + epsilon)``.
    """
    xp = array_namespace(*params, *grads)
    out: tuple[list[Array], list[Array], list[Array]] = ([], [], [])
    for w, g, m, v, row in zip(params, grads, first, second, settings.tolist(), strict=True):
        step, beta1, rest1, beta2, rest2, correction, epsilon, decay = row
        scaled = widened(g) * scale
        m = beta1 * m + rest1 * scaled
        v = beta2 * v + rest2 * scaled * scaled
        moved = decay * widened(w) - step * m / (xp.sqrt(v) * correction + epsilon)
        for updated, array in zip(out, (_as_before(moved, w), m, v), strict=True):
            # NumPy's operators turn arrays without dimensions into scalars
            updated.append(xp.asarray(array))
    return out


def momentum_update(
    params: list[Array], grads: list[Array], velocities: list[Array] | None, settings: Any, scale: Any
) -> tuple[list[Array], list[Array] | None]:
    """Update all parameters by gradient descent, with momentum (Polyak 1964) or plain.

    Parameters
    ----------
    params, grads : list of array
        Parameters and their gradients, alike in shape; not written into.
    velocities : list of array, or None
        Running velocities, in the parameters' dtype, in float32 for half types; None for plain descent. A fused kernel
        may update them in place: use those returned.
    settings : numpy.ndarray of float64, shape (P, 2)
        For each parameter: learning rate, momentum.
    scale : float or array, shape ()
        Factor of all gradients (clipping).

    Returns
    -------
    params, velocities : list of array (velocities None where they came so)
        ``velocity = momentum velocity - rate s g; w = w + velocity``.
    """
    xp = array_namespace(*params, *grads)
    rates, momenta = settings.T.tolist()
    if velocities is None:
        steps = [-rate * (widened(g) * scale) for g, rate in zip(grads, rates, strict=True)]
    else:
        steps = [
            xp.asarray(momentum * velocity - rate * (widened(g) * scale))
            for velocity, g, rate, momentum in zip(velocities, grads, rates, momenta, strict=True)
        ]
    updated = [xp.asarray(_as_before(widened(w) + step, w)) for w, step in zip(params, steps, strict=True)]
    return updated, None if velocities is None else steps


def _as_before(array: Array, like: Array) -> Array:
    """Round the updated parameter to the dtype it had: half types are updated in float32."""
    return array if array.dtype == like.dtype else array_namespace(like).astype(array, like.dtype)
