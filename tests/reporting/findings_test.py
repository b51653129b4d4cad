"""The paper's findings, on runs whose answers are known."""

import html

import numpy as np
import pytest
from rfm.configs import methods
from scipy import stats

from rfm.reporting import findings, read_sweep, write_sweep_report
from rfm.reporting.correlation import difference
from rfm.reporting.paper_coefficients import of_rloss
from rfm.reporting.sweep_points import AVERAGE, AVERAGE_LOSS
from rfm.reporting.sweep_rows import rows

NAMES = tuple("abcdefgh")
VALIDATION = tuple(
    {"kind": "validation", "step": step, "epoch": step / 100, "rerr": rerr, "rloss": 2.0}
    for step, rerr in ((2000, 0.6), (4000, 0.5), (6000, 0.7))
)
"""Early stopping stops at step 4000 of 6000."""


def all_found(sweep):
    return findings.findings(rows(read_sweep(sweep.folder)), methods.paper())


def found(sweep, claim):
    """The finding whose claim has these words, None if there is none."""
    return next((finding for finding in all_found(sweep) if claim in finding.claim), None)


def signed(value):
    return f"{value:.2f}".replace("-", "−")


@pytest.fixture
def method(sweep):
    """`method(name, flat, rloss, ...)` makes a run, `stop` its (flatness, RLoss) when stopped."""

    def record(files, name, key, value, error=None, rescaled=None, **changes):
        entry = files.evaluation("test", **changes) | {"adversarial": None, "name": name}
        entry |= {"kind": name.split("-")[0]}
        if rescaled is not None:
            entry["protocol"] = entry["protocol"] | {"rescaled": rescaled}
        entry["values"] = {key: {"value": value, "standard_error": error, "examples": 256}}
        files.records(entry)

    def make(
        name, flat, rloss, seed=0, *, path=None, stop=None, stopped_rerr=0.5, config=None, **values
    ):
        run = sweep(path or f"{name}-{seed}", name, seed, flat=flat, rloss=rloss, **(config or {}))
        run.metrics(*VALIDATION)
        if stop is not None:
            place = {"run": name, "step": 4000, "epoch": 40.0, "checkpoint": "best"}
            entry = run.evaluation("test", **place) | {"adversarial": None}
            entry["values"]["rloss"]["value"] = stop[1]
            entry["values"]["rerr"]["value"] = stopped_rerr
            run.records(entry, run.flatness("average", "rloss", stop[0], 0.1, **place))
        keys = {"evaluation": "rloss", "curvature": "lambda_max"}
        for of, value in values.items():
            record(run, of.replace("_", "-"), keys.get(of.split("_")[0], "flatness"), value,
                   run=name)  # fmt: skip
        run.one = record
        return run

    return make


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
def test_overfitting_is_a_rise_beyond_the_seeds(method, sweep, ends, held):
    overfitted(method, ends)
    finding = found(sweep, "Robust overfitting")
    rises = 50 * np.array(ends) - 100
    assert finding.held is held
    text = f"2.00 (early stopping) to {np.mean(ends):.2f}, {rises.mean():+.0f} %"
    if len(ends) > 1:
        text += f"; standard deviation over {len(ends)} seeds {rises.std(ddof=1):.0f}"
    assert finding.here == text
    if held:
        interval = stats.ttest_1samp(rises, 0).confidence_interval()
        assert interval.low > 0


def test_where_early_stopping_stops_is_chosen_on_other_examples(method, sweep):
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
    assert found(sweep, "Robust overfitting") is None, "two settings of the baseline"


def test_seeds_that_are_not_measured_at_both_ends_are_counted(method, sweep):
    overfitted(method, (3.0, 3.1, 3.2))
    method("at", 1.0, 9.0, seed=3)
    unfinished = sweep("at-4", "at", 4, rerr=None)
    unfinished.metrics(*VALIDATION[:1])
    finding = found(sweep, "Robust overfitting")
    assert finding.here.endswith("; 2 not measured at both ends left out")
    assert finding.held is True


def test_a_loss_of_zero_does_no_harm(method, sweep):
    overfitted(method, (0.0, 0.0, 0.0), stopped=0.0)
    assert found(sweep, "Robust overfitting") is None


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
def test_a_correlation_is_decided_by_its_interval(method, sweep, slope, held):
    x, _, y = spread_out(method, slope, 0.1 if slope else 1.0)
    finding = found(sweep, "average-case flatness of RLoss, Pearson")
    assert (finding.held, finding.paper) == (held, "0.85")
    assert finding.here.startswith(f"{signed(stats.pearsonr(x, y)[0])} [")
    assert finding.here.endswith("n = 8")
    worst = found(sweep, "worst-case flatness of RLoss, Pearson")
    assert (worst.held, worst.paper) == (
        None if held is None else not held,
        "0.50 (from Tables D and E)",
    )


def test_few_methods_decide_nothing(method, sweep):
    for name, x in zip("abcdefg", range(7), strict=True):
        method(name, float(x), float(x))
    finding = found(sweep, "average-case flatness of RLoss, Pearson")
    assert (finding.here, finding.held) == ("1.00, n = 7", None)


def test_what_is_not_the_papers_is_not_asked(method, sweep):
    """One network without an adversary, or from elsewhere, would turn every coefficient."""
    spread_out(method, 1.0, 0.1)
    before = all_found(sweep)
    method("plain", 100.0, 0.0, config={"adversary": {"name": "none"}})
    other = method("other", 100.0, 0.0)
    for name in ("evaluation-test", "flatness-average-rloss-test", "flatness-worst-rloss-test"):
        other.edit(name, lambda entry: entry.update(checkpoint="imported", step=0))
    assert all_found(sweep) == before


