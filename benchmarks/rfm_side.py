"""The computations by rfm, through the functions that its command line calls."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import PyTree

import rfm
from benchmarks import workload as given
from benchmarks.harness import Job
from benchmarks.workload import Workload
from rfm import models
from rfm.attacks import PGD
from rfm.data.augment import FlipAndCrop
from rfm.devices import AXIS, make_mesh, replicate, shard
from rfm.training.adversary import Attack
from rfm.training.dispatch import make_dispatch
from rfm.training.objective import CrossEntropy
from rfm.training.optimiser import sgd
from rfm.training.state import create_train_state
from rfm.training.step import Method, Network, TrainBatch


def run(workload: dict[str, Any]) -> Job:
    """The `Job` of a `Workload`, given as its fields."""
    asked = Workload(**workload)
    jobs = {
        "at_step": at_step,
        "pgd": pgd,
        "average_case": average_case,
        "worst_case": worst_case,
        "landscape": landscape,
        "hessian": hessian,
    }
    with jax.default_matmul_precision("highest" if asked.full_precision else "default"):
        call = jobs[asked.kind](asked)

    def call_precisely() -> float:
        with jax.default_matmul_precision("highest" if asked.full_precision else "default"):
            return call()

    device = jax.devices()[0]
    if device.platform != {"cuda": "gpu"}.get(asked.device, asked.device):
        raise RuntimeError(f"asked for {asked.device}, but JAX runs on {device.platform}")
    about = {
        "device": f"{device.device_kind}, {len(jax.devices())} JAX device(s)",
        "versions": f"rfm {rfm.__version__}, jax {jax.__version__}, jaxlib {jaxlib.__version__}",
    }
    on_host = device.platform == "cpu"
    return Job(
        call_precisely,
        units=asked.units,
        about=about,
        device_peak=None if on_host else lambda: device.memory_stats()["peak_bytes_in_use"],
    )


def network(asked: Workload) -> tuple[nn.Module, PyTree, PyTree]:
    """The network with its parameters and batch statistics."""
    model = models.create(
        asked.network,
        classes=given.CLASSES,
        width=asked.width,
        mean=given.MEAN,
        std=given.STD,
    ).clone(dtype=jnp.dtype(asked.dtype))
    shapes, batch_stats = jax.eval_shape(
        lambda: models.initialise(model, jax.random.key(0), (32, 32, 3))
    )
    kept = np.float64 if asked.dtype == "float64" else np.float32  # bfloat16 is of layers only

    def weight(path: Any, leaf: Any) -> np.ndarray:
        name = rfm.types.leaf_name(path)
        return given.weight(name, leaf.shape).astype(kept)

    def statistic(path: Any, leaf: Any) -> np.ndarray:
        return np.full(leaf.shape, float(path[-1].key == "var"), kept)

    fresh = jax.tree_util.tree_map_with_path
    return model, fresh(weight, shapes), fresh(statistic, batch_stats)


def at_step(asked: Workload) -> Callable[[], float]:
    """A dispatch of `asked.times` steps of adversarial training; the loss of the last."""
    step = training(asked)
    return lambda: float(step()[1]["loss"][asked.times - 1])


def training(
    asked: Workload, *, random: bool = True, change: Callable[[Method], Method] = lambda m: m
) -> Callable[[], tuple[Any, Any]]:
    """A function that does one dispatch and returns the new state and the metrics.

    Without `random` there is no augmentation and attacks start at the input; `change` makes
    another method of the baseline.
    """
    model, params, batch_stats = network(asked)
    mesh = make_mesh(asked.batch)
    method = Method(
        augmentation=FlipAndCrop(flip=True, crop=given.CROP) if random else None,
        adversary=Attack(attack(asked, steps=given.TRAIN_STEPS, random_start=random)),
        objective=CrossEntropy(),
        optimiser=sgd(
            optax.constant_schedule(given.LEARNING_RATE),
            momentum=given.MOMENTUM,
            nesterov=True,
            weight_decay=given.WEIGHT_DECAY,
        ),
    )
    method = change(method)
    evaluated = models.apply_fn(model, batch_stats)
    faces = Network(evaluated.func, models.train_fn(model, axis_name=AXIS))
    dispatch = make_dispatch(method, faces, mesh, batch_size=asked.batch, longest=asked.times)
    pixels, labels = given.training_set(asked, augment=random)
    data = (replicate(TrainBatch(jnp.asarray(pixels), jnp.asarray(labels)), mesh),)
    state = create_train_state(params, batch_stats, method.optimiser.init(params))
    states = [replicate(state, mesh)]  # of one element: dispatches donate it

    def step() -> tuple[Any, Any]:
        state, metrics = dispatch(states.pop(), data, jax.random.key(1), jnp.int32(asked.times))
        states.append(state)
        return jax.block_until_ready((state, metrics))

    return step


def attack(asked: Workload, *, steps: int, restarts: int = 1, random_start: bool = True) -> PGD:
    """PGD as in the paper."""
    return PGD(
        rfm.threat.linf(given.EPSILON),
        steps,
        given.STEP_SIZE,
        restarts,
        random_start=random_start,
        chunk=asked.chunk or None,
    )


def inputs(asked: Workload) -> tuple[Any, Any]:
    """A batch as `evaluate` makes it: floats in [0, 1], on the host."""
    pixels, labels = given.images(asked, asked.batch)
    x = (pixels / np.float32(255)).astype(np.float32)
    return x.astype(np.float64) if asked.dtype == "float64" else x, labels


def pgd(asked: Workload) -> Callable[[], float]:
    """RLoss of one batch by PGD with `asked.times` restarts."""
    mesh = make_mesh(asked.batch)
    model, params, batch_stats = network(asked)
    params, batch_stats = replicate((params, batch_stats), mesh)
    logits_fn = rfm.types.bind(models.apply_fn(model, batch_stats), params)
    keys = jax.random.split(jax.random.key(1), asked.batch)
    x, y, keys = shard((*inputs(asked), keys), mesh)
    attacked = attack(asked, steps=asked.steps, restarts=asked.times)
    return lambda: float(attacked(logits_fn, x, y, keys).loss.mean())


def average_case(asked: Workload, **changed: Any) -> Callable[[], float]:
    """Mean RLoss of one batch under `asked.times` weight samples; the reference is given."""
    settings = {
        "ball": rfm.perturb.RelativeBall(given.AVERAGE_RADIUS),
        "samples": asked.times,
        "attack": attack(asked, steps=asked.steps) if asked.robust else None,
    }
    return _flatness(asked, rfm.flatness.average_case, settings | changed)


def worst_case(asked: Workload, **changed: Any) -> Callable[[], float]:
    """Worst RLoss of one batch over `asked.times` restarts; the reference is given."""
    settings = {
        "ball": rfm.perturb.RelativeBall(given.WORST_RADIUS),
        "threat": rfm.threat.linf(given.EPSILON) if asked.robust else None,
        "steps": asked.steps,
        "restarts": asked.times,
        "input_step_size": given.STEP_SIZE,
        "weight_step_size": given.WEIGHT_STEP_SIZE,
    }
    return _flatness(asked, rfm.flatness.worst_case, settings | changed)


def landscape(asked: Workload) -> Callable[[], float]:
    """RLoss of one batch at `asked.times` points along a random direction."""
    mesh = make_mesh(asked.batch)
    model, params, batch_stats = network(asked)
    params, batch_stats = replicate((params, batch_stats), mesh)
    apply_fn, (x, y) = models.apply_fn(model, batch_stats), inputs(asked)
    ball = rfm.perturb.RelativeBall(given.AVERAGE_RADIUS)
    settings = {
        "attack": attack(asked, steps=asked.steps) if asked.robust else None,
        "steps": np.linspace(-1, 1, asked.times),
        "batch_size": asked.batch,
        "mesh": mesh,
    }

    def call() -> float:
        key = jax.random.key(1)
        direction = ball.random_direction(key, params)
        found = rfm.flatness.landscape(apply_fn, params, direction, x, y, key, **settings)
        return float(found.mean.mean())

    return call


def hessian(asked: Workload) -> Callable[[], float]:
    """lambda_max of Loss on one batch by `asked.times` Hessian-vector products."""
    mesh = make_mesh(asked.batch)
    model, params, batch_stats = network(asked)
    params, batch_stats = replicate((params, batch_stats), mesh)
    apply_fn, (x, y) = models.apply_fn(model, batch_stats), inputs(asked)

    def call() -> float:
        return rfm.flatness.extreme_eigenvalues(
            apply_fn,
            params,
            x,
            y,
            jax.random.key(1),
            products=asked.times,
            batch_size=asked.batch,
            mesh=mesh,
        ).largest.value

    return call


def _flatness(
    asked: Workload, measure: Callable[..., rfm.flatness.Flatness], settings: dict[str, Any]
) -> Callable[[], float]:
    mesh = make_mesh(asked.batch)
    model, params, batch_stats = network(asked)
    params, batch_stats = replicate((params, batch_stats), mesh)
    apply_fn = models.apply_fn(model, batch_stats)
    x, y = inputs(asked)

    def call() -> float:
        found = measure(
            apply_fn,
            params,
            x,
            y,
            jax.random.key(1),
            reference=np.zeros(asked.batch),
            batch_size=asked.batch,
            mesh=mesh,
            **settings,
        )
        return found.value

    return call
