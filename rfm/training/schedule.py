"""Learning rates as functions of the step (Section G, "Learning Rate Schedules")."""

from collections.abc import Sequence

import optax


def multi_step(
    learning_rate: float, milestones: Sequence[int], factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """`learning_rate`, multiplied by `factor` after each milestone (in epochs)."""
    drops = {int(epoch) * steps_per_epoch: factor for epoch in milestones}
    return optax.piecewise_constant_schedule(learning_rate, drops)
