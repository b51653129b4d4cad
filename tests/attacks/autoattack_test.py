"""AutoAttack: the ensemble, what it keeps, and what it warns of."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import losses
from rfm.attacks import APGD, FAB, PGD, Square, Stage, autoattack, checks
from rfm.attacks.autoattack import STANDS, WAS_WRONG, choose_size, waiting
from rfm.attacks.ensembles import standard
from rfm.threat import linf
from rfm.types import bind

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(2)
EPSILON = 0.015


def quick(threat) -> tuple[Stage, ...]:
    """The standard ensemble with small budgets."""
    return (
        Stage("apgd-ce", APGD(threat, 10)),
        Stage(
            "apgd-t",
            APGD(threat, 10, loss=losses.targeted_difference_of_logits_ratio),
            passes=9,
            targeted=True,
        ),
        Stage("fab-t", FAB(threat, 10), passes=9, targeted=True),
        Stage("square", Square(threat, 50)),
    )


@pytest.fixture
def problem(crops, tanh_network):
    """24 real images; a fifth has a label that the network does not give."""
    x, _ = crops(24, 8)
    network = tanh_network(192)
    logits_fn = bind(network.logits, jax.tree.map(np.float32, network.params))
    y = np.asarray(logits_fn(x)).argmax(1).astype(np.int32)
    y[::5] = (y[::5] + 1) % 4
    return logits_fn, x, y


def attack(problem, **more):
    logits_fn, x, y = problem
    settings = {"threat": linf(EPSILON), "version": quick(linf(EPSILON)), "batch_size": 10}
    return autoattack(logits_fn, x, y, KEY, **(settings | more))


def test_results_say_what_broke_what(problem):
    logits_fn, x, y = problem
    found = attack(problem)
    wrong = np.asarray(losses.is_misclassified(logits_fn(x), y))
    np.testing.assert_array_equal(found.broken_by == "clean", wrong)
    np.testing.assert_array_equal(found.broken_by == "", found.robust)
    assert set(found.broken_by) <= {"", "clean", "apgd-ce", "apgd-t", "fab-t", "square"}
    assert 0 < found.robust.sum() < (~wrong).sum(), "some fall, some stand"


def test_adversarial_examples_are_what_they_should_be(problem):
    """In the ball, in the box, misclassified; the input itself where nothing was found."""
    logits_fn, x, y = problem
    found = attack(problem)
    np.testing.assert_array_equal(losses.is_misclassified(logits_fn(found.x), y), ~found.robust)
    assert np.abs(found.x - x).max() <= EPSILON + 1e-6
    assert ((found.x >= 0) & (found.x <= 1)).all()
    untouched = found.robust | (found.broken_by == "clean")
    np.testing.assert_array_equal(found.x[untouched], x[untouched])
    np.testing.assert_allclose(found.loss, losses.cross_entropy(logits_fn(found.x), y), rtol=1e-4)


def test_nothing_that_is_out_of_the_ball_or_classified_correctly_counts(problem):
    """Attacks that claim everything."""

    class Liar:
        threat = linf(EPSILON)

        def __init__(self, change):
            self.change = change

        def __call__(self, logits_fn, x, y, key):
            found = PGD(linf(1.0), 1, 0.1)(logits_fn, x, y, key)
            return found._replace(x=self.change(x), success=jnp.ones(len(x), bool))

    logits_fn, x, y = problem
    for change in (lambda x: x, lambda x: 1 - x, lambda x: x + 0.01 * jnp.nan, lambda x: x - 0.04):
        found = attack(problem, version=(Stage("liar", Liar(change)),))
        assert not (found.broken_by == "liar").any()
        np.testing.assert_array_equal(found.x, x)
    # In the ball and misclassified, but below 0.
    dark = np.concatenate([0 * x[:1], x[1:]])
    found = attack(
        (lambda x: logits_fn(jnp.where(x < 0, 1 - x, x)), dark, y),
        version=(Stage("liar", Liar(lambda x: x - 0.01)),),
    )
    assert found.broken_by[0] != "liar"


def test_each_stage_attacks_only_what_stands(problem):
    seen = []

    class Watched(APGD):
        def __call__(self, logits_fn, x, y, key, targets=None):
            seen.append(np.asarray(x))
            return super().__call__(logits_fn, x, y, key, targets)

    first, second = Watched(linf(EPSILON), 5), Watched(linf(EPSILON), 6)
    found = attack(problem, version=(Stage("a", first), Stage("b", second, passes=2)))
    x = problem[1]
    rows = [[int(np.argmin(np.abs(x - one).sum((1, 2, 3)))) for one in batch] for batch in seen]
    assert {len(batch) for batch in rows} == {10}, "one size, one compilation"
    stands = set(np.flatnonzero(found.broken_by != "clean"))
    calls = math.ceil(len(stands) / 10)
    assert set(np.ravel(rows[:calls])) == stands
    left = stands - set(np.flatnonzero(found.broken_by == "a"))
    assert set(np.ravel(rows[calls:])) == left
    pairs = len(left) + len(left - set(np.flatnonzero(found.broken_by == "b")))
    assert len(rows) - calls <= math.ceil((pairs + 10) / 10), "passes share batches"


def waiting_one_by_one(stands, tried, passes, limit):
    n = len(stands)
    pairs = [part * n + i for part in range(passes) for i in range(n) if stands[i]]
    return [pair for pair in pairs if pair >= tried][:limit]


@hypothesis.given(
    st.lists(st.booleans(), min_size=1, max_size=9).filter(any),
    st.integers(0, 40),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_the_queue_goes_pass_by_pass_over_what_stands(stands, tried, passes, limit):
    found = waiting(np.array(stands), tried, passes, limit=limit)
    np.testing.assert_array_equal(found, waiting_one_by_one(stands, tried, passes, limit))


def test_few_survivors_come_in_small_batches():
    sizes = (128, 96, 64, 32)
    chosen = {rows: choose_size(rows, sizes) for rows in (1, 32, 33, 90, 96, 97, 128, 500)}
    assert chosen == {1: 32, 32: 32, 33: 64, 90: 96, 96: 96, 97: 128, 128: 128, 500: 128}
    assert choose_size(3, (10,)) == 10


def test_more_stages_never_make_a_model_look_more_robust(problem):
    stages = quick(linf(EPSILON))
    robust = [attack(problem, version=stages[:k]).robust for k in (1, 2, 4)]
    for few, many in itertools.pairwise(robust):
        assert (many <= few).all()


def test_it_breaks_what_pgd_breaks(problem):
    logits_fn, x, y = problem
    robust = attack(problem, version=standard(linf(EPSILON))[:2]).robust
    pgd = PGD(linf(EPSILON), 20, 0.007, restarts=10)(logits_fn, x, y, KEY)
    standing = ~np.asarray(losses.is_misclassified(logits_fn(x), y)) & ~np.asarray(pgd.success)
    assert (robust & ~standing).sum() <= 1


def test_batches_do_not_matter(problem):
    one, *others = (attack(problem, batch_size=size) for size in (24, 7, (64, 16)))
    for other in others:
        np.testing.assert_array_equal(one.broken_by, other.broken_by)
        np.testing.assert_allclose(one.x, other.x, atol=1e-5)


def test_devices_do_not_matter(problem, four_devices):
    one, several = attack(problem, batch_size=8), attack(problem, batch_size=8, mesh=four_devices)
    np.testing.assert_array_equal(one.broken_by, several.broken_by)


def test_interrupted_anywhere_it_ends_the_same(problem):
    states = []
    whole = attack(problem, on_progress=states.append)
    assert len(states) > 4
    for state in states[:: max(len(states) // 5, 1)]:
        copied = jax.tree.map(np.array, state)
        copied = copied._replace(stage=int(state.stage), tried=int(state.tried))
        resumed = attack(problem, progress=copied)
        np.testing.assert_array_equal(whole.broken_by, resumed.broken_by)
        np.testing.assert_array_equal(whole.x, resumed.x)


def test_progress_says_how_far_it_is(problem):
    states = []
    attack(problem, on_progress=states.append)
    stands = [int(state.stands.sum()) for state in states]
    assert stands == sorted(stands, reverse=True)
    places = [(state.stage, state.tried) for state in states]
    assert places == sorted(places)
    assert {STANDS, WAS_WRONG} <= set(states[-1].broken_by)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes_work(crops, tanh_network, classes):
    x, _ = crops(8, 8)
    network = tanh_network(192, classes=classes)
    logits_fn = bind(network.logits, jax.tree.map(np.float32, network.params))
    y = np.asarray(logits_fn(x)).argmax(1)
    found = autoattack(
        logits_fn, x, y, KEY, threat=linf(0.1), version=(*quick(linf(0.1)), *quick_plus(linf(0.1)))
    )
    assert np.isfinite(found.x).all()
    assert (~found.robust).sum() >= 4


def quick_plus(threat) -> tuple[Stage, ...]:
    dlr = losses.difference_of_logits_ratio
    return (Stage("apgd-dlr", APGD(threat, 5, loss=dlr), passes=2), Stage("fab", FAB(threat, 5)))


def test_a_random_model_takes_a_key(problem):
    _, x, y = problem
    logits_fn = problem[0]

    def noisy(x, key):
        return logits_fn(x + 0.01 * jax.random.normal(key, x.shape))

    found = autoattack(
        noisy,
        x,
        y,
        KEY,
        threat=linf(EPSILON),
        version=(Stage("a", APGD(linf(EPSILON), 5, draws=3)),),
    )
    assert (found.broken_by == "a").any()


def test_checkpoints_share_compilations(problem):
    _, x, y = problem
    traced = []

    def model(scale, x):
        traced.append(1)
        return scale * problem[0](x)

    for scale in (1.0, 1.5):
        before = len(traced)
        autoattack(
            bind(model, jnp.float32(scale)), x, y, KEY,
            threat=linf(EPSILON), version=quick(linf(EPSILON))[:2], batch_size=24,
        )  # fmt: skip
        again = len(traced) - before
    # What is not compiled: the number of classes, the outputs, their changes (five calls).
    assert again <= 7


# Warnings


def test_a_sound_model_causes_no_warning(problem):
    assert attack(problem).warnings == ()


def test_probabilities_are_noticed(problem):
    logits_fn, x, y = problem
    found = attack((lambda x: jax.nn.softmax(logits_fn(x)), x, y))
    assert any("probabilities" in line for line in found.warnings)


def test_outputs_that_change_are_noticed(problem):
    logits_fn, x, y = problem
    rng = np.random.default_rng(0)
    found = attack((lambda x: logits_fn(x) * (1 + 0.1 * rng.normal(size=4)), x, y))
    assert any("change between calls" in line for line in found.warnings)


def test_zero_gradients_and_a_square_attack_that_does_better_are_noticed(problem):
    logits_fn, x, y = problem

    def rounded(x):
        return logits_fn(jnp.round(x * 30) / 30)

    y = np.asarray(rounded(x)).argmax(1)
    found = attack(
        (rounded, x, y), version=(quick(linf(0.1))[0], Stage("square", Square(linf(0.1), 200)))
    )
    assert any("exactly zero at 100% of the inputs" in line for line in found.warnings)
    assert any("the Square attack broke" in line for line in found.warnings)


def test_square_alone_is_no_surprise():
    assert checks.square_is_better(np.array([0, 0, STANDS]), 1) is None
    assert "33.3%" in (checks.square_is_better(np.array([0, 1, STANDS]), 1) or "")


# The door


def test_bad_versions_are_told(problem):
    with pytest.raises(ValueError, match="one of standard, plus, rand, got 'strong'"):
        attack(problem, version="strong")


def test_stages_for_different_models_are_told(problem):
    mixed = (Stage("a", APGD(linf(0.1), draws=2)), Stage("b", Square(linf(0.1))))
    with pytest.raises(ValueError, match="take a key"):
        attack(problem, version=mixed)


def test_inputs_out_of_the_box_are_told(problem):
    logits_fn, x, y = problem
    with pytest.raises(ValueError, match=r"inputs in \[0, 1\]"):
        attack((logits_fn, x * 255, y))
    with pytest.raises(ValueError, match="24 and 23"):
        attack((logits_fn, x, y[1:]))


def test_labels_that_are_no_classes_are_told(problem):
    logits_fn, x, y = problem
    with pytest.raises(ValueError, match=r"labels must be from 0 to 3, .* got [01] to 4"):
        attack((logits_fn, x, np.where(np.arange(24) == 0, 4, y)))


def test_progress_of_other_examples_is_told(problem):
    states = []
    attack(problem, version=quick(linf(EPSILON))[:1], on_progress=states.append)
    logits_fn, x, y = problem
    with pytest.raises(ValueError, match="progress is of 24 examples, but there are 23"):
        attack((logits_fn, x[1:], y[1:]), progress=states[0])


@pytest.mark.parametrize("size", [0, (), (8, 0)])
def test_batches_of_nothing_are_told(problem, size):
    with pytest.raises(ValueError, match="batch_size must be positive"):
        attack(problem, batch_size=size)
