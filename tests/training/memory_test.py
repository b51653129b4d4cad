"""Less memory: rematerialisation and micro-batches, and what is said of the compiled step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import models
from rfm.devices import AXIS, make_mesh, replicate
from rfm.errors import UserError
from rfm.training import build, loop
from rfm.training.adversary import NoAdversary
from rfm.training.memory import Memory
from rfm.training.micro_batches import cut, join
from rfm.training.objective import CrossEntropy
from rfm.training.optimiser import sgd
from rfm.training.schedule import multi_step
from rfm.training.step import Method, Network, TrainBatch, gradient_function

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH = 16
SGD = sgd(multi_step(0.05, (), 0.1, 1), momentum=0.9, nesterov=True, weight_decay=0.0)


@dataclasses.dataclass(frozen=True)
class Brighten:
    def __call__(self, logits_fn, x, y, key):
        return jnp.clip(x + 0.05, 0.0, 1.0)


def network(**changes):
    model = models.create(
        "resnet8", classes=10, width=4, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26), **changes
    )
    params, stats = models.initialise(model, jax.random.key(0), (32, 32, 3))
    # Otherwise running statistics would be those of one batch, whatever happens to them.
    stats = jax.tree.map(lambda v: v + 0.1, stats)
    trained = Network(models.EvaluationMode(model), models.train_fn(model, axis_name=AXIS))
    return trained, params, stats


@pytest.fixture(scope="module")
def batch():
    with np.load("tests/fixtures/cifar10_small.npz") as data:
        return TrainBatch(data["x_train"][:BATCH], data["y_train"][:BATCH].astype(np.int32))


def gradient(method, net, params, stats, batch, devices=1):
    mesh = make_mesh(devices)
    grad_fn = jax.jit(gradient_function(method, net, mesh))
    return grad_fn(*replicate((params, stats, batch, jax.random.key(1)), mesh))


def assert_close(a, b, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * float(np.abs(y).max() + 1e-6))


def test_rematerialisation_changes_no_result_and_keeps_less(batch):
    method = Method(None, Brighten(), CrossEntropy(), SGD)
    plain, params, stats = network(dropout=0.3)
    again, same, _ = network(dropout=0.3, remat=True)
    assert_close(same, params, 0)
    found, expected = (gradient(method, net, params, stats, batch) for net in (again, plain))
    assert_close(found, expected, 1e-6)

    def kept(remat: bool) -> int:
        model = models.create(
            "resnet8", classes=10, width=4, mean=(0.5,) * 3, std=(0.2,) * 3, remat=remat
        )
        apply_fn = models.apply_fn(model, stats)
        x = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
        residuals = jax.eval_shape(lambda x: jax.vjp(lambda x: apply_fn(params, x), x)[1], x)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    assert kept(True) < 0.5 * kept(False)


class NoNorm:
    """Training mode without anything that examples share."""

    def __call__(self, variables, x, rngs):
        return jnp.tanh(x.reshape(len(x), -1) @ variables["params"]), variables["batch_stats"]


def test_without_batch_norm_micro_batches_change_nothing(batch):
    params = jax.random.normal(jax.random.key(2), (3072, 10)) / 50
    net = Network(lambda stats, params, x: x.reshape(len(x), -1) @ params, NoNorm())
    whole = Method(None, Brighten(), CrossEntropy(), SGD)
    cut = dataclasses.replace(whole, micro_batches=4)
    expected = gradient(whole, net, params, {}, batch)
    for devices in (1, 2):
        assert_close(gradient(cut, net, params, {}, batch, devices), expected)


def test_with_batch_norm_each_micro_batch_has_its_own_statistics(batch):
    net, params, stats = network()
    whole = Method(None, NoAdversary(), CrossEntropy(), SGD)
    found = gradient(dataclasses.replace(whole, micro_batches=2), net, params, stats, batch)
    # By hand: pairs of examples alternate between the two.
    rows = np.arange(BATCH).reshape(-1, 2, 2)
    first, second = rows[:, 0].ravel(), rows[:, 1].ravel()
    one = gradient(whole, net, params, stats, jax.tree.map(lambda v: v[first], batch))
    two = gradient(whole, net, params, one.batch_stats, jax.tree.map(lambda v: v[second], batch))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, one.gradient, two.gradient)
    assert_close(found.gradient, mean)
    assert_close(found.batch_stats, two.batch_stats)
    losses = [float(g.metrics["loss"]) for g in (found, one, two)]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2)
    at_once = gradient(whole, net, params, stats, batch)
    with pytest.raises(AssertionError):
        assert_close(found.gradient, at_once.gradient, 1e-3)


def test_micro_batches_do_not_depend_on_devices(batch):
    net, params, stats = network()
    method = Method(None, Brighten(), CrossEntropy(), SGD, micro_batches=2)
    expected = gradient(method, net, params, stats, batch)
    for devices in (2, 4):
        assert_close(gradient(method, net, params, stats, batch, devices), expected, 1e-4)


def test_micro_batches_hold_both_halves_of_a_mixed_batch(batch):
    halves = jnp.arange(BATCH) % 2
    pieces = cut(halves, 4)
    assert (np.asarray(pieces).mean(1) == 0.5).all()
    assert (join(pieces) == halves).all()
    assert (join(cut(jnp.arange(BATCH), 4)) == jnp.arange(BATCH)).all()


def test_a_batch_that_cannot_be_cut_is_refused(config, build_run):
    config.train.micro_batches = 3
    with pytest.raises(UserError, match=r"train.batch_size=32 cannot be cut evenly into 3 micro"):
        build_run(config)


def test_memory_is_told_before_the_first_step_and_falls_with_micro_batches(
    config, build_run, tmp_path
):
    told: list[Memory] = []
    config.model.width = 16
    config.train.epochs = 1

    def before(memory):
        assert not (tmp_path / str(len(told)) / "metrics.jsonl").exists()
        told.append(memory)

    for count in (0, 4):
        config.train.micro_batches = count
        loop.train(build_run(config), tmp_path / str(len(told)), on_memory=before)
    whole, cut = told
    run = build.build(config)
    data = run.dataset.train_images.nbytes
    assert whole.arguments > data
    assert whole.temporary > 1.5 * cut.temporary
    assert whole.total == sum(whole[:4])
    assert str(Memory(1 << 30, 0, 5 << 20, 0, 8 << 30)) == (
        "memory of the compiled step, on each device: 1 GiB of 8 GiB"
        " (1 GiB state and data, 5 MiB temporary, 0 B results, 0 B program)"
    )


def test_the_state_of_training_with_micro_batches_is_finite(config, build_run, tmp_path):
    config.train.micro_batches = 2
    config.objective.name, config.objective.weight = "self_supervision", 0.5
    state = loop.train(build_run(config), tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))
    metrics = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in metrics