def test_two_measures_are_compared_by_size_on_the_same_runs(method, sweep):
    x, other, y = spread_out(method, 1.0, 0.1)
    method("i", 5.0, 15.0)  # has no flatness of Loss
    finding = found(sweep, "Average-case flatness of Loss tells less")
    ours, theirs = (stats.pearsonr(of, y)[0] for of in (x, other))
    assert finding.here.startswith(f"{signed(ours)} and {signed(theirs)}; difference")
    assert (finding.held, finding.paper) == (True, "0.85 and 0.27")
    assert found(sweep, "λmax of Loss tells less") is None


def test_less_than_half_of_the_papers_number_is_weaker(method, sweep):
    rng = np.random.default_rng(11)
    names = [row.method for row in methods.paper() if row.method][::4]
    loss = np.arange(float(len(names)))
    noise = rng.normal(size=len(names))
    flat, other = loss + noise, loss + 2 * noise  # the latter tells a little less, surely
    for name, x, z, y in zip(names, flat, other, loss, strict=True):
        method(name, x, y, flatness_average_loss_test=z)
    finding = found(sweep, "Average-case flatness of Loss tells less")
    low, high = map(float, finding.here.replace("−", "-").split("[")[1].strip("]").split(", "))
    there = [of_rloss(methods.paper(), measure, names) for measure in (AVERAGE, AVERAGE_LOSS)]
    papers = abs(there[0].pearson) - abs(there[1].pearson)
    assert finding.weaker is (low > 0 and high < papers / 2), (finding.here, papers)
    assert finding.cells[-1] == "yes, but weaker"
    same = " and ".join(f"{of.pearson:.2f}" for of in there)
    assert finding.paper == f"0.85 and 0.27; {same} of the same {len(names)} methods"
    overfitted(method, (2.4, 2.41, 2.42))
    assert found(sweep, "Robust overfitting").cells[-1] == "yes, but weaker"


def test_less_fitting_is_a_negative_correlation(method, sweep):
    spread_out(method, 1.0, 0.1)
    finding = found(sweep, "What fits training examples less")
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


@pytest.mark.parametrize(("flatter", "held"), [(8, True), (5, None), (0, False)])
def test_early_stopping_counts_the_methods_that_it_helps(method, sweep, flatter, held):
    for number, name in enumerate(NAMES):
        for seed in range(2):
            method(name, 2.0, 3.0, seed, stop=(1.0 if number < flatter else 2.5, 2.0))
    method("i", 2.0, 3.0, stop=(1.0, 3.5))  # it harms
    method("j", 2.0, 3.0, stop=(2.5, 3.5))
    method("k", 2.0, 3.0)  # not measured there
    finding = found(sweep, "Where early stopping lowers RLoss it finds flatter minima (average")
    assert finding.here == f"{flatter} of 8 such methods are flatter, 1 of the 2 others"
    assert finding.held is held


def test_what_overfits_more_gets_sharper(method, sweep):
    rng = np.random.default_rng(7)
    changes = np.stack([np.arange(8.0), np.arange(8.0) + 0.1 * rng.normal(size=8)])
    for name, (flat, loss) in zip(NAMES, changes.T, strict=True):
        stop = rng.uniform(1, 50, size=2)  # where it starts does not count
        method(name, stop[0] + flat, stop[1] + loss, stop=tuple(stop))
    finding = found(sweep, "What overfits more gets sharper")
    assert finding.here.startswith(f"{stats.pearsonr(*changes)[0]:.2f} [")
    assert finding.held is True


@pytest.mark.parametrize(
    ("flat", "power", "here", "held"),
    [
        (2.2, 2, "a factor of up to 1.1, λmax by 4 to 4", True),
        (2.5, 2, "a factor of up to 1.25, λmax by 4 to 4", False),
        (-2.0, 2, "a factor of up to inf, λmax by 4 to 4", False),
        (2.0, 0.5, "a factor of up to 1, λmax by 1.41 to 1.41", False),
    ],
)
def test_rescaling_is_decided_by_factors(method, sweep, flat, power, here, held):
    run = method("at", None, 3.0)
    for factor in (None, 0.5, 2.0):
        suffix = "" if factor is None else f"-scaled-{factor:g}"
        scale = {} if factor is None else {"variant": suffix[1:], "rescaled": factor}
        value = flat if factor == 2 else 2.0
        run.one(run, f"flatness-average-rloss-test{suffix}", "flatness", value, **scale)
        run.one(run, f"flatness-worst-loss-test{suffix}", "flatness", (factor or 1) ** 9, **scale)
        value = 100.0 / (factor or 1) ** power
        run.one(run, f"curvature-loss-test{suffix}", "lambda_max", value, **scale)
    finding = found(sweep, "Rescaled weights")
    assert finding.here == f"flatness changes by {here}"
    assert "(factors 0.5, 2)" in finding.claim
    assert finding.held is held


def test_methods_are_held_against_the_papers_order(method, sweep):
    values = {row.method: row.values for row in methods.paper() if row.method}
    names = [f"label-smoothing-{tau}" for tau in (0.1, 0.2, 0.3)]
    names += ["trades-6", "awp-0.01", "mart-6", "pgd-14", "at"]
    for place, name in enumerate(names):
        method(name, 8.0 - place, values[name]["rloss_pgd_test"] ** 3)
    method("unknown", 1.0, 9.0)
    ours = found(sweep, "like the paper's (RLoss, test")
    assert (ours.here, ours.held) == ("1.00 [1.00, 1.00], n = 8", True)
    theirs = [values[name]["average_rloss"] for name in names]
    rank = stats.spearmanr(range(8, 0, -1), theirs).statistic
    assert found(sweep, "like the paper's (average-case").here.startswith(signed(rank))


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
