"""What a measure says, and how sure it is."""

import numpy as np
import pytest

from rfm.flatness import Flatness


def test_values_by_hand():
    samples = np.array([[1.0, 2.0, 4.0], [3.0, 6.0, 5.0]])
    found = Flatness(samples, np.array([1.0, 2.0, 0.5]), batch_size=2)
    assert found.perturbed == pytest.approx(21 / 6)
    assert found.reference == pytest.approx(3.5 / 3)
    assert found.value == pytest.approx(21 / 6 - 3.5 / 3)


def test_std_is_that_of_batch_means_over_draws():
    """Variances 4.5 of (1.5, 4.5) and 0.5 of (4, 5), pooled."""
    samples = np.array([[1.0, 2.0, 4.0], [3.0, 6.0, 5.0]])
    found = Flatness(samples, np.zeros(3), batch_size=2)
    assert found.std == pytest.approx(np.sqrt((4.5 + 0.5) / 2))


def test_one_draw_has_no_spread_over_draws():
    found = Flatness(np.arange(4.0)[None], np.zeros(4), batch_size=4)
    assert np.isnan(found.std)
    assert found.standard_error == pytest.approx(np.std(np.arange(4), ddof=1) / 2)


def test_the_worst_case_has_the_standard_error_over_examples():
    rng = np.random.default_rng(0)
    losses, reference = rng.normal(size=(1, 96)), rng.normal(size=96)
    found = Flatness(losses, reference, batch_size=32)
    batches = (losses[0] - reference).reshape(3, 32)
    expected = np.sqrt(np.mean(batches.var(1, ddof=1)) / 96)
    assert found.standard_error == pytest.approx(expected)


def test_what_cannot_be_estimated_is_not_a_number():
    assert np.isnan(Flatness(np.ones((1, 1)), np.ones(1), batch_size=1).standard_error)


def simulate(rng, draws: int, n: int, batch_size: int, of_draw: float, of_example: float):
    """A two-way layout: draws shared within a batch, examples, interaction; true value 1."""
    batches = -(-n // batch_size)
    shared = np.repeat(rng.normal(size=(draws, batches)) * of_draw, batch_size, axis=1)[:, :n]
    examples = rng.normal(size=n) * of_example
    reference = 3 + rng.normal(size=n)  # what the examples have in common with their reference
    interaction = rng.normal(size=(draws, n)) * 0.3
    return Flatness(1 + reference + examples + shared + interaction, reference, batch_size)


@pytest.mark.parametrize(
    ("n", "batch_size", "of_draw", "of_example"),
    [(100, 100, 0.5, 1.0), (100, 32, 0.5, 1.0), (60, 20, 1.0, 0.2), (60, 20, 0.0, 1.0)],
)
def test_standard_error_is_that_of_repeated_measurements(n, batch_size, of_draw, of_example):
    rng = np.random.default_rng(0)
    found = [simulate(rng, 10, n, batch_size, of_draw, of_example) for _ in range(600)]
    values = np.array([f.value for f in found])
    errors = np.array([f.standard_error for f in found])
    np.testing.assert_allclose(np.sqrt((errors**2).mean()), values.std(ddof=1), rtol=0.12)
    covered = np.mean(np.abs(values - 1) <= 1.96 * errors)
    assert 0.88 < covered < 0.985
