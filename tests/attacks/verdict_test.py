"""Adversarial examples and logits from elsewhere."""

import jax
import numpy as np
import pytest

from rfm import losses
from rfm.attacks import PGD, judge, judge_logits
from rfm.threat import linf
from rfm.types import bind

pytestmark = pytest.mark.usefixtures("quick_compilation")

EPSILON = 0.012


@pytest.fixture
def problem(crops, tanh_network):
    """24 real images, one of them with a label that the network does not give, and two attacks."""
    x, _ = crops(24, 8)
    network = tanh_network(192)
    logits_fn = bind(network.logits, jax.tree.map(np.float32, network.params))
    y = np.asarray(logits_fn(x)).argmax(1).astype(np.int32)
    y[3] = (y[3] + 1) % 4
    key = jax.random.key(0)
    weak = PGD(linf(EPSILON), 1, EPSILON / 2)(logits_fn, x, y, key)
    strong = PGD(linf(EPSILON), 20, EPSILON / 4)(logits_fn, x, y, key)
    return logits_fn, x, y, {"weak": np.asarray(weak.x), "strong": np.asarray(strong.x)}


@pytest.mark.parametrize("batch_size", [128, 7])
def test_the_first_that_breaks_an_example_counts(problem, batch_size):
    logits_fn, x, y, saved = problem
    found = judge(logits_fn, x, y, saved, threat=linf(EPSILON), batch_size=batch_size)
    clean, weak, strong = (
        np.asarray(losses.is_misclassified(logits_fn(v), y)) for v in (x, *saved.values())
    )
    expected = np.where(clean, "clean", np.where(weak, "weak", np.where(strong, "strong", "")))
    np.testing.assert_array_equal(found.broken_by, expected)
    assert {"clean", "weak", "strong", ""} == set(expected), "all four occur"
    np.testing.assert_array_equal(found.robust, expected == "")
    where = {"clean": x, "": x, **saved}
    points = np.stack([where[name][i] for i, name in enumerate(expected)])
    np.testing.assert_array_equal(found.x, points)
    np.testing.assert_allclose(found.loss, losses.cross_entropy(logits_fn(points), y), rtol=1e-5)
    assert found.warnings == ()


def test_points_out_of_the_ball_or_the_box_do_not_count(problem):
    logits_fn, x, y, saved = problem
    found = judge(logits_fn, x, y, saved, threat=linf(EPSILON / 10))
    assert set(found.broken_by) == {"", "clean"}
    assert len(found.warnings) == 2
    assert "strong: " in found.warnings[1]
    assert "not in the ball" in found.warnings[1]
    outside = {"negative": x - 0.01}
    assert "negative: " in judge(logits_fn, x, y, outside, threat=linf(EPSILON)).warnings[0]
    not_numbers = judge(logits_fn, x, y, {"nan": x * np.nan}, threat=linf(EPSILON))
    assert set(not_numbers.broken_by) == {"", "clean"}


def test_logits_say_the_same_as_points(problem):
    logits_fn, x, y, saved = problem
    points = judge(logits_fn, x, y, saved, threat=linf(EPSILON))
    logits = {name: np.asarray(logits_fn(there)) for name, there in saved.items()}
    found = judge_logits(np.asarray(logits_fn(x)), y, logits)
    np.testing.assert_array_equal(found.broken_by, points.broken_by)
    np.testing.assert_allclose(found.loss, points.loss, rtol=1e-5)
    assert found.x is None


def test_what_does_not_fit_is_told(problem):
    logits_fn, x, y, _ = problem
    with pytest.raises(ValueError, match="weak must have shape"):
        judge(logits_fn, x, y, {"weak": x[1:]}, threat=linf(EPSILON))
    with pytest.raises(ValueError, match=r"inputs in \[0, 1\]"):
        judge(logits_fn, x * 255, y, {}, threat=linf(EPSILON))
    logits = np.asarray(logits_fn(x))
    with pytest.raises(ValueError, match="strong must have shape"):
        judge_logits(logits, y, {"strong": logits[1:]})
    with pytest.raises(ValueError, match="labels must be from 0 to 3"):
        judge_logits(logits, y + 4, {})
