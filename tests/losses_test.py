"""Losses against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm import losses

LOGITS = hnp.arrays(
    np.float32, (5, 4), elements=st.floats(-50, 50, width=32, allow_subnormal=False)
)
LABELS = hnp.arrays(np.int32, 5, elements=st.integers(0, 3))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@given(LOGITS, LABELS)
def test_cross_entropy(logits, labels):
    expected = -log_softmax(logits)[np.arange(5), labels]
    found = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(LOGITS, LABELS)
def test_margin(logits, labels):
    expected = [np.delete(z, y).max() - z[y] for z, y in zip(logits, labels, strict=True)]
    found = losses.margin(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@given(LOGITS, LOGITS)
def test_kl_divergence_of_the_second_from_the_first(reference, logits):
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(1)
    found = losses.kl_divergence(jnp.asarray(reference), jnp.asarray(logits))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_kl_divergence_is_zero_at_home_and_not_symmetric():
    near, far = jnp.array([[0.0, 1.0, 2.0]]), jnp.array([[5.0, 0.0, 0.0]])
    assert losses.kl_divergence(near, near)[0] == 0
    assert abs(losses.kl_divergence(near, far) - losses.kl_divergence(far, near))[0] > 0.1


def test_kl_divergence_as_a_loss_to_ascend_holds_the_reference():
    reference, logits = jax.random.normal(jax.random.key(0), (2, 5, 4))
    labels = jnp.arange(5) % 4
    found = losses.kl_divergence_from(logits, labels, reference)
    np.testing.assert_allclose(found, losses.kl_divergence(reference, logits), rtol=1e-6)
    of_reference = jax.grad(lambda r: losses.kl_divergence_from(logits, labels, r).sum())
    assert not of_reference(reference).any()


def test_huge_logits_stay_finite():
    logits, labels = jnp.array([[3e4, -3e4, 0.0], [-1e30, 0.0, 1e30]]), jnp.array([1, 0])
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), [6e4, 2e30], rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda z: losses.cross_entropy(z, labels).sum())(logits)).all()


@given(LOGITS, LABELS)
def test_positive_margin_means_misclassified(logits, labels):
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    margin, wrong = losses.margin(logits, labels), losses.is_misclassified(logits, labels)
    assert bool(jnp.where(margin > 0, wrong, True).all())
    assert bool(jnp.where(margin < 0, ~wrong, True).all())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_logits_that_are_not_numbers_are_misclassified(bad, position):
    logits = np.array([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]], np.float32)
    logits[1, position] = bad
    wrong = losses.is_misclassified(jnp.asarray(logits), jnp.array([0, 0]))
    assert wrong.dtype == bool
    np.testing.assert_array_equal(wrong, [False, True])


@pytest.mark.parametrize(
    "loss", [losses.cross_entropy, losses.margin, lambda z, y: losses.kl_divergence(z, z[::-1])]
)
def test_half_precision_logits_are_computed_in_float32(loss):
    logits = jax.random.normal(jax.random.key(0), (64, 10), jnp.bfloat16) * 5
    labels = jax.random.randint(jax.random.key(1), (64,), 0, 10)
    found = loss(logits, labels)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, loss(logits.astype(jnp.float32), labels))


def test_double_precision_stays(x64):
    logits = jax.random.normal(jax.random.key(0), (64, 10))
    labels = jax.random.randint(jax.random.key(1), (64,), 0, 10)
    found = losses.cross_entropy(logits, labels)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, -log_softmax(logits)[np.arange(64), labels], rtol=1e-13)


# Losses of AutoAttack


@given(LOGITS, LABELS)
def test_difference_of_logits_ratio(logits, labels):
    """Eq. (6) of Croce & Hein, one example after the other."""
    found = losses.difference_of_logits_ratio(jnp.array(logits), jnp.array(labels))
    for value, z, y in zip(found, logits.astype(np.float64), labels, strict=True):
        ordered = np.sort(z)[::-1]
        expected = -(z[y] - np.delete(z, y).max()) / (ordered[0] - ordered[2] + 1e-12)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@given(LOGITS, LABELS)
def test_targeted_difference_of_logits_ratio(logits, labels):
    """Eq. (7) of Croce & Hein, one example after the other."""
    targets = (labels + 1 + np.arange(5) % 3) % 4
    arguments = map(jnp.array, (logits, labels, targets))
    found = losses.targeted_difference_of_logits_ratio(*arguments)
    for value, z, y, t in zip(found, logits.astype(np.float64), labels, targets, strict=True):
        ordered = np.sort(z)[::-1]
        below = (ordered[2] + ordered[3]) / 2
        expected = (z[t] - z[y]) / (ordered[0] - below + 1e-12)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_ratios_know_no_scale_and_no_shift():
    logits, labels = jnp.array([[1.0, 3.0, -2.0, 0.5]]), jnp.array([0])
    for loss in (
        lambda z: losses.difference_of_logits_ratio(z, labels),
        lambda z: losses.targeted_difference_of_logits_ratio(z, labels, jnp.array([2])),
    ):
        np.testing.assert_allclose(loss(logits * 100 + 7), loss(logits), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_ratios_of_few_classes_are_finite_and_have_the_sign_of_the_margin(classes):
    logits, labels = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0]])[:, :classes], jnp.array([0, 0])
    dlr = losses.difference_of_logits_ratio(logits, labels)
    targeted = losses.targeted_difference_of_logits_ratio(logits, labels, jnp.array([1, 1]))
    for found in (dlr, targeted):
        assert found[0] < 0 < found[1]
        assert np.isfinite(found).all()


def test_equal_logits_have_a_finite_ratio_and_gradient():
    labels, targets = jnp.array([0]), jnp.array([1])
    for loss in (
        lambda z: losses.difference_of_logits_ratio(z, labels).sum(),
        lambda z: losses.targeted_difference_of_logits_ratio(z, labels, targets).sum(),
    ):
        value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 4)))
        assert value == 0
        assert np.isfinite(gradient).all()


def test_targeted_losses_by_hand():
    logits, labels, targets = jnp.array([[1.0, 3.0, 0.0]]), jnp.array([1]), jnp.array([2])
    assert losses.targeted_margin(logits, labels, targets)[0] == -3
    expected = np.log(1 / np.exp([1.0, 3.0, 0.0]).sum())
    found = losses.targeted_cross_entropy(logits, labels, targets)
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


@given(LOGITS, LABELS, st.sampled_from([0.0, 0.1, 0.3]))
def test_smoothed_labels_spread_over_the_other_classes(logits, labels, smoothing):
    """Section G: 1 - tau on the label, tau / (K - 1) on each of the others."""
    targets = np.full((5, 4), smoothing / 3)
    targets[np.arange(5), labels] = 1 - smoothing
    expected = -(targets * log_softmax(logits)).sum(1)
    found = losses.smoothed_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(LOGITS, LABELS)
def test_boosted_cross_entropy(logits, labels):
    """Eq. (14), in float64 and without cancellation: 1 - p_j is the sum of the others."""
    log_p = log_softmax(logits)
    expected = []
    for row, label in zip(log_p, labels, strict=True):
        strongest = max((j for j in range(4) if j != label), key=lambda j: row[j])
        rest = np.delete(row, strongest)
        log_rest = rest.max() + np.log(np.exp(rest - rest.max()).sum())
        expected.append(-row[label] - log_rest)
    found = losses.boosted_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_boosted_cross_entropy_has_a_gradient_where_a_class_is_certain():
    for logits in ([[200.0, 0.0, 0.0]], [[0.0, 200.0, 0.0]], [[1.0, 1.0, 1.0]]):
        gradient = jax.grad(lambda z: losses.boosted_cross_entropy(z, jnp.array([0])).sum())(
            jnp.array(logits)
        )
        assert np.isfinite(gradient).all(), logits
