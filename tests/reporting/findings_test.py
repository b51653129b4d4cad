"""The paper's findings, on runs whose answers are known."""

import dataclasses
import json

import numpy as np
import pytest
from rfm.configs import methods
from scipy import stats

from rfm.reporting import findings, read_sweep, sweep_snapshots, write_sweep_report
from rfm.reporting.correlation import difference
from rfm.reporting.sweep_rows import rows

NAMES = tuple("abcdefgh")


def found(sweep, claim):
    """The finding whose claim begins so, None if there is none."""
    table = rows(read_sweep(sweep.folder))
    courses = sweep_snapshots.read(sweep.folder, table)
    every = findings.findings(table, courses, methods.paper())
    return next((finding for finding in every if finding.claim.startswith(claim)), None)


def validated(run, *losses):
    run.metrics(
        *(
            {"kind": "validation", "step": 2000 * n, "epoch": 20.0 * n, "rloss": loss, "rerr": 0.5}
            for n, loss in enumerate(losses, start=1)
        )
    )


def set_value(run, name, key, value, **changes):
    """A record with one value of its own."""
    entry = run.evaluation("test", run=run.run["name"])
    entry |= {"adversarial": None, "name": name, "kind": name.split("-")[0], **changes}
    entry["values"] = {key: {"value": value, "standard_error": None, "examples": 256}}
    run.records(entry)


@pytest.fixture
def method(sweep):
    """`method(name, flat, rloss, ...)` makes a run with these values and others beside them."""

    def make(name, flat, rloss, seed=0, **values):
        run = sweep(f"{name}-{seed}", name, seed, flat=flat, rloss=rloss)
        run.run = {"name": name}
        for record, value in values.items():
            key = {"evaluation": "rloss", "curvature": "lambda_max"}
            set_value(run, record.replace("_", "-"), key.get(record.split("_")[0], "flatness"),
                      value)  # fmt: skip
        return run

    return make


@pytest.mark.parametrize(
    ("lasts", "held"), [((3.0, 3.1, 3.2), True), ((2.0, 2.0, 3.5), None), ((3.0,), None)]
)
def test_overfitting_is_a_rise_beyond_the_seeds(sweep, lasts, held):
    for seed, last in enumerate(lasts):
        validated(sweep(f"at-{seed}", "at", seed), 4.0, 2.0, last)
    finding = found(sweep, "Robust overfitting")
    assert finding.held is held
    rise = 100 * (np.mean(lasts) / 2 - 1)
    assert f"held-out RLoss 2.00 to {np.mean(lasts):.2f}, {rise:+.0f} %" in finding.here
    if len(lasts) > 1:
        spread = np.std(50 * np.array(lasts), ddof=1)
        assert f"over {len(lasts)} seeds {spread:.0f}" in finding.here


def coefficients(method, sweep, slope, noise=0.1):
    rng = np.random.default_rng(1)
    values = []
    for name, x in zip(NAMES, range(8), strict=True):
        y = slope * x + noise * rng.normal()
        other = float(rng.permutation(8)[0])
        method(name, float(x), 10 + y, flatness_average_loss_test=other, evaluation_train=-y)
        values.append((x, other, 10 + y))
    return np.array(values).T


@pytest.mark.parametrize(("slope", "held"), [(1.0, True), (-1.0, False), (0.0, None)])
def test_a_correlation_is_held_by_its_interval(method, sweep, slope, held):
    x, _, y = coefficients(method, sweep, slope, noise=0.1 if slope else 1.0)
    finding = found(sweep, "Less robust networks are sharper on average")
    assert finding.held is held
    r = f"{stats.pearsonr(x, y)[0]:.2f}".replace("-", "−")
    assert finding.here.startswith(f"{r} [") and finding.here.endswith("8 methods, 8 runs")
    assert finding.paper == "0.85"


def test_two_measures_are_compared_on_the_same_runs(method, sweep):
    x, other, y = coefficients(method, sweep, 1.0)
    method("i", 5.0, 15.0)  # has no flatness of Loss
    finding = found(sweep, "Flatness of Loss tells far less")
    ours, theirs = (stats.pearsonr(of, y)[0] for of in (x, other))
    assert finding.here.startswith(f"{ours:.2f} and {theirs:.2f}".replace("-", "−"))
    assert (finding.held, finding.paper) == (True, "0.85 and 0.28")
    assert found(sweep, "The Hessian") is None


def test_less_fitting_is_a_negative_correlation(method, sweep):
    coefficients(method, sweep, 1.0)
    finding = found(sweep, "What fits training examples less")
    assert (finding.held, finding.paper) == (True, "−0.85")
    assert finding.here.startswith("−1.00")


