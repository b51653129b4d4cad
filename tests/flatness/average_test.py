"""Average-case flatness, Eq. (3), against closed forms and NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.stats

from rfm.attacks import PGD
from rfm.flatness import average_case, reference
from rfm.perturb import RelativeBall
from rfm.threat import l2, linf

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

KEY = jax.random.key(3)
BALL = RelativeBall(0.5)
ATTACK = PGD(linf(0.1), 3, 0.06, restarts=2)
SETTINGS = {"ball": BALL, "samples": 2, "attack": ATTACK, "batch_size": 4}


def softplus(score):
    return np.logaddexp(0, score)


# Closed forms


def test_clean_loss_of_a_linear_model(linear, crops):
    """A coordinate of a point uniform in a d-ball is a shifted beta((d + 1) / 2)."""
    x, _ = crops(1, 2)
    x, rng = x.astype(np.float64), np.random.default_rng(0)
    kernel, xi, samples = rng.normal(size=12), 0.5, 3000
    found = average_case(
        linear,
        {"kernel": kernel},
        x,
        np.zeros(1, int),
        KEY,
        ball=RelativeBall(xi),
        samples=samples,
        attack=None,
    )
    reach = xi * np.linalg.norm(kernel) * np.linalg.norm(x)
    score = kernel @ x.ravel()
    marginal = scipy.stats.beta(6.5, 6.5, loc=score - reach, scale=2 * reach)
    mean = marginal.expect(softplus)
    spread = np.sqrt(marginal.expect(lambda score: (softplus(score) - mean) ** 2))
    assert abs(found.value - (mean - softplus(score))) < 4 * spread / np.sqrt(samples)
    np.testing.assert_allclose(found.std, spread, rtol=0.1)
    np.testing.assert_allclose(found.reference, softplus(score), rtol=1e-12)


def test_robust_loss_of_a_linear_model(linear, draws, crops):
    """The attack gains epsilon times the dual norm of the perturbed weights, draw by draw."""
    x, _ = crops(5, 2)
    x = 0.3 + 0.4 * x.astype(np.float64)
    params, labels = {"kernel": np.random.default_rng(0).normal(size=12)}, np.zeros(5, int)
    for threat, order in [(linf(0.1), 1), (l2(0.1), 2)]:
        attack = PGD(threat, 60, 0.05)
        found = average_case(
            linear, params, x, labels, KEY, ball=BALL, samples=3, attack=attack, batch_size=2
        )
        for batch, rows in enumerate([[0, 1], [2, 3], [4]]):
            for draw in range(3):
                nu, _ = draws(BALL, None, KEY, params, x, batch, draw)
                moved = params["kernel"] + nu["kernel"]
                gain = 0.1 * np.linalg.norm(moved, ord=order)
                expected = softplus(x[rows].reshape(len(rows), -1) @ moved + gain)
                np.testing.assert_allclose(found.samples[draw, rows], expected, rtol=1e-6)
        gain = 0.1 * np.linalg.norm(params["kernel"], ord=order)
        expected = softplus(x.reshape(5, -1) @ params["kernel"] + gain)
        np.testing.assert_allclose(found.reference_losses, expected, rtol=1e-6)


# The slow reference


@pytest.mark.parametrize(
    ("ball", "attack"),
    [
        (BALL, None),
        (BALL, ATTACK),
        (RelativeBall(0.5, "filter"), PGD(l2(0.5), 3, 0.3, restarts=2)),
    ],
)
def test_agrees_with_numpy_number_by_number(problem, tanh_network, draws, ball, attack):
    """Ten examples in batches of four: the last one is padded."""
    apply_fn, params, x, y = problem
    settings = {"ball": ball, "samples": 2, "attack": attack, "batch_size": 4}
    found = average_case(apply_fn, params, x, y, KEY, **settings)
    expected, threat = np.zeros((2, 10)), attack and attack.threat
    for batch, rows in enumerate(np.split(np.arange(10), [4, 8])):
        for draw in range(2):
            begin = [draws(ball, threat, KEY, params, x, batch, draw, r) for r in range(2)]
            nu = begin[0][0]
            assert not nu["norm"]["scale"].any()
            assert nu["hidden"]["bias"].all()
            moved = jax.tree.map(np.add, params, nu)
            if attack is None:
                losses, *_ = tanh_network.differentiate(moved, x[rows], y[rows])
            else:
                _, losses, _ = tanh_network.pgd(
                    moved,
                    x[rows],
                    y[rows],
                    [delta[rows] for _, delta in begin],
                    norm="linf" if ball is BALL else "l2",
                    epsilon=threat.epsilon,
                    steps=3,
                    step_size=attack.step_size,
                )
            expected[draw, rows] = losses
    np.testing.assert_allclose(found.samples, expected, rtol=1e-9)
    value = expected.mean() - found.reference_losses.mean()
    np.testing.assert_allclose(found.value, value, rtol=1e-9)


# Properties


@pytest.mark.parametrize("attack", [None, PGD(linf(0.1), 3, 0.06, random_start=False)])
def test_a_ball_without_radius_is_flat(linear_problem, attack):
    apply_fn, params, x, y = linear_problem
    found = average_case(
        apply_fn,
        params,
        x,
        y,
        KEY,
        ball=RelativeBall(0.0),
        samples=2,
        attack=attack,
        batch_size=4,
    )
    np.testing.assert_allclose(found.samples, [found.reference_losses] * 2, rtol=1e-12)
    assert abs(found.value) < 1e-12


def test_every_batch_and_every_draw_has_weights_of_its_own(linear_problem):
    apply_fn, params, x, y = linear_problem
    same = np.repeat(x[:1], 6, axis=0), np.repeat(y[:1], 6)
    found = average_case(
        apply_fn, params, *same, KEY, ball=BALL, samples=3, attack=None, batch_size=3
    )
    np.testing.assert_allclose(found.samples[:, [0, 1]], found.samples[:, [2, 2]], rtol=1e-12)
    of_batch = found.samples[:, ::3]
    assert len(np.unique(of_batch.round(9))) == of_batch.size == 6


@pytest.mark.parametrize("attack", [None, PGD(linf(8 / 255), 2, 0.02)])
def test_scaling_convolutions_changes_nothing(residual_network, attack):
    """Fig. F and Tab. A: all convolutions are followed by batch normalisation."""
    settings = {"ball": BALL, "samples": 2, "attack": attack, "reference": np.zeros(6)}
    plain, half, double = (
        average_case(*residual_network(s), KEY, batch_size=4, **settings) for s in (1.0, 0.5, 2.0)
    )
    np.testing.assert_allclose(half.samples, plain.samples, rtol=1e-6)
    np.testing.assert_allclose(double.samples, plain.samples, rtol=1e-6)


# What must not matter


@pytest.mark.parametrize("attack", [None, ATTACK])
def test_devices_do_not_matter(linear_problem, four_devices, attack):
    apply_fn, params, x, y = linear_problem
    settings = SETTINGS | {"attack": attack}
    found, expected = (
        average_case(apply_fn, params, x, y, KEY, **settings, mesh=mesh)
        for mesh in (four_devices, None)
    )
    np.testing.assert_array_equal(found.samples, expected.samples)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-9)


@pytest.mark.parametrize("change", [{"compiled": False}, {"chunk": 2}])
def test_compiled_step_by_step_and_in_chunks_are_the_same(linear_problem, change):
    apply_fn, params, x, y = linear_problem
    found, other = (
        average_case(
            apply_fn,
            params,
            x,
            y,
            KEY,
            **SETTINGS | {"attack": attack, "reference": np.zeros(10)},
        )
        for attack in (ATTACK, dataclasses.replace(ATTACK, **change))
    )
    np.testing.assert_allclose(other.samples, found.samples, rtol=1e-9)


def test_the_reference_can_be_given(linear_problem):
    apply_fn, params, x, y = linear_problem
    given = np.arange(10.0)
    found = average_case(apply_fn, params, x, y, KEY, **SETTINGS, reference=given)
    np.testing.assert_array_equal(found.reference_losses, given)
    own = average_case(apply_fn, params, x, y, KEY, **SETTINGS)
    np.testing.assert_array_equal(own.samples, found.samples)
    key = jax.random.split(KEY, 3)[2]
    expected = reference(apply_fn, params, x, y, key, attack=ATTACK, batch_size=4)
    np.testing.assert_allclose(own.reference_losses, expected, rtol=1e-12)


def test_tells_how_far_it_is(linear_problem):
    apply_fn, params, x, y = linear_problem
    done = []
    average_case(apply_fn, params, x, y, KEY, **SETTINGS, on_batch=done.append)
    assert done == [4, 8, 10]


def test_checkpoints_share_one_compilation(linear_problem):
    apply_fn, params, x, y = linear_problem
    traces, counts = [], []

    def logits(params, x):
        traces.append(1)
        return apply_fn(params, x)

    for s in (1.0, 0.9, 0.8):
        scaled = jax.tree.map(lambda w, s=s: s * w, params)
        average_case(logits, scaled, x, y, KEY, **SETTINGS)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "at least one weight sample, got 0"),
        ({"reference": np.zeros(7)}, "reference has 7 losses for 10 examples"),
        ({"batch_size": 0}, "positive batch size"),
    ],
)
def test_bad_settings_are_told(linear_problem, settings, message):
    apply_fn, params, x, y = linear_problem
    with pytest.raises(ValueError, match=message):
        average_case(apply_fn, params, x, y, KEY, **SETTINGS | settings)


def test_fixed_draws_are_the_same_in_every_batch(linear_problem, draws):
    """Section D's alternative: samples in total, not per batch."""
    found = average_case(*linear_problem, KEY, **(SETTINGS | {"attack": None}), fixed=True)
    for sample in range(2):
        nu, _ = draws(BALL, None, KEY, linear_problem.params, linear_problem.x, 0, sample)
        score = linear_problem.x.reshape(10, -1) @ (linear_problem.params["kernel"] + nu["kernel"])
        expected = softplus(np.where(linear_problem.y, -score, score))
        np.testing.assert_allclose(found.samples[sample], expected, rtol=1e-9)
    assert found.batch_size == 10, "all examples share their draws"
