"""Schedules: their published shapes, and that a factor depends on the step alone."""

from __future__ import annotations

import pytest

from capgpu.optim.schedules import SCHEDULES, constant, cosine, find_schedule, linear, step_decay, with_warmup


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (constant, [1.0, 1.0, 1.0, 1.0]),
        (linear, [1.0, 0.75, 0.5, 0.25]),
        (cosine, [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        (step_decay(0.1, 2), [1.0, 1.0, 0.1, 0.1]),
        (with_warmup(constant, 3), [1 / 3, 2 / 3, 1.0, 1.0]),
        (with_warmup(linear, 2), [0.5, 1.0, 1.0, 0.5]),
        (with_warmup(linear, 9), [1 / 9, 2 / 9, 3 / 9, 4 / 9]),
    ],
)
def test_factors_follow_the_definition(schedule: object, factors: list[float]) -> None:
    assert callable(schedule)
    assert [schedule(step, 4) for step in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("warmup", [0, 1, 7, 100])
def test_factors_are_never_negative_and_never_above_one(name: str, warmup: int) -> None:
    schedule = with_warmup(find_schedule(name), warmup)
    factors = [schedule(step, 50) for step in range(50)]
    assert min(factors) > 0
    assert max(factors) <= 1


def test_without_warmup_the_factor_is_the_schedules() -> None:
    assert with_warmup(cosine, 0) is cosine


def test_an_unknown_schedule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected one of constant, cosine, linear.* Did you mean 'cosine'\?"):
        find_schedule("cosin")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="warmup: expected at least 0, got -1"):
        with_warmup(linear, -1)
    with pytest.raises(TypeError, match=r"warmup: expected an integer, got 2\.5"):
        with_warmup(linear, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="factor: expected a positive finite number, got 0"):
        step_decay(0.0, 3)
    with pytest.raises(ValueError, match="every: expected at least 1, got 0"):
        step_decay(0.5, 0)
