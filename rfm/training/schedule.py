"""Learning rates as functions of the step (Section G, "Learning Rate Schedules")."""

from collections.abc import Sequence
from typing import Any

import optax

Schedule = optax.Schedule


def multi_step(
    learning_rate: float, milestones: Sequence[int], factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """`learning_rate`, multiplied by `factor` after each milestone (in epochs)."""
    drops: dict[int, float] = {}
    for epoch in milestones:  # of two at the same epoch both count
        step = int(epoch) * steps_per_epoch
        drops[step] = drops.get(step, 1.0) * factor
    return optax.piecewise_constant_schedule(learning_rate, drops)


def cyclic(peak: float, cycle_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """A triangle from 0 up to `peak` in the middle of a cycle and back, again and again.

    The released experiments: peak 0.2, 30 epochs a cycle, so 15 up and 15 down.
    """
    half = cycle_epochs * steps_per_epoch / 2

    def schedule(step: Any) -> Any:
        return peak * (1 - abs(step % (2 * half) / half - 1))

    return schedule
