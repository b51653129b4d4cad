"""The step: its order, its randomness, and its independence of the layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rfm import losses, models
from rfm.data.augment import FlipAndCrop
from rfm.devices import AXIS, make_mesh, replicate
from rfm.perturb import RelativeBall
from rfm.training import optimiser as optimisers
from rfm.training.adversary import NoAdversary
from rfm.training.objective import CrossEntropy, SelfSupervision
from rfm.training.schedule import multi_step
from rfm.training.state import create_train_state
from rfm.training.step import Method, Network, TrainBatch, gradient_function, train_step
from rfm.training.weight_adversary import AdversarialWeights
from rfm.types import bind

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH = 16


@dataclasses.dataclass(frozen=True)
class Brighten:
    """A stand-in adversary: deterministic, so that steps can be compared."""

    by: float = 0.05

    def __call__(self, logits_fn, x, y, key):
        return jnp.clip(x + self.by, 0.0, 1.0)


@pytest.fixture(scope="module")
def parts():
    data = np.load("tests/fixtures/cifar10_small.npz")
    images, labels = data["x_train"][:BATCH], data["y_train"][:BATCH].astype(np.int32)
    model = models.create(
        "resnet8", classes=10, width=4, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)
    )
    params, stats = models.initialise(model, jax.random.key(0), (32, 32, 3))
    network = Network(models.EvaluationMode(model), models.train_fn(model, axis_name=AXIS))
    return model, network, params, stats, TrainBatch(images, labels)


def sgd(**changes):
    settings = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0005, **changes}
    return optimisers.sgd(multi_step(0.05, (), 0.1, 1), **settings)


def step_of(parts, method, mesh, key=None):
    _, network, params, stats, batch = parts
    state = create_train_state(params, stats, method.optimiser.init(params))
    step = jax.jit(functools.partial(train_step, method, network, mesh))
    return step(replicate(state, mesh), (batch,), key if key is not None else jax.random.key(1))


def meshes():
    return [make_mesh(d) for d in (1, 2, 8) if d <= jax.device_count()]


def assert_close(a, b, rtol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * float(np.abs(y).max() + 1e-6))


def test_update_on_fixed_inputs_does_not_depend_on_devices(parts):
    method = Method(FlipAndCrop(), Brighten(), CrossEntropy(), sgd())
    one, *others = [step_of(parts, method, mesh) for mesh in meshes()]
    assert others, "needs several devices, see tests/conftest.py"
    for other in others:
        assert_close(other[0].params, one[0].params, 1e-5)
        assert_close(other[0].batch_stats, one[0].batch_stats, 1e-5)
        assert_close(other[1], one[1], 1e-5)


def test_gradient_is_that_of_the_mean_loss_of_the_whole_batch(parts):
    model, network, params, stats, batch = parts
    method = Method(None, Brighten(), CrossEntropy(), sgd())
    x = jnp.clip(batch.images / 255.0 + 0.05, 0, 1).astype(jnp.float32)

    def mean_loss(params):
        variables = {"params": params, "batch_stats": stats}
        logits, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return losses.cross_entropy(logits, batch.labels).mean()

    expected = jax.grad(mean_loss)(params)
    for mesh in meshes():
        grad_fn = jax.jit(gradient_function(method, network, mesh))
        found = grad_fn(params, stats, batch, jax.random.key(0))
        assert_close(found.gradient, expected, 2e-4)


def test_adversary_sees_evaluation_mode_and_the_augmented_input(parts):
    model, network, params, stats, batch = parts
    seen = {}

    @dataclasses.dataclass(frozen=True)
    class Spy:
        def __call__(self, logits_fn, x, y, key):
            jax.debug.callback(lambda *v: seen.update(x=v[0], logits=v[1]), x, logits_fn(x))
            return x

    method = Method(FlipAndCrop(), Spy(), CrossEntropy(), sgd())
    step_of(parts, method, make_mesh(1))
    jax.effects_barrier()
    evaluation = model.apply({"params": params, "batch_stats": stats}, seen["x"])
    np.testing.assert_allclose(seen["logits"], evaluation, rtol=1e-4, atol=1e-4)
    assert not np.allclose(seen["x"], batch.images / 255.0)


def test_batch_statistics_come_from_the_adversarial_inputs_only(parts):
    _, _, _, stats, _ = parts
    clean, _ = step_of(parts, Method(None, NoAdversary(), CrossEntropy(), sgd()), make_mesh(1))
    moved, _ = step_of(parts, Method(None, Brighten(0.3), CrossEntropy(), sgd()), make_mesh(1))
    stem = "stem_norm"
    means = [s.batch_stats[stem]["mean"] for s in (clean, moved)]
    assert not np.allclose(*means)
    assert not np.allclose(means[0], stats[stem]["mean"])


def test_keys_decide_the_step(parts):
    method = Method(FlipAndCrop(), NoAdversary(), CrossEntropy(), sgd())
    mesh = make_mesh(1)
    a, b, c = (step_of(parts, method, mesh, jax.random.key(k))[0].params for k in (1, 1, 2))
    same = jax.tree.map(lambda x, y: bool((x == y).all()), a, b)
    assert all(jax.tree.leaves(same))
    assert any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(c), strict=True)
    )


def test_metrics_are_means_over_the_batch(parts):
    model, network, params, stats, batch = parts
    _, metrics = step_of(parts, Method(None, NoAdversary(), CrossEntropy(), sgd()), make_mesh(1))
    logits, _ = model.apply(
        {"params": params, "batch_stats": stats},
        jnp.asarray(batch.images / 255.0, jnp.float32),
        train=True,
        mutable=["batch_stats"],
    )
    loss = float(losses.cross_entropy(logits, batch.labels).mean())
    error = float(np.mean(np.argmax(logits, -1) != batch.labels))
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["error"]) == pytest.approx(error)


def test_after_steps_run_in_order_on_the_updated_state(parts):
    def halve(state):
        return state.replace(params=jax.tree.map(lambda w: w / 2, state.params))

    def add_one(state):
        return state.replace(params=jax.tree.map(lambda w: w + 1, state.params))

    mesh = make_mesh(1)
    plain = Method(None, NoAdversary(), CrossEntropy(), sgd())
    without, _ = step_of(parts, plain, mesh)
    with_them, _ = step_of(parts, dataclasses.replace(plain, after=(halve, add_one)), mesh)
    expected = jax.tree.map(lambda w: w / 2 + 1, without.params)
    assert_close(with_them.params, expected, 1e-6)
    assert int(with_them.step) == 1


def test_logits_function_of_the_adversary_equals_apply_fn(parts):
    model, network, params, stats, batch = parts
    x = jnp.asarray(batch.images / 255.0, jnp.float32)
    direct = models.apply_fn(model, stats)(params, x)
    np.testing.assert_array_equal(bind(network.apply_fn, stats, params)(x), direct)


@dataclasses.dataclass(frozen=True)
class Labels:
    """An objective that remembers the labels it was given; an adversary that does, too."""

    seen: tuple

    def __call__(self, *arguments):
        if callable(arguments[0]) and len(arguments) == 4:  # as adversary
            jax.debug.callback(lambda v: self.seen[0].append(np.asarray(v)), arguments[2])
            return arguments[1]
        jax.debug.callback(lambda v: self.seen[1].append(np.asarray(v)), arguments[4])
        return CrossEntropy()(*arguments)

    def __hash__(self):
        return id(self.seen)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_label_noise_is_for_the_update_only(parts, share):
    _, network, params, stats, batch = parts
    seen = ([], [])
    spy = Labels(seen)
    method = Method(None, spy, spy, sgd(), classes=10, label_noise=share)
    grad_fn = jax.jit(gradient_function(method, network, make_mesh(1)))
    for key in range(40):
        grad_fn(params, stats, batch, jax.random.key(key))
    jax.effects_barrier()
    for labels in seen[0]:
        np.testing.assert_array_equal(labels, batch.labels)
    noisy = np.array(seen[1])
    changed = (noisy != batch.labels).mean()
    expected = 0.9 * share  # a tenth of the draws give the true label again
    assert changed == pytest.approx(expected, abs=4 * np.sqrt(0.25 / noisy.size) if share else 0)
    if share == 1.0:
        counts = np.bincount(noisy.ravel(), minlength=10) / noisy.size
        assert np.abs(counts - 0.1).max() < 4 * np.sqrt(0.09 / noisy.size)


def test_gradients_are_taken_at_adversarial_weights_and_applied_to_the_others(parts):
    """w <- w - rate * gradient(w + nu), with nu of the same adversarial examples."""
    _, network, params, stats, batch = parts
    rate = 0.1
    plain = Method(FlipAndCrop(), Brighten(), CrossEntropy(), optimisers.Optax(optax.sgd(rate)))
    awp = AdversarialWeights(RelativeBall(0.05))
    mesh, key = make_mesh(1), jax.random.key(5)
    grad_fn = jax.jit(gradient_function(plain, network, mesh))
    there = awp(lambda p: None, params, grad_fn(params, stats, batch, key).gradient)
    expected = jax.tree.map(
        lambda w, g: w - rate * g, params, grad_fn(there, stats, batch, key).gradient
    )
    method = dataclasses.replace(plain, weight_adversary=awp)
    found, metrics = step_of(parts, method, mesh, key)
    assert_close(found.params, expected, 1e-4)
    # Metrics are those of the weights themselves.
    _, of_plain = step_of(parts, plain, mesh, key)
    assert_close(metrics, of_plain, 1e-5)
    moved = jax.tree.map(lambda w, g: w - rate * g, params, grad_fn(params, stats, batch, key)[0])
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), moved, expected)
    assert max(jax.tree.leaves(apart)) > 1e-3, "the perturbation makes a difference"


def test_rotations_have_their_own_head_and_do_not_count_as_errors(parts):
    model, _, _, stats, batch = parts
    both = model.clone(rotation_head=True)
    params, _ = models.initialise(both, jax.random.key(0), (32, 32, 3))
    network = Network(models.EvaluationMode(both), models.train_fn(both, axis_name=AXIS))
    method = Method(
        None, NoAdversary(), SelfSupervision(10, 4.0), sgd(), classes=10, rotations=True
    )
    outcomes = [
        jax.jit(gradient_function(method, network, mesh))(params, stats, batch, jax.random.key(2))
        for mesh in meshes()
    ]
    for other in outcomes[1:]:
        assert_close(other.metrics, outcomes[0].metrics, 1e-4)
    found = outcomes[0]
    assert any(leaf.any() for leaf in jax.tree.leaves(found.gradient["rotation_head"]))
    errors = 8 * float(found.metrics["error"])
    assert errors == pytest.approx(round(errors)), "a share of the eight that are not rotated"
    # Evaluated is the head of classes alone, by the same weights.
    x = jnp.asarray(batch.images / 255.0, jnp.float32)
    classes = models.apply_fn(model, stats)(params, x)
    np.testing.assert_allclose(models.apply_fn(both, stats)(params, x)[:, :10], classes, rtol=1e-5)


def test_dropout_is_of_training_and_goes_by_example(parts):
    model, _, params, stats, batch = parts
    dropped = model.clone(dropout=0.5)
    network = Network(models.EvaluationMode(dropped), models.train_fn(dropped, axis_name=AXIS))
    method = Method(None, NoAdversary(), CrossEntropy(), sgd())
    one, *others = [
        jax.jit(gradient_function(method, network, mesh))(params, stats, batch, jax.random.key(3))
        for mesh in meshes()
    ]
    for other in others:
        assert_close(other.gradient, one.gradient, 1e-3)
    _, plain, *_ = parts
    without = jax.jit(gradient_function(method, plain, make_mesh(1)))
    assert float(one.metrics["loss"]) != float(
        without(params, stats, batch, jax.random.key(3)).metrics["loss"]
    )
    x = jnp.asarray(batch.images / 255.0, jnp.float32)
    np.testing.assert_array_equal(
        models.apply_fn(dropped, stats)(params, x), models.apply_fn(model, stats)(params, x)
    )
