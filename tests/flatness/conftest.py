"""A small problem, a linear model, and a slow reference of Eqs. (5) to (7)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import models
from rfm.models.resnet import ResNet
from rfm.types import example_keys


class Problem(NamedTuple):
    """What every measure begins with."""

    apply_fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    x: np.ndarray
    y: np.ndarray


@pytest.fixture
def problem(crops, tanh_network) -> Problem:
    """A small network at the centres of ten real images, float64."""
    x, y = crops(10, 4)
    return Problem(tanh_network.logits, tanh_network(48).params, x.astype(np.float64), y % 4)


def _linear(params: Any, x: jax.Array) -> jax.Array:
    score = x.reshape(x.shape[0], -1) @ params["kernel"]
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


@pytest.fixture
def linear() -> Callable[[Any, jax.Array], jax.Array]:
    """Two classes; the loss of label 0 is ``softplus(kernel . x)``."""
    return _linear


@pytest.fixture
def linear_problem(problem) -> Problem:
    """The same images; quick to compile, for what holds whatever the model."""
    kernel = np.random.default_rng(0).normal(size=48)
    return Problem(_linear, {"kernel": kernel}, problem.x, problem.y % 2)


@pytest.fixture
def draws() -> Callable[..., Any]:
    """The library's own random draws, so that references need to share nothing else with it.

    `draws(ball, threat, key, params, x, batch, draw)` are the weights nu of one draw (or
    restart) of one batch, and the input perturbations of all examples for that draw; of
    the given restart of the attack, if there is one inside.
    """
    fold = jax.random.fold_in

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def make(ball, threat, key, params, x, batch, draw, restart=None):
        weight_key, input_key, _ = jax.random.split(key, 3)
        nu = ball.sample(fold(fold(weight_key, batch), draw), params)
        if threat is None:
            return nu, jnp.zeros_like(x)
        keys = jax.vmap(fold, (0, None))(example_keys(input_key, len(x)), draw)
        if restart is not None:
            keys = jax.vmap(fold, (0, None))(keys, restart)
        return nu, jax.vmap(lambda key: threat.sample(key, (1, *x.shape[1:]))[0])(keys)

    return lambda *where: jax.device_get(make(*where))


@pytest.fixture
def numpy_worst_case() -> Callable[..., tuple[np.ndarray, int]]:
    return _numpy_worst_case


def _numpy_worst_case(
    network, params, x, y, beginnings, *, xi, epsilon, steps, input_step, weight_step
) -> tuple[np.ndarray, int]:
    """Losses (n,) at the worst iterate of one batch, and which iterate that was.

    `beginnings`: weights and input perturbations of each restart; `epsilon` None leaves
    inputs alone. Layers called norm are not perturbed.
    """
    layers = [(a, b) for a in params for b in params[a] if a != "norm"]
    length = {(a, b): np.sqrt((params[a][b] ** 2).sum()) for a, b in layers}
    worst, worst_mean, worst_step = None, -np.inf, -1
    for nu, delta in beginnings:
        nu, inputs = jax.tree.map(np.array, nu), np.clip(x + delta, 0, 1)
        for step in range(steps + 1):
            moved = {a: {b: params[a][b] + nu[a][b] for b in params[a]} for a in params}
            losses, of_params, of_x, _ = network.differentiate(moved, inputs, y)
            if losses.mean() > worst_mean:
                worst, worst_mean, worst_step = losses, losses.mean(), step
            for a, b in layers:
                gradient = of_params[a][b]
                update = gradient / np.sqrt((gradient**2).sum()) * length[a, b]  # Eq. (2)
                nu[a][b] = nu[a][b] + weight_step * update
                size = np.sqrt((nu[a][b] ** 2).sum())
                nu[a][b] = nu[a][b] * min(1.0, xi * length[a, b] / size)
            if epsilon is not None:
                moved_by = inputs - x + input_step * np.sign(of_x)
                inputs = np.clip(x + np.clip(moved_by, -epsilon, epsilon), 0, 1)
    return worst, worst_step


@pytest.fixture
def residual_network(crops) -> Callable[[float], tuple[Any, Any, np.ndarray, np.ndarray]]:
    """`residual_network(s)`: a residual network with all convolutions scaled by s (Section E).

    Running statistics are scaled with them, the constant inside the square root of batch
    normalisation included, so that the function is the same. In float64.
    """

    def make(s: float) -> tuple[Any, Any, np.ndarray, np.ndarray]:
        x, y = crops(6, 8)
        model = ResNet(10, (1, 1), 3, "relu", (0.5,) * 3, (0.25,) * 3, dtype=jnp.float64)
        rng, sample = np.random.default_rng(0), np.zeros((1, 8, 8, 3))
        shapes = jax.eval_shape(model.init, jax.random.key(0), sample)

        def fill(path, leaf):
            *_, layer, name = (entry.key for entry in path)
            values = rng.normal(size=leaf.shape)
            if name == "kernel":
                values *= (s if layer == "conv" else 1) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
            elif name == "mean":
                values *= 0.1 * s
            elif name == "var":
                values = s**2 * (0.5 + values**2 + 1e-5) - 1e-5
            else:
                values *= 0.1
            return values

        variables = jax.tree_util.tree_map_with_path(fill, shapes)
        apply_fn = models.apply_fn(model, variables["batch_stats"])
        return apply_fn, variables["params"], x.astype(np.float64), y

    return make
