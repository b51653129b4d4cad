"""Objectives against Eqs. (13) to (16) in NumPy, and what their gradients pass through."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.training.objective import CrossEntropy, Mart, SelfSupervision, Trades

N, K = 6, 5
RNG = np.random.default_rng(0)
CLEAN, ADVERSARIAL = RNG.normal(size=(2, N, K)) * 2
LABELS = np.array([0, 1, 2, 3, 4, 0])

pytestmark = pytest.mark.usefixtures("x64")


def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def network(variables, x, rngs):
    """Logits are the inputs; the statistics count the passes and remember the last."""
    stats = variables["batch_stats"]
    return variables["params"] * x, {"passes": stats["passes"] + 1, "last": x.sum()}


def outcome(objective, clean=CLEAN, adversarial=ADVERSARIAL, labels=LABELS):
    variables = {"params": jnp.ones(()), "batch_stats": {"passes": 0, "last": jnp.zeros(())}}
    return objective(network, variables, jnp.asarray(clean), jnp.asarray(adversarial), labels, {})


def by_hand(name, weight, clean=CLEAN, adversarial=ADVERSARIAL, labels=LABELS):
    p, q = log_softmax(clean), log_softmax(adversarial)
    rows = np.arange(len(labels))
    divergence = (np.exp(p) * (p - q)).sum(1)
    if name == "trades":
        return -p[rows, labels] + weight * divergence
    others = np.exp(q).copy()
    others[rows, labels] = 0
    boosted = -q[rows, labels] - np.log(1 - others.max(1))
    return boosted + weight * divergence * (1 - np.exp(p[rows, labels]))


@pytest.mark.parametrize("weight", [0.0, 1.0, 6.0])
@pytest.mark.parametrize(("name", "make"), [("trades", Trades), ("mart", Mart)])
def test_losses_are_those_of_the_equations(name, make, weight):
    found = outcome(make(weight))
    np.testing.assert_allclose(found.losses, by_hand(name, weight), rtol=1e-9)
    np.testing.assert_array_equal(found.logits, ADVERSARIAL)


@pytest.mark.parametrize(("name", "make"), [("trades", Trades), ("mart", Mart)])
@pytest.mark.parametrize("side", ["clean", "adversarial"])
def test_gradients_pass_through_both_sides(name, make, side):
    """Nothing is held fixed in the update: gradients are finite differences of the equation."""
    at = {"clean": CLEAN, "adversarial": ADVERSARIAL}
    total = lambda z: outcome(make(6.0), **(at | {side: z})).losses.sum()  # noqa: E731
    found = jax.grad(total)(jnp.asarray(at[side]))
    step = 1e-6
    for index in np.ndindex(2, K):
        moved = []
        for sign in (1, -1):
            z = at[side].copy()
            z[index] += sign * step
            moved.append(by_hand(name, 6.0, **(at | {side: z})).sum())
        assert found[index] == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("objective", [Trades(6.0), Mart(6.0)])
def test_clean_and_adversarial_inputs_pass_apart_and_in_this_order(objective):
    stats = outcome(objective).batch_stats
    assert stats["passes"] == 2
    assert float(stats["last"]) == pytest.approx(ADVERSARIAL.sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_adversarial_training_sees_no_clean_input(smoothing):
    found = outcome(CrossEntropy(smoothing), clean=np.full((N, K), np.nan))
    q = log_softmax(ADVERSARIAL)
    targets = np.full((N, K), smoothing / (K - 1))
    targets[np.arange(N), LABELS] = 1 - smoothing
    np.testing.assert_allclose(found.losses, -(targets * q).sum(1), rtol=1e-9)
    assert found.batch_stats["passes"] == 1


def test_smoothing_is_of_the_first_term_of_trades():
    plain, smooth = outcome(Trades(2.0)).losses, outcome(Trades(2.0, 0.3)).losses
    p = log_softmax(CLEAN)
    targets = np.full((N, K), 0.3 / (K - 1))
    targets[np.arange(N), LABELS] = 0.7
    expected = -(targets * p).sum(1) + p[np.arange(N), LABELS]
    np.testing.assert_allclose(smooth - plain, expected, rtol=1e-8)


def test_rotations_count_lambda_times_and_by_their_own_head():
    """Eq. (16): the mean over classes plus lambda times the mean over rotations."""
    logits = RNG.normal(size=(N, K + 4))
    labels = np.array([0, K + 1, 2, K + 3, 4, K])
    found = outcome(SelfSupervision(K, 3.0), adversarial=logits, labels=labels).losses
    of_class, of_turn = log_softmax(logits[:, :K]), log_softmax(logits[:, K:])
    classes = [-of_class[i, labels[i]] for i in (0, 2, 4)]
    turns = [-of_turn[i, labels[i] - K] for i in (1, 3, 5)]
    assert found.mean() == pytest.approx(np.mean(classes) + 3 * np.mean(turns), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (functools.partial(CrossEntropy, 1.0), "label smoothing must be in"),
        (functools.partial(Trades, -1.0), "at least 0"),
        (functools.partial(Mart, float("nan")), "at least 0"),
        (functools.partial(SelfSupervision, 10, 1.0, -0.1), "label smoothing must be in"),
    ],
)
def test_bad_settings_are_told(make, line):
    with pytest.raises(ValueError, match=line):
        make()
