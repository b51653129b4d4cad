"""Bootstrap intervals, against theory and repeated measurements."""

import numpy as np
import pytest

from rfm.flatness import Flatness, difference, interval
from rfm.flatness.uncertainty import mean_difference


def measured(rng, *, draws=10, n=200, batch_size=50, shift=0.0, of_example=None):
    """A measure whose true value is 1 + shift: effects of draws, of examples, and noise."""
    batches = n // batch_size
    of_draw = 0.3 * rng.normal(size=(draws, batches)).repeat(batch_size, axis=1)
    if of_example is None:
        of_example = rng.normal(size=n)
    samples = 1 + shift + of_draw + of_example + 0.2 * rng.normal(size=(draws, n))
    return Flatness(samples, np.zeros(n), batch_size)


def test_the_middle_is_the_value_and_the_width_fits_the_standard_error():
    found = measured(np.random.default_rng(0))
    got = interval(found)
    assert got.value == found.value
    assert got.low < got.value < got.high
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * found.standard_error, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = [
        found.low <= 1 <= found.high
        for found in (interval(measured(rng), level=0.9, resamples=300) for _ in range(300))
    ]
    assert 0.86 < np.mean(hits) < 0.97


def test_the_worst_case_is_over_examples_alone():
    rng = np.random.default_rng(2)
    found = measured(rng, draws=1)
    got = interval(found)
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * found.standard_error, rel=0.1)


def test_on_the_same_examples_differences_are_far_more_certain():
    rng = np.random.default_rng(3)
    of_example = 3 * rng.normal(size=200)
    a, b = (measured(rng, shift=shift, of_example=of_example) for shift in (0.5, 0.0))
    paired = difference(a, b)
    assert paired.value == pytest.approx(a.value - b.value)
    assert paired.excludes_zero
    apart = np.hypot(a.standard_error, b.standard_error) * 1.96
    assert (paired.high - paired.low) / 2 < 0.7 * apart


def test_equal_models_are_told_apart_as_seldom_as_they_should_be():
    rng = np.random.default_rng(4)
    wrong = []
    for _ in range(200):
        of_example = rng.normal(size=100)
        a, b = (measured(rng, n=100, of_example=of_example) for _ in range(2))
        wrong.append(difference(a, b, resamples=300).excludes_zero)
    assert np.mean(wrong) < 0.1


def test_means_over_examples():
    rng = np.random.default_rng(5)
    a, b = rng.uniform(size=(2, 400)) < np.array([[0.6], [0.3]])
    found = mean_difference(a, b)
    assert found.value == pytest.approx(a.mean() - b.mean())
    expected = 1.96 * (a.astype(float) - b).std(ddof=1) / 20
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.1)


def test_the_same_seed_gives_the_same_interval():
    found = measured(np.random.default_rng(0))
    assert interval(found, seed=1) == interval(found, seed=1)
    assert interval(found, seed=1) != interval(found, seed=2)


def test_variances_are_those_of_draws_and_of_examples():
    rng = np.random.default_rng(6)
    found = measured(rng, n=2000, batch_size=500)
    from_draws, from_examples = found.variances
    assert from_draws == pytest.approx(0.3**2 / 10 / 4, rel=0.5)
    assert from_examples == pytest.approx(1 / 2000, rel=0.1)
    assert from_draws + from_examples == pytest.approx(found.standard_error**2)


def test_what_cannot_be_compared_is_told():
    rng = np.random.default_rng(7)
    with pytest.raises(ValueError, match="same examples in the same batches"):
        difference(measured(rng), measured(rng, n=100))
    with pytest.raises(ValueError, match="level in"):
        interval(measured(rng), level=1.5)


@pytest.mark.parametrize("draws", [2, 4])
def test_few_draws_shared_by_all_examples_are_not_too_narrow(draws):
    """The spread of the values has the variance it should, which a plain bootstrap shrinks."""
    rng = np.random.default_rng(8)
    effects = rng.normal(size=draws)
    found = Flatness(effects[:, None] + np.zeros((draws, 50)), np.zeros(50), 50)
    values = interval(found, level=0.6827, resamples=20_000)
    expected = effects.std(ddof=1) / np.sqrt(draws)
    if draws > 2:  # of two draws only three resamples differ: no quantiles to speak of
        assert (values.high - values.low) / 2 == pytest.approx(expected, rel=0.15)
    else:
        assert (values.high - values.low) / 2 >= expected * 0.99


def test_what_is_not_a_number_excludes_nothing():
    found = Flatness(np.full((2, 4), np.nan), np.zeros(4), 4)
    assert not interval(found).excludes_zero
