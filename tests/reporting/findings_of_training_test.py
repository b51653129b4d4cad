"""What the paper found of training, on runs whose answers are known."""

import numpy as np
import pytest
from scipy import stats

NAMES = tuple("abcdefgh")


def overfitted(method, ends, stopped=2.0, **config):
    for seed, end in enumerate(ends):
        method("at", 1.0, end, seed, stop=(1.0, stopped), config=config)


@pytest.mark.parametrize(
    ("ends", "held"),
    [
        ((3.0, 3.1, 3.2), True),
        ((2.0, 2.1, 3.5), None),
        ((2.0, 2.0, 1.9), None),
        ((1.7, 1.6, 1.8), False),
        ((3.0, 3.1), None),
        ((3.0,), None),
    ],
)
def test_overfitting_is_a_rise_beyond_the_seeds(method, ends, held, found):
    overfitted(method, ends)
    finding = found("Robust overfitting")
    rises = 50 * np.array(ends) - 100
    assert finding.held is held
    text = f"2.00 (early stopping) to {np.mean(ends):.2f}, {rises.mean():+.0f} %"
    if len(ends) > 1:
        text += f"; standard deviation over {len(ends)} seeds {rises.std(ddof=1):.0f}"
    assert finding.here == text
    if held:
        interval = stats.ttest_1samp(rises, 0).confidence_interval()
        assert interval.low > 0


def test_where_early_stopping_stops_is_chosen_on_other_examples(method, found):
    """The lowest of many values lies below the last one by chance alone."""
    rng, decided = np.random.default_rng(5), 0
    for trial in range(100):
        ends = 2 + 0.05 * rng.normal(size=(2, 3))
        rises = ends[1] / ends[0] - 1
        decided += bool(stats.ttest_1samp(rises, 0).confidence_interval().low > 0)
        if trial < 2:
            for seed, (stop, end) in enumerate(ends.T):
                method("at", 1.0, end, seed, path=f"{trial}/{seed}", stop=(1.0, stop),
                       config={"trial": trial})  # fmt: skip
    assert decided < 10, "the rule itself errs in 2.5 of 100"
    assert found("Robust overfitting") is None, "two settings of the baseline"


def test_seeds_that_are_not_measured_at_both_ends_are_counted(method, sweep, found):
    overfitted(method, (3.0, 3.1, 3.2))
    method("at", 1.0, 9.0, seed=3)
    sweep("at-4", "at", 4, rerr=None, trained=20)
    finding = found("Robust overfitting")
    assert finding.here.endswith("; 2 not measured at both ends left out")
    assert finding.held is True


def test_a_rise_below_half_of_the_papers_is_weaker(method, found):
    overfitted(method, (2.4, 2.41, 2.42))
    assert found("Robust overfitting").cells[-1] == "yes, but weaker"


def test_a_loss_of_zero_does_no_harm(method, found):
    overfitted(method, (0.0, 0.0, 0.0), stopped=0.0)
    assert found("Robust overfitting") is None


@pytest.mark.parametrize(("flatter", "held"), [(8, True), (5, None), (0, False)])
def test_early_stopping_counts_the_methods_that_it_helps(method, flatter, held, found):
    for number, name in enumerate(NAMES):
        for seed in range(2):
            method(name, 2.0, 3.0, seed, stop=(1.0 if number < flatter else 2.5, 2.0))
    method("i", 2.0, 3.0, stop=(1.0, 3.5))  # it harms
    method("j", 2.0, 3.0, stop=(2.5, 3.5))
    method("k", 2.0, 3.0)  # not measured there
    finding = found("Where early stopping lowers RLoss it finds flatter minima (average")
    assert finding.here == f"{flatter} of 8 such methods are flatter, 1 of the 2 others"
    assert finding.held is held


def test_what_overfits_more_gets_sharper(method, found):
    rng = np.random.default_rng(7)
    changes = np.stack([np.arange(8.0), np.arange(8.0) + 0.1 * rng.normal(size=8)])
    for name, (flat, loss) in zip(NAMES, changes.T, strict=True):
        stop = rng.uniform(1, 50, size=2)  # where it starts does not count
        method(name, stop[0] + flat, stop[1] + loss, stop=tuple(stop))
    finding = found("What overfits more gets sharper")
    assert finding.here.startswith(f"{stats.pearsonr(*changes)[0]:.2f} [")
    assert finding.held is True


def course(run, name, points, last=6000):
    """Snapshots of (flatness, RLoss)."""
    for step, (flat, rloss) in zip((100, 200, last)[-len(points) :], points, strict=True):
        place = {"run": name, "step": step, "epoch": step / 100, "snapshot": True}
        entry = run.evaluation("test", **place) | {"adversarial": None}
        entry["values"]["rloss"]["value"] = rloss
        run.records(entry, run.flatness("average", "rloss", flat, 0.1, **place))


UP, DOWN, FLAT = [(1, 2), (2, 3), (3, 4)], [(3, 2), (2, 3), (1, 4)], [(2, 2), (2, 3), (2, 4)]


@pytest.mark.parametrize(
    ("courses", "here", "held"),
    [
        ([UP] * 6, "above 0 in 6 of 6 such methods (1.00)", True),
        ([UP] * 5, "above 0 in 5 of 5 such methods (1.00)", None),
        ([UP] * 5 + [DOWN], "above 0 in 5 of 6 such methods (−1.00 to 1.00)", None),
        ([DOWN] * 6, "above 0 in 0 of 6 such methods (−1.00)", False),
        ([UP, FLAT, UP[:2]], "above 0 in 1 of 1 such methods (1.00)", None),
    ],
)
def test_snapshots_are_asked_by_method(method, courses, here, held, found):
    for name, points in zip(NAMES, courses, strict=False):
        course(method(name, 3.0, 2.4, stop=(1.0, 2.0)), name, points)
    finding = found("In robust overfitting")
    assert (finding.here, finding.held) == (here, held)


def test_snapshots_of_what_does_not_overfit_stand_apart(method, found):
    course(method("a", 3.0, 2.4, stop=(1.0, 2.0)), "a", UP)
    course(method("b", 3.0, 2.39, stop=(1.0, 2.0)), "b", DOWN)
    course(method("c", 3.0, 1.0, stop=(1.0, 2.0)), "c", UP)
    course(method("d", 3.0, 2.4), "d", DOWN)  # not known
    plain = method("plain", 3.0, 2.4, stop=(1.0, 2.0), config={"adversary": {"name": "none"}})
    course(plain, "plain", DOWN)
    finding = found("In robust overfitting")
    assert finding.here == ("above 0 in 1 of 1 such methods (1.00), 1 of 2 others (−1.00 to 1.00)")
    assert found("sharper snapshots (worst-case") is None


def test_snapshots_are_asked_when_all_are_measured(method, found):
    for name in "ab":
        course(method(name, 3.0, 2.4, stop=(1.0, 2.0)), name, UP)
    course(method("c", 3.0, 2.4, stop=(1.0, 2.0)), "c", DOWN, last=4000)
    here = "above 0 in 2 of 2 such methods (1.00); 1 not measured to the end left out"
    assert found("In robust overfitting").here == here


def test_without_overfitting_snapshots_say_nothing(method, found):
    course(method("b", 3.0, 2.3, stop=(1.0, 2.0)), "b", UP)
    assert found("In robust overfitting") is None