def test_a_difference_of_coefficients_has_the_interval_of_a_paired_bootstrap():
    rng = np.random.default_rng(3)
    x, noise, other = rng.normal(size=(3, 40))
    y = x + noise
    value, interval = difference(x, other, y, range(40))
    theirs = stats.bootstrap(
        (x, other, y), lambda a, b, c: stats.pearsonr(a, c)[0] - stats.pearsonr(b, c)[0],
        paired=True, vectorized=False, n_resamples=3000, method="percentile", rng=4,
    ).confidence_interval  # fmt: skip
    assert value == pytest.approx(stats.pearsonr(x, y)[0] - stats.pearsonr(other, y)[0])
    np.testing.assert_allclose(interval, theirs, atol=0.04)
    assert difference(x, other, y, [0] * 40) is None, "one method"
    assert difference(x, np.ones(40), y, range(40)) is None, "a constant"


@pytest.mark.parametrize(("flatter", "held"), [(8, True), (5, None), (0, False)])
def test_early_stopping_counts_methods(method, sweep, flatter, held):
    for number, name in enumerate(NAMES):
        for seed in range(2):
            run = method(name, 2.0, 3.0, seed)
            place = {"run": name, "step": 4000, "epoch": 40.0, "checkpoint": "best"}
            entry = run.evaluation("test", **place) | {"adversarial": None}
            entry["values"]["rloss"]["value"] = 2.0
            flat = 1.0 if number < flatter else 2.5
            run.records(entry, run.flatness("average", "rloss", flat, 0.1, **place))
    finding = found(sweep, "Early stopping improves RLoss and average-case")
    assert finding.here == (
        f"of 8 methods 8 have lower RLoss, {flatter} are flatter, {flatter} both"
    )
    assert finding.held is held


def test_courses_count_from_the_lowest_rloss_on(method, sweep):
    """Before it, flatness may do as it likes."""
    for name in NAMES:
        run = method(name, 1.0, 2.0)
        for epoch, (loss, flat) in enumerate([(4, 9), (1, 1), (2, 2), (3, 4), (3.5, 3)], start=1):
            place = {"run": name, "step": 100 * epoch, "epoch": float(epoch), "snapshot": True}
            entry = run.evaluation("test", **place) | {"adversarial": None}
            entry["values"]["rloss"]["value"] = loss
            run.records(entry, run.flatness("average", "rloss", flat, 0.1, **place))
    finding = found(sweep, "Once RLoss rises")
    assert finding.here.startswith("a 0.80, b 0.80")
    assert finding.held is True


@pytest.mark.parametrize(("flat", "curved", "held"), [(1.1, 4.0, True), (1.5, 4.0, False)])
def test_rescaling_is_in_factors(method, sweep, flat, curved, held):
    run = method("at", 2.0, 3.0, curvature_loss_test=100.0)
    for factor in (0.5, 1.0, 2.0):
        scale = {"variant": f"scaled-{factor:g}"}
        name = f"flatness-average-rloss-test-scaled-{factor:g}"
        set_value(run, name, "flatness", 2.0 * flat if factor == 2 else 2.0, **scale)
        name = f"curvature-loss-test-scaled-{factor:g}"
        value = {0.5: 100 * curved, 1.0: 100.0, 2.0: 100 / curved}[factor]
        set_value(run, name, "lambda_max", value, **scale)
    finding = found(sweep, "Rescaled weights")
    assert finding.here == (
        f"flatness changes by a factor of up to {flat:g}, λmax by {curved:g} to {curved:g}"
    )
    assert finding.held is held
    assert "(factors 0.5, 2)" in finding.claim


def test_nothing_is_found_in_nothing_and_the_file_goes_away(sweep):
    sweep("at", "at")
    write_sweep_report(sweep.folder, methods.paper())
    assert not (sweep.folder / "report/findings.md").exists()


def test_the_report_has_them_as_table_and_as_file(method, sweep):
    coefficients(method, sweep, 1.0)
    path, _ = write_sweep_report(sweep.folder, methods.paper())
    page, text = path.read_text(), (sweep.folder / "report/findings.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "| finding | paper | here | found again |"
    assert all(line.count(" | ") == 3 for line in lines)
    for claim in ("Less robust networks are sharper", "What fits training examples less"):
        assert claim in page and claim in text
    assert json.dumps(text).count("| yes |") >= 3


def test_a_verdict_is_a_word():
    finding = findings.Finding("claim", "paper", "here", True)
    verdicts = [dataclasses.replace(finding, held=held).verdict for held in (True, False, None)]
    assert verdicts == ["yes", "no", "not decided"]
