"""The paper's findings, on runs whose answers are known."""

import html

import numpy as np
import pytest
from rfm.configs import methods
from run_of_method import record
from scipy import stats

from rfm.reporting import findings, write_sweep_report
from rfm.reporting.correlation import difference
from rfm.reporting.paper_coefficients import of_rloss
from rfm.reporting.sweep_points import AVERAGE, AVERAGE_LOSS

NAMES = tuple("abcdefgh")


def signed(value):
    return f"{value:.2f}".replace("-", "−")


def spread_out(method, slope, noise, **config):
    """Eight methods: average-case flatness, RLoss, and flatness of Loss, which is noise."""
    rng = np.random.default_rng(1)
    x, other = np.arange(8.0), rng.permutation(8).astype(float)
    y = 10 + slope * x + noise * rng.normal(size=8)
    for name, *of in zip(NAMES, x, other, y, strict=True):
        values = {"flatness_average_loss_test": of[1], "evaluation_train": -of[2]}
        method(name, of[0], of[2], config=config, **values)
    return x, other, y


@pytest.mark.parametrize(("slope", "held"), [(1.0, True), (-1.0, False), (0.0, None)])
def test_a_correlation_is_decided_by_its_interval(method, slope, held, found):
    x, _, y = spread_out(method, slope, 0.1 if slope else 1.0)
    finding = found("average-case flatness of RLoss, Pearson")
    assert (finding.held, finding.paper) == (held, "0.85")
    assert finding.here.startswith(f"{signed(stats.pearsonr(x, y)[0])} [")
    assert finding.here.endswith("n = 8")
    worst = found("worst-case flatness of RLoss, Pearson")
    assert (worst.held, worst.paper) == (
        None if held is None else not held,
        "0.50 (from Tables D and E)",
    )


def test_few_methods_decide_nothing(method, found):
    for name, x in zip("abcdefg", range(7), strict=True):
        method(name, float(x), float(x))
    finding = found("average-case flatness of RLoss, Pearson")
    assert (finding.here, finding.held) == ("1.00, n = 7", None)


def test_what_is_not_the_papers_is_not_asked(method, all_found):
    """One network without an adversary, or from elsewhere, would turn every coefficient."""
    spread_out(method, 1.0, 0.1)
    before = all_found()
    method("plain", 100.0, 0.0, config={"adversary": {"name": "none"}})
    other = method("other", 100.0, 0.0)
    for name in ("evaluation-test", "flatness-average-rloss-test", "flatness-worst-rloss-test"):
        other.edit(name, lambda entry: entry.update(checkpoint="imported", step=0))
    assert all_found() == before


def test_two_measures_are_compared_by_size_on_the_same_runs(method, found):
    x, other, y = spread_out(method, 1.0, 0.1)
    method("i", 5.0, 15.0)  # has no flatness of Loss
    finding = found("Average-case flatness of Loss tells less")
    ours, theirs = (stats.pearsonr(of, y)[0] for of in (x, other))
    assert finding.here.startswith(f"{signed(ours)} and {signed(theirs)}; difference")
    assert (finding.held, finding.paper) == (True, "0.85 and 0.27")
    assert found("λmax of Loss tells less") is None


def test_less_than_half_of_the_papers_number_is_weaker(method, found):
    rng = np.random.default_rng(11)
    names = [row.method for row in methods.paper() if row.method][::4]
    loss = np.arange(float(len(names)))
    noise = rng.normal(size=len(names))
    flat, other = loss + noise, loss + 2 * noise  # the latter tells a little less, surely
    for name, x, z, y in zip(names, flat, other, loss, strict=True):
        method(name, x, y, flatness_average_loss_test=z)
    finding = found("Average-case flatness of Loss tells less")
    low, high = map(float, finding.here.replace("−", "-").split("[")[1].strip("]").split(", "))
    there = [of_rloss(methods.paper(), measure, names) for measure in (AVERAGE, AVERAGE_LOSS)]
    papers = abs(there[0].pearson) - abs(there[1].pearson)
    assert finding.weaker is (low > 0 and high < papers / 2), (finding.here, papers)
    assert finding.cells[-1] == "yes, but weaker"
    same = " and ".join(f"{of.pearson:.2f}" for of in there)
    assert finding.paper == f"0.85 and 0.27; {same} of the same {len(names)} methods"


