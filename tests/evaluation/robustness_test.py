"""Err, Loss, RErr and RLoss per example, on a linear model known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rfm
from rfm.evaluation.robustness import attacked, clean, estimate

pytestmark = pytest.mark.usefixtures("quick_compilation")

EPSILON = 8 / 255


@pytest.fixture(scope="module")
def linear():
    """A linear model on real images, trained a little by least squares."""
    data = np.load("tests/fixtures/cifar10_small.npz")
    images, labels = data["x_train"], data["y_train"].astype(np.int32)
    x = images.reshape(len(images), -1) / 255.0
    weights = np.linalg.lstsq(
        x.T @ x + 30 * np.eye(x.shape[1]), x.T @ np.eye(10)[labels], rcond=None
    )[0]
    model = jax.tree_util.Partial(
        lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(3 * weights, jnp.float32)
    )
    return model, 3 * weights, images, labels


def numpy_values(weights, images, labels):
    logits = (images.reshape(len(images), -1) / 255.0) @ weights
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -log_probability[np.arange(len(labels)), labels], logits.argmax(1)


@pytest.mark.parametrize("n", [1, 100, 128, 200])
def test_clean_values_for_any_number_of_examples(linear, n):
    model, weights, images, labels = linear
    told = []
    found = clean(model, images[:n], labels[:n], batch_size=64, on_batch=told.append)
    loss, prediction = numpy_values(weights, images[:n], labels[:n])
    np.testing.assert_allclose(found.loss, loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.prediction, prediction)
    np.testing.assert_array_equal(found.correct, prediction == labels[:n])
    assert told[-1] == n


def attack(restarts=2):
    return rfm.attacks.PGD(rfm.threat.linf(EPSILON), steps=5, step_size=0.01, restarts=restarts)


def test_robust_means_clean_right_and_never_fooled(linear):
    model, weights, images, labels = linear
    natural = clean(model, images[:96], labels[:96])
    found = attacked(model, images[:96], labels[:96], jax.random.key(0), attack=attack(), keep=5)
    assert not (found.robust & ~natural.correct).any()
    assert found.robust.any()
    assert (natural.correct & ~found.robust).any()
    assert (found.loss >= natural.loss - 1e-5).all(), "a linear model's loss only grows"
    # A linear model is certified exactly: the worst input for a pair of classes moves
    # every pixel by the sign of the difference of their weights.
    x = images[:96].reshape(96, -1) / 255.0
    certified = np.array(
        [
            all(
                np.clip(x[i] + EPSILON * np.sign(weights[:, j] - weights[:, labels[i]]), 0, 1)
                @ (weights[:, j] - weights[:, labels[i]])
                < 0
                for j in set(range(10)) - {labels[i]}
            )
            for i in range(96)
        ]
    )
    assert not (certified & ~found.robust).any(), "PGD cannot beat the certificate"
    assert found.x.shape == (5, 32, 32, 3)
    assert np.abs(found.x - images[:5] / 255.0).max() <= EPSILON + 1e-6


def test_batches_do_not_matter(linear):
    model, _, images, labels = linear
    results = [
        attacked(
            model,
            images[:40],
            labels[:40],
            jax.random.key(3),
            attack=attack(),
            keep=40,
            batch_size=b,
        )
        for b in (40, 16, 7)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.loss, results[0].loss, rtol=1e-5)
        np.testing.assert_array_equal(other.robust, results[0].robust)
        np.testing.assert_allclose(other.x, results[0].x, atol=1e-6)


def test_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=50)
    found = estimate(values)
    assert found["value"] == pytest.approx(values.mean())
    assert found["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    assert estimate(np.zeros(0)) == {"value": None, "standard_error": None, "examples": 0}
    assert estimate(np.ones(1))["standard_error"] is None
    assert estimate(np.array([True, False]))["value"] == 0.5
