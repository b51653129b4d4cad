"""Independent pieces of work, spread over devices."""

import jax
import numpy as np
import pytest

from rfm.flatness._pieces import results

TRACED = []


def weigh(power, weights, examples, draw):
    """A number per example, and a random number per draw."""
    TRACED.append(examples.shape)
    key, number = draw
    return examples**power @ weights + number, jax.random.uniform(key)


def pieces(count):
    rng, key = np.random.default_rng(0), jax.random.key(0)
    return [
        (rng.normal(size=(4, 3)), (jax.random.fold_in(key, i), np.int32(i))) for i in range(count)
    ]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_results_come_in_order(four_devices, compiled, count):
    weights = np.array([1.0, -2.0, 0.5])
    for mesh in (None, four_devices):
        found = list(results(weigh, 2, weights, pieces(count), mesh=mesh, compiled=compiled))
        assert len(found) == count
        for (mean, uniform), (examples, (key, number)) in zip(found, pieces(count), strict=True):
            np.testing.assert_allclose(mean, examples**2 @ weights + number, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(uniform, jax.random.uniform(key), rtol=1e-6)


def test_pieces_of_any_number_share_a_compilation(four_devices):
    TRACED.clear()
    for count in (4, 9):
        list(results(weigh, 3, np.ones(3), pieces(count), mesh=four_devices, compiled=True))
    assert TRACED == [(4, 3)]


def test_pieces_are_made_when_they_are_needed():
    made = []

    def one_after_the_other():
        for piece in pieces(5):
            made.append(piece)
            yield piece

    found = results(weigh, 2, np.ones(3), one_after_the_other(), mesh=None, compiled=True)
    next(found)
    assert len(made) == 1