def test_less_fitting_is_a_negative_correlation(method, found):
    spread_out(method, 1.0, 0.1)
    finding = found("What fits training examples less")
    assert (finding.held, finding.paper) == (True, "−0.85 (from Tables D and E)")
    assert finding.here.startswith("−1.00")


def test_a_difference_of_coefficients_has_the_interval_of_a_paired_bootstrap():
    rng = np.random.default_rng(3)
    x, noise, other = rng.normal(size=(3, 40))
    y = x + noise

    def above(a, b, c):
        return abs(stats.pearsonr(a, c)[0]) - abs(stats.pearsonr(b, c)[0])

    value, interval = difference(x, other, y, range(40))
    theirs = stats.bootstrap(
        (x, other, y), above, paired=True, vectorized=False, n_resamples=3000,
        method="percentile", rng=4,
    ).confidence_interval  # fmt: skip
    assert value == pytest.approx(above(x, other, y))
    np.testing.assert_allclose(interval, theirs, atol=0.04)
    assert difference(x, -y, y, range(40))[0] < 0, "what falls with y tells as much"
    assert difference(x, other, y, [0] * 40) is None, "one method"
    assert difference(x, np.ones(40), y, range(40)) is None, "a constant"


@pytest.mark.parametrize(
    ("flat", "power", "here", "held"),
    [
        (2.2, 2, "a factor of up to 1.1, λmax by 4 to 4", True),
        (2.5, 2, "a factor of up to 1.25, λmax by 4 to 4", False),
        (-2.0, 2, "a factor of up to inf, λmax by 4 to 4", False),
        (2.0, 0.5, "a factor of up to 1, λmax by 1.41 to 1.41", False),
    ],
)
def test_rescaling_is_decided_by_factors(method, flat, power, here, held, found):
    run = method("at", None, 3.0)
    for factor in (None, 0.5, 2.0):
        suffix = "" if factor is None else f"-scaled-{factor:g}"
        scale = {} if factor is None else {"variant": suffix[1:], "rescaled": factor}
        value = flat if factor == 2 else 2.0
        record(run, f"flatness-average-rloss-test{suffix}", "flatness", value, **scale)
        record(run, f"flatness-worst-loss-test{suffix}", "flatness", (factor or 1) ** 9, **scale)
        value = 100.0 / (factor or 1) ** power
        record(run, f"curvature-loss-test{suffix}", "lambda_max", value, **scale)
    finding = found("Rescaled weights")
    assert finding.here == f"flatness changes by {here}"
    assert "(factors 0.5, 2)" in finding.claim
    assert finding.held is held


def test_methods_are_held_against_the_papers_order(method, found):
    values = {row.method: row.values for row in methods.paper() if row.method}
    names = [f"label-smoothing-{tau}" for tau in (0.1, 0.2, 0.3)]
    names += ["trades-6", "awp-0.01", "mart-6", "pgd-14", "at"]
    for place, name in enumerate(names):
        method(name, 8.0 - place, values[name]["rloss_pgd_test"] ** 3)
    method("unknown", 1.0, 9.0)
    ours = found("like the paper's (RLoss, test")
    assert (ours.here, ours.held) == ("1.00 [1.00, 1.00], n = 8", True)
    theirs = [values[name]["average_rloss"] for name in names]
    rank = stats.spearmanr(range(8, 0, -1), theirs).statistic
    assert found("like the paper's (average-case").here.startswith(signed(rank))


def test_without_anything_to_say_there_is_no_file(sweep):
    sweep("x", "x")
    write_sweep_report(sweep.folder, methods.paper())
    assert not (sweep.folder / "report/findings.md").exists()


def test_the_report_has_them_as_table_and_as_file(method, sweep):
    spread_out(method, 1.0, 0.1)
    path, _ = write_sweep_report(sweep.folder, methods.paper())
    page, text = html.unescape(path.read_text()), (sweep.folder / "report/findings.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "| finding | paper | here | found again |"
    verdicts = {line.split(" | ")[0].split(" (")[0]: line.split(" | ")[-1] for line in lines[2:6]}
    assert verdicts == {
        "| RLoss is higher in sharper minima": "no |",  # the later one, of the worst case
        "| Average-case flatness of Loss tells less of RLoss than average-case flatness of RLoss":
        "yes |",
        "| What fits training examples less is more robust": "yes |",
    }  # fmt: skip
    for rule in findings.RULES:
        assert rule in page
    assert "What fits training examples less is more robust" in page
