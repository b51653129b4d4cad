"""The Square attack: its published schedule, its patterns, and random search as it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm import losses
from rfm.attacks import Square, square
from rfm.attacks._bumps import pair_of_bumps
from rfm.attacks.square import (
    _change_l2,
    _change_linf,
    _schedule,
    _start,
    _step,
    share_of_pixels,
)
from rfm.threat import Linf, l2, linf
from rfm.types import bind, example_keys

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(11)
PIXELS = st.floats(0, 1, width=32, allow_subnormal=False)
THREATS = {"linf": linf, "l2": l2}


@pytest.fixture
def problem(crops, tanh_network):
    x, _ = crops(8, 8)
    network = tanh_network(192)
    logits_fn = bind(network.logits, jax.tree.map(np.float32, network.params))
    return logits_fn, x, np.asarray(logits_fn(x)).argmax(1)


# The schedule


@pytest.mark.parametrize(
    ("query", "halvings"),
    [(0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (201, 3), (501, 4), (1000, 4),
     (1001, 5), (2001, 6), (4000, 6), (4001, 7), (6001, 8), (8000, 8), (8001, 9), (9999, 9)],
)  # fmt: skip
@pytest.mark.parametrize("budget", [10_000, 5000, 1000])
def test_share_of_pixels_is_halved_when_published(query, halvings, budget):
    share = share_of_pixels(query, budget, initial=0.8, rescale=False)
    assert share == 0.8 / 2**halvings
    if query * budget % 10_000 == 0:
        scaled = query * budget // 10_000
        assert share_of_pixels(scaled, budget, initial=0.8, rescale=True) == share


def test_sides_of_the_squares():
    """Of 32 x 32 pixels, the square root of the share, at least one pixel (L2: odd, three)."""
    sides = np.asarray(_schedule(Square(linf(0.1)), 32, 32).sides)
    assert sides[[0, 11, 51, 201, 501, 1001, 2001, 4001]].tolist() == [29, 20, 14, 10, 7, 5, 4, 3]
    sides = np.asarray(_schedule(Square(l2(0.5)), 32, 32).sides)
    assert sides[[0, 11, 51, 201, 501, 1001, 2001, 4001]].tolist() == [29, 21, 15, 11, 7, 5, 5, 3]


# The patterns


@pytest.mark.parametrize("size", range(1, 30))
def test_pairs_of_bumps(size):
    """Norm one; a positive upper part, a negative lower one; highest in the middle of each."""
    pattern, upper = pair_of_bumps(size), size // 2
    np.testing.assert_allclose(np.linalg.norm(pattern), 1.0, rtol=1e-5)
    assert (pattern[:upper] > 0).all()
    assert (pattern[upper:] < 0).all()
    if upper:
        assert np.unravel_index(pattern.argmax(), pattern.shape) == (upper // 2, size // 2)


def test_a_bump_by_hand():
    """2 x 4 above 2 x 4, the middle in row 1, column 2; squares of half-width 0, 1, 2."""
    pattern = pair_of_bumps(4)
    weights = np.array([1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9])
    away = np.array([[2, 1, 1, 1], [2, 1, 0, 1]])
    expected = weights[away]
    ratio = pattern[:2] / expected
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    np.testing.assert_allclose(pattern[2:], -pattern[:2], rtol=1e-5)


@given(side=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_change_in_linf_is_one_square_of_full_size(side, seed):
    delta = 0.1 * np.ones((8, 9, 3), np.float32)
    change = np.asarray(_change_linf(jax.random.key(seed), delta, side, 0.1)) - delta
    rows, columns = np.flatnonzero(change.any((1, 2))), np.flatnonzero(change.any((0, 2)))
    assert len(rows) == len(columns) == side
    assert rows[-1] - rows[0] == columns[-1] - columns[0] == side - 1
    inside = change[rows][:, columns]
    np.testing.assert_allclose(np.abs(inside), 0.2, rtol=1e-5)
    assert (inside == inside[:1, :1]).all(), "one sign per channel"


@settings(max_examples=25)
@given(side=st.sampled_from([3, 5, 7]), seed=st.integers(0, 99))
def test_a_change_in_l2_moves_norm_between_two_windows(side, seed):
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=(9, 9, 3)).astype(np.float32)
    unused = 0.5 * seed * 3
    epsilon = float(np.sqrt(np.sum(delta.astype(np.float64) ** 2) + unused))
    bump = np.zeros((9, 9), np.float32)
    bump[:side, :side] = pair_of_bumps(side)
    key = jax.random.key(seed)
    changed = np.asarray(_change_l2(key, delta, side, jnp.asarray(bump), epsilon))
    touched = (changed != delta).any(-1)
    assert side**2 <= touched.sum() <= 2 * side**2
    norms = np.linalg.norm(np.where(touched[..., None], changed, 0), axis=(0, 1))
    before = np.linalg.norm(delta[touched], axis=0)
    np.testing.assert_allclose(norms, np.sqrt(before**2 + unused / 3), rtol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(changed), epsilon, rtol=1e-3)


# Random search


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(max_examples=15)
@given(
    x=hnp.arrays(np.float32, (2, 8, 8, 3), elements=PIXELS),
    epsilon=st.sampled_from([0.01, 0.1, 3.0]),
    seed=st.integers(0, 99),
)
def test_results_are_in_the_ball_and_in_the_box(tanh_network, norm, x, epsilon, seed):
    network = tanh_network(192)
    logits_fn = bind(network.logits, jax.tree.map(np.float32, network.params))
    threat = THREATS[norm](epsilon)
    found = Square(threat, 20)(logits_fn, x, np.zeros(2, np.int32), jax.random.key(seed))
    assert ((found.x >= 0) & (found.x <= 1)).all()
    assert (threat.norm(found.x - x) <= epsilon * (1 + 1e-5) + 1e-6).all()
    assert np.isfinite(found.x).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_loss_rises_and_what_is_broken_stays(problem, norm):
    logits_fn, x, y = problem
    attack = Square(THREATS[norm]({"linf": 0.05, "l2": 0.5}[norm]), 60)
    keys, schedule = example_keys(KEY, len(x)), _schedule(attack, 8, 8)
    state = _start(attack, logits_fn, x, y, keys)
    first = state.found
    for _ in range(60):
        before = state.found
        state = _step(attack, logits_fn, x, y, keys, schedule, state)
        found = state.found
        risen = (found.loss >= before.loss) | (found.success & ~before.success)
        assert risen.all()
        kept = np.asarray(before.success)
        np.testing.assert_array_equal(np.asarray(found.x)[kept], np.asarray(before.x)[kept])
        np.testing.assert_allclose(found.loss, losses.margin(logits_fn(found.x), y), atol=1e-5)
    assert (found.loss > first.loss + 1e-3).sum() >= 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_queries_and_restarts_break_more(problem, norm):
    logits_fn, x, y = problem
    threat = THREATS[norm]({"linf": 0.06, "l2": 0.6}[norm])
    few, many = (Square(threat, q)(logits_fn, x, y, KEY) for q in (5, 400))
    assert (many.success >= few.success).all()
    assert many.success.sum() > few.success.sum()
    runs = [Square(threat, 20, restarts=r)(logits_fn, x, y, KEY) for r in (1, 3)]
    assert (runs[1].success >= runs[0].success).all()


def test_it_comes_near_the_optimum_of_a_linear_model(crops):
    x, _ = crops(4, 8)
    weight = np.random.default_rng(0).normal(size=x.shape[1:]).astype(np.float32)

    def score(x):
        value = (x * weight).sum((1, 2, 3)) - 1000.0  # never misclassified
        return jnp.stack([jnp.zeros_like(value), value], axis=1)

    best = np.clip(x + 0.1 * np.sign(weight), 0, 1)
    found = Square(linf(0.1), 3000, rescale=True)(score, x, np.zeros(4, int), KEY)
    gained, possible = ((v - x) * weight for v in (np.asarray(found.x), best))
    assert (gained.sum((1, 2, 3)) > 0.85 * possible.sum((1, 2, 3))).all()


def test_it_ends_when_all_are_broken(problem):
    """Half a million queries would take minutes."""
    logits_fn, x, y = problem
    found = Square(Linf(1.0), 500_000)(logits_fn, x, (y + 1) % 4, KEY)
    assert found.success.all()


def test_compiled_and_step_by_step_are_the_same(problem):
    logits_fn, x, y = problem
    one, other = (
        Square(linf(0.05), 25, compiled=compiled)(logits_fn, x, y, KEY)
        for compiled in (True, False)
    )
    np.testing.assert_array_equal(one.success, other.success)
    np.testing.assert_allclose(one.x, other.x, atol=1e-6)


def test_with_keys_per_example_batches_do_not_matter(problem):
    logits_fn, x, y = problem
    attack, keys = Square(l2(0.5), 20), example_keys(KEY, len(x))
    whole, part = attack(logits_fn, x, y, keys), attack(logits_fn, x[2:4], y[2:4], keys[2:4])
    np.testing.assert_allclose(whole.x[2:4], part.x, atol=1e-5)


def test_devices_do_not_matter(problem, spread):
    logits_fn, x, y = problem
    attack, keys = Square(linf(0.05), 20), example_keys(KEY, 8)
    one, several = attack(logits_fn, x, y, keys), attack(logits_fn, *spread((x, y, keys)))
    np.testing.assert_allclose(one.x, several.x, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"restarts": 0}, {"initial_share": 0.0}])
def test_bad_settings_are_told(wrong):
    with pytest.raises(ValueError, match="Square needs"):
        Square(linf(0.1), **wrong)


def test_other_balls_are_refused():
    with pytest.raises(ValueError, match="L-infinity and L2"):
        square(lambda x: x, jnp.ones((1, 2, 2, 1)), jnp.zeros(1, int), KEY, threat="linf")
