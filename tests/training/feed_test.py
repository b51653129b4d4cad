"""A stream trains as a resident data set does, number by number."""

import shutil

import jax
import numpy as np
import pytest

from rfm import data
from rfm.data import npy
from rfm.devices import make_mesh
from rfm.errors import UserError
from rfm.training import loop
from rfm.training.dispatch import rows_of_step
from rfm.training.feed import Streamed, _own_positions

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH = 32


def state_and_metrics(run, workdir):
    state = loop.train(run, workdir)
    return jax.device_get(jax.tree.leaves(state)), (workdir / "metrics.jsonl").read_bytes()


def assert_same(found, expected):
    for a, b in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert found[1] == expected[1]


@pytest.fixture
def resident(config, build_run, tmp_path):
    return state_and_metrics(build_run(config), tmp_path / "resident")


def test_a_stream_is_the_same_run(config, build_run, resident, tmp_path):
    config.data.stream = 4
    assert_same(state_and_metrics(build_run(config), tmp_path / "stream"), resident)


def test_a_stream_from_a_folder_that_is_interrupted_is_the_same_run(
    config, build_run, resident, tmp_path
):
    npy.write(data.load("digits", train_examples=160), str(tmp_path / "digits"))
    config.data.update(source=str(tmp_path / "digits"), train_examples=0, stream=2)
    run, workdir, asked = build_run(config), tmp_path / "stream", []

    def once() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(loop.Interrupted):
        loop.train(run, workdir, should_stop=once)
    shutil.rmtree(workdir / "tensorboard")
    found = state_and_metrics(run, workdir)
    assert_same(found, resident)


def test_optimisers_of_several_batches_can_be_streamed(config, build_run, tmp_path):
    config.optimiser.update(name="entropy_sgd", inner_steps=2)
    expected = state_and_metrics(build_run(config), tmp_path / "resident")
    config.data.stream = 3
    assert_same(state_and_metrics(build_run(config), tmp_path / "stream"), expected)


def test_the_order_of_an_epoch_has_every_example_once():
    rows = rows_of_step(jax.random.key(0), 100, 8, 2)
    first = np.concatenate([rows(step) for step in range(6)])
    second = np.concatenate([rows(step) for step in range(6, 12)])
    assert len(set(first)) == len(first) == 96
    assert len(set(second)) == 96
    assert (first != second).any()


def test_devices_read_what_is_theirs(config, build_run):
    for devices in (1, 2, 4):
        np.testing.assert_array_equal(_own_positions(make_mesh(devices), BATCH), np.arange(BATCH))
    config.data.stream = 2
    run = build_run(config)
    batch = Streamed(run, 3).take(2)
    assert batch.images.shape == (2, 1, BATCH, 8, 8, 1)
    rows = rows_of_step(run.key("train"), 160, BATCH, 1)
    for i in range(2):
        np.testing.assert_array_equal(batch.labels[i, 0], run.dataset.train_labels[rows(3 + i)])


def test_pseudo_labels_and_streams_exclude_each_other(config, build_run):
    config.data.update(extra="some.npz", stream=2)
    with pytest.raises(UserError, match=r"config.data.extra with config.data.stream"):
        build_run(config)
