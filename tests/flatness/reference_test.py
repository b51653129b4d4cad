"""The loss at the weights themselves."""

import jax
import numpy as np
import pytest

from rfm import losses
from rfm.attacks import PGD
from rfm.flatness import reference
from rfm.threat import linf
from rfm.types import bind, example_keys

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

KEY = jax.random.key(3)
ATTACK = PGD(linf(0.1), 3, 0.03, restarts=2)


def test_without_attack_it_is_the_clean_loss(problem, tanh_network):
    apply_fn, params, x, y = problem
    found = reference(apply_fn, params, x, y, KEY, attack=None, batch_size=4)
    expected, *_ = tanh_network.differentiate(params, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_with_an_attack_it_is_the_loss_at_the_worst_inputs(linear_problem):
    apply_fn, params, x, y = linear_problem
    found = reference(apply_fn, params, x, y, KEY, attack=ATTACK, batch_size=10)
    adversarial = ATTACK(bind(apply_fn, params), x, y, KEY)
    np.testing.assert_allclose(found, adversarial.loss, rtol=1e-12)
    logits = apply_fn(params, adversarial.x)
    np.testing.assert_allclose(found, losses.cross_entropy(logits, y), rtol=1e-9)


@pytest.mark.parametrize("attack", [None, ATTACK])
def test_batches_do_not_matter(linear_problem, attack):
    apply_fn, params, x, y = linear_problem
    whole = reference(apply_fn, params, x, y, KEY, attack=attack, batch_size=10)
    for batch_size in (4, 64):
        cut = reference(apply_fn, params, x, y, KEY, attack=attack, batch_size=batch_size)
        np.testing.assert_allclose(cut, whole, rtol=1e-9)
    rows = np.array([7, 2, 5])
    keys = example_keys(KEY, 10)[rows]
    part = reference(apply_fn, params, x[rows], y[rows], keys, attack=attack, batch_size=4)
    np.testing.assert_allclose(part, whole[rows], rtol=1e-9)


def test_devices_do_not_matter(linear_problem, four_devices):
    apply_fn, params, x, y = linear_problem
    found, expected = (
        reference(apply_fn, params, x, y, KEY, attack=ATTACK, batch_size=8, mesh=mesh)
        for mesh in (four_devices, None)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_result_is_on_the_host_in_double_precision(linear_problem):
    apply_fn, params, x, y = linear_problem
    done = []
    with jax.enable_x64(False):
        params, x = jax.tree.map(np.float32, (params, x))
        found = reference(
            apply_fn, params, x, y, KEY, attack=None, batch_size=4, on_batch=done.append
        )
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    assert done == [4, 8, 10]


def test_checkpoints_share_one_compilation(linear_problem):
    apply_fn, params, x, y = linear_problem
    traces, counts = [], []

    def logits(params, x):
        traces.append(1)
        return apply_fn(params, x)

    for s in (1.0, 0.9, 0.8):
        scaled = jax.tree.map(lambda w, s=s: s * w, params)
        reference(logits, scaled, x, y, KEY, attack=ATTACK, batch_size=4)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]
