"""The networks of docs/pictures.py: one hidden layer on the embedded digits, trained in seconds."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rfm
from rfm.data import digits

EPSILON = 0.1
LINF = rfm.threat.linf(EPSILON)
PGD_7 = rfm.attacks.PGD(LINF, steps=7, step_size=0.025)
PGD_20 = rfm.attacks.PGD(LINF, steps=20, step_size=0.01)
PGD_20_10 = rfm.attacks.PGD(LINF, steps=20, step_size=0.01, restarts=10)
KEY = jax.random.key(0)
PLAIN, ROBUST = "train", "test"  # colours of the two networks: vermilion and blue


def apply_fn(params: Any, x: jax.Array) -> jax.Array:
    """One hidden layer of rectified units."""
    flat = x.reshape(x.shape[0], -1)
    hidden = jax.nn.relu(flat @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def initial(hidden: int) -> Any:
    """Parameters, He-initialised."""
    first, second = jax.random.split(KEY)
    return {
        "hidden": {
            "kernel": jax.random.normal(first, (64, hidden)) * np.sqrt(2 / 64),
            "bias": jnp.zeros(hidden),
        },
        "out": {
            "kernel": jax.random.normal(second, (hidden, 10)) * np.sqrt(2 / hidden),
            "bias": jnp.zeros(10),
        },
    }


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, test images and labels; pixels in [0, 1]."""
    found = digits()
    x, x_test = (v.astype(np.float32) / 255 for v in (found.train_images, found.test_images))
    return x, found.train_labels, x_test, found.test_labels


def train(
    x: np.ndarray, y: np.ndarray, attack: Any, epochs: int, every: int, hidden: int = 66
) -> Iterator[tuple[int, Any]]:
    """Adam on the cross-entropy of what the attack returns; parameters every so many epochs."""
    optimiser = optax.adam(2e-3)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return rfm.losses.cross_entropy(apply_fn(params, x), y).mean()

    @jax.jit
    def step(carry: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        params, state = carry
        if attack is not None:
            x = attack(rfm.types.bind(apply_fn, params), x, y, key).x
        updates, state = optimiser.update(jax.grad(loss)(params, x, y), state)
        return optax.apply_updates(params, updates), state

    params, batch = initial(hidden), 100
    carry, count, rng = (params, optimiser.init(params)), 0, np.random.default_rng(0)
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(x))
        for rows in order[: len(x) // batch * batch].reshape(-1, batch):
            carry = step(carry, x[rows], y[rows], jax.random.fold_in(KEY, count))
            count += 1
        if epoch % every == 0:
            yield epoch, carry[0]


@functools.cache
def networks() -> dict[str, Any]:
    """A network trained on clean digits, and one on adversarial ones."""
    x, y, _, _ = data()
    return {
        PLAIN: list(train(x, y, None, 40, 40))[-1][1],
        ROBUST: list(train(x, y, PGD_7, 40, 40))[-1][1],
    }


NAMES = {PLAIN: "trained on clean digits", ROBUST: "trained on adversarial digits"}
