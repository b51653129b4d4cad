"""Half of a batch rotated, and heads side by side."""

import jax
import jax.numpy as jnp
import numpy as np

from rfm import losses
from rfm.training import rotation

K = 10


def test_every_second_example_is_turned_by_its_label(cifar10):
    n = 64
    x = jnp.asarray(cifar10["x_train"][:n] / 255.0, jnp.float32)
    y = jnp.asarray(cifar10["y_train"][:n], jnp.int32)
    keys = jax.random.split(jax.random.key(0), n)
    found, labels = rotation.rotate_half(x, y, keys, jnp.arange(n), K)
    np.testing.assert_array_equal(found[::2], x[::2])
    np.testing.assert_array_equal(labels[::2], y[::2])
    turns = np.asarray(labels[1::2]) - K
    assert set(turns) == {0, 1, 2, 3}
    for image, original, turn in zip(found[1::2], x[1::2], turns, strict=True):
        np.testing.assert_array_equal(image, np.rot90(original, turn))


def test_turns_are_uniform():
    n = 8000
    x = jnp.zeros((n, 2, 2, 1))
    keys = jax.random.split(jax.random.key(1), n)
    _, labels = rotation.rotate_half(x, jnp.zeros(n, int), keys, jnp.ones(n, int), K)
    counts = np.bincount(np.asarray(labels) - K, minlength=4)
    assert (np.abs(counts / n - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)).all()


def test_losses_and_errors_are_of_the_labels_head():
    logits = jax.random.normal(jax.random.key(2), (8, K + 4))
    labels = jnp.array([0, 9, 3, 5, K, K + 1, K + 2, K + 3])
    found = rotation.cross_entropy(logits, labels, K)
    np.testing.assert_allclose(found[:4], losses.cross_entropy(logits[:4, :K], labels[:4]))
    expected = losses.cross_entropy(logits[4:, K:], labels[4:] - K)
    np.testing.assert_allclose(found[4:], expected)
    np.testing.assert_array_equal(rotation.WithinHead(K)(logits, labels), found)


def test_the_other_head_has_no_gradient():
    logits = jax.random.normal(jax.random.key(3), (2, K + 4))
    labels = jnp.array([3, K + 2])
    gradient = jax.grad(lambda z: rotation.cross_entropy(z, labels, K).sum())(logits)
    np.testing.assert_array_equal(gradient[0, K:], 0)
    np.testing.assert_array_equal(gradient[1, :K], 0)
    assert gradient[0, :K].any()
    assert gradient[1, K:].any()
