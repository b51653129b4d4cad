"""The loop: a run, interrupted and resumed, is the same run."""

import json

import jax
import numpy as np
import pytest

from rfm.errors import UserError
from rfm.training import build, loop
from rfm.training.checkpoint import Checkpoints
from rfm.training.metrics import read_lines

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_interrupted_at_every_dispatch_ends_bit_identical(run, tmp_path):
    whole = loop.train(run, tmp_path / "whole")
    calls = 0
    while True:
        calls += 1
        try:
            resumed = loop.train(run, tmp_path / "parts", should_stop=lambda: True)
            break
        except loop.Interrupted:
            pass
    assert calls >= 9  # 15 steps in dispatches of at most 2
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    files = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


def test_what_a_finished_run_leaves(run, tmp_path):
    told = []
    state = loop.train(run, tmp_path, progress=lambda *a: told.append(a))
    assert int(state.step) == run.total_steps == 15
    lines = read_lines(tmp_path / "metrics.jsonl")
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [5, 10, 15]
    for line in validations:
        assert 0 <= line["err"] <= line["rerr"] <= 1
        assert line["examples"] == 40
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert told[-1][:3] == ("train", 15, 15)
    assert {"loss", "error", "epoch"} <= set(told[-1][3])
    with Checkpoints(tmp_path / "checkpoints", snapshot_steps=5) as checkpoints:
        assert checkpoints.steps() == [0, 5, 10, 15]
    assert json.loads((tmp_path / "config.json").read_text())["name"] == "at"
    again = loop.train(run, tmp_path, progress=lambda *a: told.append("again"))
    assert "again" not in told, "a finished run is not trained again"
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_records_of_weights_that_are_no_more_are_not_taken_for_theirs(run, tmp_path):
    """As in an archive that has the records without the checkpoints."""
    record = tmp_path / "records/00000015/evaluation-test.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    told = []
    loop.train(run, tmp_path, warn=told.append)
    assert not record.exists()
    assert (tmp_path / "records-set-aside/00000015/evaluation-test.json").read_text() == "{}"
    assert len(told) == 1 and "from step 0" in told[0] and "records-set-aside" in told[0]
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    loop.train(run, tmp_path, warn=told.append)
    assert record.exists() and len(told) == 1, "a finished run keeps its records"


def test_training_learns(config, build_run, tmp_path):
    config.data.train_examples = 0
    config.train.update(epochs=4, snapshot_every=4, steps_per_dispatch=40)
    loop.train(build_run(config), tmp_path)
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert lines[-1]["error"] < 0.6  # chance is 0.9


def test_loss_that_is_not_finite_stops_with_the_last_good_state(config, build_run, tmp_path):
    config.optimiser.learning_rate = 1e30
    with pytest.raises(loop.NotFinite, match="not finite at step [23]"):
        loop.train(build_run(config), tmp_path)
    run = build_run(config)
    with Checkpoints(tmp_path / "checkpoints", snapshot_steps=5) as checkpoints:
        assert checkpoints.steps() == [0]
        state = checkpoints.restore(0, run.initial_state())
    jax.tree.map(np.testing.assert_array_equal, state, run.initial_state())


@pytest.mark.parametrize("end", ["asked to stop", "last step", "snapshot"])
def test_parameters_that_are_not_finite_are_not_saved(config, build_run, tmp_path, end):
    """The loss of a step is that before its update: the first update spoils the second."""
    config.optimiser.learning_rate = 1e38
    config.optimiser.weight_decay = 1e3
    config.train.update(steps_per_dispatch=1)
    if end == "last step":
        config.data.train_examples = config.train.batch_size
        config.train.epochs = 1
    if end == "snapshot":
        config.data.train_examples = config.train.batch_size
        config.train.update(epochs=5, snapshot_every=1)
    with pytest.raises(loop.NotFinite, match="the parameters are not finite at step 1; .*step 0"):
        loop.train(build_run(config), tmp_path, should_stop=lambda: end == "asked to stop")
    with Checkpoints(tmp_path / "checkpoints", snapshot_steps=5) as checkpoints:
        assert checkpoints.steps() == [0]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_workdir_of_another_config_is_refused(run, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(run.config.to_dict()))
    config.model.width = 8
    with pytest.raises(UserError, match=r"model\.width is 4 there and 8 here"):
        loop.train(build.build(config), tmp_path)
    config.model.width = 4
    config.flatness.worst.radius = 0.5  # how it is measured may differ
    config.train.epochs = 1
    with pytest.raises(UserError, match=r"train\.epochs"):
        loop.train(build.build(config), tmp_path)
