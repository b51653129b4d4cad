"""Flatness of a real network: adversarially trained here, on real images."""

import jax
import pytest

from rfm.attacks import PGD
from rfm.flatness import average_case, interval, reference, worst_case
from rfm.perturb import RelativeBall
from rfm.threat import linf

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY, LINF = jax.random.key(0), linf(8 / 255)


def test_the_worst_case_is_at_least_the_average_case_at_equal_radius(trained_network):
    model, ball = trained_network("pgd"), RelativeBall(0.05)
    strong = reference(*model, KEY, attack=PGD(LINF, 20, 0.007, restarts=5, chunk=32))
    average = average_case(
        *model, KEY, ball=ball, samples=5, attack=PGD(LINF, 10, 0.01), reference=strong
    )
    worst = worst_case(
        *model, KEY, ball=ball, threat=LINF, steps=20, restarts=2, weight_step_size=0.01,
        reference=strong,
    )  # fmt: skip
    assert worst.value > average.value
    assert worst.value > 0.1, "there is something to find"
    found = interval(worst)
    assert found.low < worst.value < found.high
