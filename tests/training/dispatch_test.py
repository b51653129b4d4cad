"""Dispatches: which examples, in which order, and the same whatever their length."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.devices import replicate
from rfm.training.dispatch import _dispatch, make_dispatch, steps_per_epoch
from rfm.training.step import TrainBatch

pytestmark = pytest.mark.usefixtures("quick_compilation")


def dispatch_with(run, steps, longest):
    config = run.config.train
    dispatch = make_dispatch(
        run.method, run.network, run.mesh, batch_size=config.batch_size, longest=longest
    )
    data = (TrainBatch(run.dataset.train_images, run.dataset.train_labels),)
    data, state = replicate(data, run.mesh), run.initial_state()
    metrics = []
    for count in steps:
        state, values = dispatch(state, data, run.key("train"), jnp.int32(count))
        metrics.append(np.asarray(values["loss"])[:count])
        assert np.isnan(values["loss"][count:]).all()
    return state, np.concatenate(metrics)


def test_result_does_not_depend_on_how_steps_are_grouped(run):
    before = _dispatch._cache_size()
    grouped, losses = dispatch_with(run, (3, 2, 4, 1), longest=4)
    single, same_losses = dispatch_with(run, [1] * 10, longest=4)
    assert int(grouped.step) == int(single.step) == 10
    np.testing.assert_array_equal(losses, same_losses)
    jax.tree.map(np.testing.assert_array_equal, grouped.params, single.params)
    assert _dispatch._cache_size() == before + 1, "dispatches of any length are one compilation"


def labels_of_steps(run, data, count, batch_size=48):
    """The labels of every batch, for labels that number the examples."""
    seen = []

    class Recorder:
        batches = 1

        def init(self, params):
            return {}

        def update(self, grad_fn, state, batches, key):
            jax.debug.callback(lambda v: seen.append(np.asarray(v)), batches[0].labels)
            zero = jnp.zeros((), jnp.float32)
            return state, {"loss": zero, "error": zero}

    method = dataclasses.replace(run.method, optimiser=Recorder())
    dispatch = make_dispatch(method, run.network, run.mesh, batch_size=batch_size, longest=8)
    state = run.initial_state().replace(optimiser={})
    for _ in range(count):
        state, _ = dispatch(state, data, run.key("train"), jnp.int32(3))
    jax.effects_barrier()
    return np.array(seen)


def numbered(first, n):
    return TrainBatch(jnp.zeros((n, 8, 8, 1), jnp.uint8), jnp.arange(first, first + n))


def test_an_epoch_takes_each_example_once_and_drops_the_rest(run):
    seen = labels_of_steps(run, (numbered(0, 160),), 2)
    first, second = (np.concatenate(seen[i : i + 3]) for i in (0, 3))
    for epoch in (first, second):
        assert len(set(epoch.tolist())) == len(epoch) == 144
    assert set(first.tolist()) != set(second.tolist())
    assert not np.array_equal(first, np.sort(first))


def test_every_second_example_is_drawn_from_the_others(run):
    seen = labels_of_steps(run, (numbered(0, 160), numbered(1000, 500)), 2)
    own, others = seen[:, ::2], seen[:, 1::2]
    assert (own < 160).all()
    assert (others >= 1000).all()
    assert len(set(own[:3].ravel().tolist())) == 72, "half an epoch, each example once"
    assert len(set(others.ravel().tolist())) > 100, "drawn anew in every batch"


def test_steps_per_epoch():
    assert steps_per_epoch(50_000, 128) == 390
    with pytest.raises(ValueError, match="too few"):
        steps_per_epoch(100, 128)
