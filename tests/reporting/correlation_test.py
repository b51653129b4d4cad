"""Coefficients and their bootstrap intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rfm.reporting import correlation as module
from rfm.reporting.correlation import correlation, in_words


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30),
    st.floats(1e-3, 1e3),
)
def test_coefficients_are_those_of_scipy(pairs, scale):
    """Also with ties, which integers have."""
    x, y = (scale * np.array(values, float) for values in zip(*pairs, strict=True))
    found = correlation(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found.pearson == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-9)
        assert found.spearman == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-9)


def test_copies_are_the_same_as_repeated_runs():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 12)).astype(float)
    copies = rng.integers(0, 4, (5, 12))
    pearson = module._pearson(x, y, copies.astype(float))
    spearman = module._spearman(x, y, copies.astype(float))
    for times, r, rho in zip(copies, pearson, spearman, strict=True):
        of = np.repeat(x, times), np.repeat(y, times)
        assert r == pytest.approx(stats.pearsonr(*of)[0])
        assert rho == pytest.approx(stats.spearmanr(*of)[0])


def test_the_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = 0.8 * x + 0.6 * rng.normal(size=60)
    found = correlation(x, y)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b)[0], paired=True, vectorized=False,
        n_resamples=3000, method="percentile", rng=2,
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found.pearson_interval, theirs, atol=0.02)


@pytest.mark.parametrize(("n", "least"), [(8, 0.85), (20, 0.88), (50, 0.88)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch, n, least):
    monkeypatch.setattr(module, "RESAMPLES", 400)
    rng, truth, trials = np.random.default_rng(2), 0.7, 200
    covered = 0
    for _ in range(trials):
        x, noise = rng.normal(size=(2, n))
        low, high = correlation(x, truth * x + math.sqrt(1 - truth**2) * noise).pearson_interval
        covered += low <= truth <= high
    assert least < covered / trials < 0.99


def test_seeds_of_a_method_are_drawn_together():
    """Three equal seeds tell no more than one: the interval is that of one of each."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 20))
    one = correlation(x, y)
    three = correlation(np.tile(x, 3), np.tile(y, 3), [*range(20)] * 3)
    assert (three.runs, three.methods) == (60, 20)
    np.testing.assert_allclose(three.pearson_interval, one.pearson_interval)
    apart = correlation(np.tile(x, 3), np.tile(y, 3))
    assert np.diff(apart.pearson_interval) < 0.8 * np.diff(one.pearson_interval)


def test_a_method_counts_once_however_many_seeds_it_has():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 9))
    one = correlation(x, y)
    more = correlation([*x, *x[:4]], [*y, *y[:4]], [*range(9), *range(4)])
    assert (more.pearson, more.spearman) == pytest.approx((one.pearson, one.spearman))
    np.testing.assert_allclose(more.pearson_interval, one.pearson_interval)


def test_too_few_or_constant_values_have_none():
    assert correlation([1, 2], [1, 2]) is None
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    few = correlation([1, 2, 3, 4], [1, 2, 3, 5], ["at", "at", "trades", "trades"])
    assert few.spearman == pytest.approx(1)
    assert few.pearson_interval is None
    assert str(few) == "Pearson 0.98\nSpearman 1.00\n4 runs of 2 methods"


def test_the_same_values_have_the_same_interval():
    x, y = np.random.default_rng(4).normal(size=(2, 9))
    assert correlation(x, y) == correlation(x, y)
    assert "[\N{MINUS SIGN}" in str(correlation(x, y))


def test_zero_has_no_sign():
    assert in_words(-0.001, (-0.004, 0.002)) == "0.00 [0.00, 0.00]"
    assert in_words(-0.25, (-1.0, 0.5)) == "−0.25 [−1.00, 0.50]"
