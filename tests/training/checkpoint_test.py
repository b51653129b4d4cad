"""Checkpoints: exact, verified, and forgiving of one damaged copy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.errors import UserError
from rfm.training.checkpoint import Checkpoints
from rfm.training.state import create_train_state


def state_at(step):
    params = {"kernel": jax.random.normal(jax.random.key(step), (64, 64))}
    state = create_train_state(
        params, {"mean": jnp.ones(3)}, {"trace": jax.tree.map(jnp.copy, params)}
    )
    return state.replace(step=jnp.int32(step))


def open_at(path, every=100):
    return Checkpoints(path / "checkpoints", snapshot_steps=every)


def fill(path, steps, every=100):
    with open_at(path, every) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_at(step))


def damage(path, step):
    """Flips a byte in the middle of every array file, leaving sizes alone."""
    folder = path / "checkpoints" / str(step) / "state"
    for file in folder.rglob("*"):
        if file.is_file() and "/d/" in str(file):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 0xFF
            file.write_bytes(bytes(data))


def test_roundtrip_is_exact(tmp_path):
    fill(tmp_path, [3])
    with open_at(tmp_path) as checkpoints:
        found = checkpoints.restore(3, state_at(0))
    jax.tree.map(np.testing.assert_array_equal, found, state_at(3))


def test_saving_survives_donation_of_the_state(tmp_path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda v: v * 0 - 1, s), donate_argnums=0)
    with open_at(tmp_path) as checkpoints:
        state = state_at(5)
        checkpoints.save(5, state)
        jax.block_until_ready(overwrite(state))
    with open_at(tmp_path) as checkpoints:
        found = checkpoints.restore(5, state_at(0))
    jax.tree.map(np.testing.assert_array_equal, found, state_at(5))


def test_keeps_the_two_latest_and_all_snapshots(tmp_path):
    fill(tmp_path, [0, 3, 6, 10, 13, 16, 20, 21, 22, 23], every=10)
    with open_at(tmp_path, every=10) as checkpoints:
        assert checkpoints.steps() == [0, 10, 20, 22, 23]


def test_damaged_newest_is_reported_and_the_one_before_it_used(tmp_path):
    fill(tmp_path, [1, 2])
    damage(tmp_path, 2)
    said = []
    with open_at(tmp_path) as checkpoints:
        found = checkpoints.restore_latest(state_at(0), said.append)
        assert int(found.step) == 1
        assert checkpoints.steps() == [1]
        checkpoints.save(2, state_at(2))  # the run gets there again
    assert len(said) == 1
    assert "checkpoints/2" in said[0]
    assert "damaged" in said[0]
    assert (tmp_path / "damaged" / "2").is_dir()


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_not(tmp_path):
    with open_at(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(state_at(0), print) is None
    fill(tmp_path, [1])
    damage(tmp_path, 1)
    with open_at(tmp_path) as checkpoints, pytest.raises(UserError, match="is whole"):
        checkpoints.restore_latest(state_at(0), print)


def test_a_change_that_still_decodes_is_found_by_the_checksum(tmp_path, monkeypatch):
    fill(tmp_path, [1])
    import rfm.training.checkpoint as module

    real = module._checksums
    monkeypatch.setattr(module, "_checksums", lambda s: {k: v ^ 1 for k, v in real(s).items()})
    with (
        open_at(tmp_path) as checkpoints,
        pytest.raises(UserError, match="differs from its checksum"),
    ):
        checkpoints.restore(1, state_at(0))


def test_missing_step_is_a_line(tmp_path):
    fill(tmp_path, [1])
    with (
        open_at(tmp_path) as checkpoints,
        pytest.raises(UserError, match="no checkpoint of step 7"),
    ):
        checkpoints.restore(7, state_at(0))
