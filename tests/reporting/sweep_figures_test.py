"""The paper's figures over a sweep: what is in them, and what is left out."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest

from rfm.reporting import (
    read_sweep,
    scatter,
    sweep_correlations,
    sweep_families,
    sweep_figures,
    sweep_groups,
    sweep_html,
    sweep_interactive,
    sweep_landscapes,
    sweep_look,
    sweep_snapshots,
    sweep_training,
    write_sweep_report,
)
from rfm.reporting.sweep_points import AVERAGE, RLOSS, WORST, all_points, points
from rfm.reporting.sweep_rows import rows


def rows_of(sweep):
    return rows(read_sweep(sweep.folder))


def at_radius(files, mean, xi, name):
    entry = files.flatness("average", "rloss", mean, 0.1, run=name)
    entry["protocol"]["ball"]["radius"] = xi
    return entry | {"name": f"{entry['name']}-xi-{xi:g}", "variant": f"xi-{xi:g}"}


def landscape(files, kind, name, height=1.0, per="layer", **changes):
    along = np.linspace(-1, 1, 5)
    entry = files.evaluation("test", run=name)
    entry["protocol"]["ball"] = {"radius": 0.5, "per": per}
    del entry["adversarial"]
    curves = [(factor * height * along**2).tolist() for factor in (1, 3)]
    data = {"steps": along.tolist(), "losses": curves, "lengths": [[0.5], [0.5]]}
    record = {"kind": "landscape", "name": f"landscape-{kind}-rloss-test", "values": {}}
    return {**entry, **record, "landscape": data, **changes}


def stopped(made, name, rloss, flat):
    """Records of the best checkpoint, and metrics that say that it is."""
    made.metrics(
        *(
            {"kind": "validation", "step": step, "epoch": step / 100, "rerr": rerr}
            for step, rerr in ((2000, 0.6), (4000, 0.5), (6000, 0.7))
        )
    )
    place = {"run": name, "step": 4000, "epoch": 40.0, "checkpoint": "best"}
    entry = made.evaluation("test", **place)
    entry["values"]["rloss"]["value"] = rloss
    made.records(entry | {"adversarial": None})
    if flat is not None:
        made.records(made.flatness("average", "rloss", flat, 0.1, **place))


def snapshots(made, name, course):
    for epoch, (rloss, flat) in enumerate(course, start=1):
        place = {"run": name, "step": 100 * epoch, "epoch": float(epoch), "snapshot": True}
        entry = made.evaluation("test", **place)
        entry["values"]["rloss"]["value"] = rloss
        made.records(entry | {"adversarial": None},
                     made.flatness("average", "rloss", flat, 0.1, **place))  # fmt: skip


def test_points_are_runs_and_the_title_has_their_correlation(sweep):
    """By hand: deviations of x are -1, 0, 1, 0, of y -2, -1, 2, 1; of the ranks -1.5, 0, 1.5, 0
    and -1.5, -0.5, 1.5, 0.5.
    """
    for seed, (flat, rloss) in enumerate([(1, 1), (2, 2), (3, 5), (2, 4)]):
        sweep(f"{seed}", "at" if seed < 2 else "trades", seed, rloss=rloss, flat=flat)
    found = rows_of(sweep)
    of = points(found, AVERAGE)
    assert sorted(zip(of.x, of.y, strict=True)) == [(1, 1), (2, 2), (2, 4), (3, 5)]
    assert of.correlation.pearson == pytest.approx(4 / math.sqrt(2 * 10))
    assert of.correlation.spearman == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert (of.correlation.runs, of.correlation.methods) == (4, 2)
    figure = sweep_figures.main_scatter(all_points(found), found)
    average, worst = figure.axes
    assert average.get_title(loc="left") == "Pearson 0.89\nSpearman 0.95\n4 runs of 2 methods"
    assert worst.get_title(loc="left").startswith("Pearson \N{MINUS SIGN}0.89")
    assert {text.get_text() for text in average.texts} == {"1", "2"}
    drawn = np.concatenate([dots.get_offsets() for dots in average.collections])
    assert sorted(drawn.tolist()) == [[1, 1], [2, 2], [2, 4], [3, 5]]


def test_points_of_another_radius_are_left_out_and_counted(sweep):
    for seed in range(4):
        made = sweep(f"{seed}", seed=seed, rloss=seed, flat=seed + 1)
    made.edit("flatness-average-rloss-test", lambda e: e["protocol"]["ball"].update(radius=0.75))
    found = rows_of(sweep)
    of = all_points(found)
    assert (len(of[AVERAGE].x), of[AVERAGE].left_out, len(of[WORST].x)) == (3, 1, 4)
    figure = sweep_figures.main_scatter(of, found)
    average, worst = (axes.get_title(loc="left") for axes in figure.axes)
    assert average.endswith("3 runs of 1 method\n1 measured otherwise and left out")
    assert worst.endswith("4 runs of 2 methods"), "protocols that differ are rows of their own"


def test_each_radius_has_a_panel_with_the_configs_own_among_them(sweep):
    for seed in range(3):
        made = sweep(f"{seed}", seed=seed, rloss=seed + 1, flat=seed + 1)
        made.records(at_radius(made, 10 * (seed + 1), 0.75, "at"),
                     at_radius(made, (seed + 1) / 10, 0.25, "at"))  # fmt: skip
    found = rows_of(sweep)
    measured = {m.radius: of for m, of in all_points(found).items() if m.radius is not None}
    assert {xi: sorted(of.x) for xi, of in measured.items()} == {
        0.25: [0.1, 0.2, 0.3],
        0.5: [1, 2, 3],
        0.75: [10, 20, 30],
    }
    figure = sweep_figures.radii(all_points(found), found)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert [label.rpartition(" ")[2] for label in labels] == ["0.25", "0.5", "0.75"]


def test_all_coefficients_are_in_the_table_with_their_intervals(sweep):
    rng = np.random.default_rng(0)
    for number in range(8):
        made = sweep(f"{number}", f"m-{number}", rloss=rng.uniform(1, 3), flat=rng.uniform(1, 3))
        made.edit(
            "flatness-average-rloss-test",
            lambda e: e["values"].update(std={"value": float(rng.uniform(0, 1))}),
        )
    found = all_points(rows_of(sweep))
    lines = list(csv.DictReader(io.StringIO(sweep_correlations.to_csv(found))))
    assert [(line["record"], line["value"]) for line in lines] == [
        ("flatness-average-rloss-test", "flatness"),
        ("flatness-worst-rloss-test", "flatness"),
        ("flatness-average-rloss-test", "std"),
    ]
    of = found[AVERAGE].correlation
    assert float(lines[0]["pearson"]) == of.pearson
    assert (float(lines[0]["spearman_low"]), float(lines[0]["spearman_high"])) == (
        of.spearman_interval
    )
    assert f"<td>{of.pearson:.2f}</td>".replace("-", "\N{MINUS SIGN}") in (
        sweep_correlations.to_html(found)
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("awp-0.005", ("awp", (0.005,))),
        ("pgd-7-2", ("pgd", (7.0, 2.0))),
        ("cyclic-x3", ("cyclic", (3.0,))),
        ("cyclic", ("cyclic", ())),
        ("late-multi-step", ("late-multi-step", ())),
        ("awp-0.01+label-noise-0.3", ("awp-0.01+label-noise-0.3", ())),
        ("Pang2020Boosting", ("Pang2020Boosting", ())),
    ],
)
def test_a_name_says_its_family_and_numbers(name, expected):
    assert sweep_families.family(name) == expected


def test_every_method_of_the_configs_has_a_panel():
    from rfm.configs import methods

    known = {name for names in sweep_families.PANELS.values() for name in names}
    assert known == set(methods.METHODS)
    for name, members in methods.METHODS.items():
        for numbers in members.numbers:
            assert sweep_families.family(f"{name}-{numbers}" if numbers else name)[0] == name


def test_hyper_parameters_are_joined_in_the_order_of_their_numbers(sweep):
    for x, (name, rerr) in enumerate(
        {"batch-size-16": 0.3, "batch-size-8": 0.5, "batch-size-128": 0.4, "at": 0.6}.items()
    ):
        sweep(name, name, rerr=rerr, rloss=x + 1, flat=x + 1)
    sweep("again", "batch-size-8", 1, rerr=0.5, rloss=4, flat=6)
    found = rows_of(sweep)
    joined = sweep_families.families(found)["batch-size"]
    assert [row.name for row in joined] == ["batch-size-8", "batch-size-16", "batch-size-128"]
    figure = sweep_groups.hyper_parameters(all_points(found), found)
    line, star = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[4, 3], [1, 1], [3, 3]])
    np.testing.assert_allclose(star.get_xydata(), [[4, 4]])
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"8", "16", "128"}


def test_axes_of_families_fit_what_they_show(sweep):
    flats = {"pgd-14": 2, "pgd-10": 5, "pgd-7-2": 500, "at": 3, "weight-clipping-0.025": 0.01}
    for name, flat in flats.items():
        sweep(name, name, rerr=0.5, rloss=2, flat=flat)
    found = rows_of(sweep)
    axes = sweep_groups.hyper_parameters(all_points(found), found).axes[0]
    assert axes.get_xscale() == "linear"
    assert {text.get_text() for text in axes.texts} == {"10", "14"}, "tau is another number"
    sweep("pgd-28", "pgd-28", rerr=0.5, rloss=2, flat=0.1)
    found = rows_of(sweep)
    axes = sweep_groups.hyper_parameters(all_points(found), found).axes[0]
    assert axes.get_xscale() == "log"


def test_early_stopping_pairs_are_of_runs_measured_alike_at_both(sweep):
    both = sweep("both", "at", 0, rloss=3, flat=2)
    stopped(both, "at", 1.5, 1.0)
    sweep("final-only", "at", 1, rloss=3, flat=2)
    half = sweep("no-flatness", "at", 2, rloss=3, flat=2)
    stopped(half, "at", 1.5, None)
    other = sweep("other-protocol", "trades", 0, rloss=3, flat=2)
    stopped(other, "trades", 1.5, 1.0)
    path = other.workdir / "records/00004000/flatness-average-rloss-test.json"
    entry = json.loads(path.read_text())
    entry["protocol"]["ball"]["radius"] = 1.0
    path.write_text(json.dumps(entry))
    found = rows_of(sweep)
    (pair,) = sweep_groups.pairs(found, AVERAGE)
    assert (pair.member.path, pair.final, pair.best) == ("both", (2, 3), (1, 1.5))
    assert sweep_groups.pairs(found, WORST) == ()
    figure = sweep_groups.early_stopping(found)
    assert figure.axes[0].get_title(loc="left").endswith("1 of 1 runs")


def test_a_panel_of_training_curves_is_a_family_with_the_baseline(sweep):
    sweep("at", "at", rerr=0.6)
    for seed in range(2):
        sweep(f"a{seed}", "awp-0.01", seed, rerr=0.5)
    sweep("b", "awp-0.005", rerr=0.4, trained=40)
    sweep("mine", "mine", rerr=0.3)
    found = rows_of(sweep)
    figure = sweep_training.curves(found, "rerr")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["AT-AWP, SAM", "mine"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    hues = sweep_look.HUES
    grey = lines[0].get_color()
    assert grey not in hues
    assert [line.get_color() for line in lines[1:]] == [hues[0], hues[1], hues[1]]
    np.testing.assert_allclose(lines[1].get_xydata(), [[20, 60], [40, 40]])
    assert sweep_training.curves(found, "rloss") is None


def test_training_is_a_mean_for_each_epoch(files):
    files.training()
    from rfm.reporting import read_run

    metrics = read_run(files.workdir).metrics
    curve = sweep_training.on_train(metrics, "rerr")
    assert [epoch for epoch, _ in curve] == list(range(1, 61))
    assert curve[0][1] == pytest.approx(50 * (metrics.train[0].error + metrics.train[1].error))


def test_each_method_has_a_course_in_the_colours_of_its_epochs(sweep):
    sweep("at-1", "at", 1)
    second = sweep("at-2", "at", 2)
    snapshots(second, "at", [(2.0, 0.3), (2.5, 0.5), (3.0, 0.9)])
    trades = sweep("trades", "trades", rerr=0.4)
    snapshots(trades, "trades", [(2.0, 0.3), (1.5, 0.2)])
    (trades.workdir / "records/00000100/evaluation-test-snapshot.json").write_text("{")
    courses = sweep_snapshots.read(sweep.folder, rows_of(sweep))
    assert [of.member.path for of in courses] == ["trades", "at-2"], "the first with snapshots"
    assert "not a JSON file" in courses[0].problems[0]
    records = {of.title: of.records for of in courses}
    figure = scatter.of_methods(records, "average")
    panel, bar = figure.axes
    assert panel.get_title(loc="left") == "2  at", "of the other only one snapshot is whole"
    (dots,) = panel.collections
    np.testing.assert_allclose(dots.get_offsets(), [[0.3, 2.0], [0.5, 2.5], [0.9, 3.0]])
    np.testing.assert_allclose(dots.get_array(), [1, 2, 3])
    assert scatter.of_methods(records, "worst") is None
    text = write_sweep_report(sweep.folder)[0].read_text()
    assert "evaluation-test-snapshot.json: not a JSON file" in text
    correct = sweep_snapshots.correctness(courses)
    assert len(correct.axes[0].lines) == 3, "all, right and wrong"


def test_several_radii_through_training_are_drawn(sweep):
    made = sweep("at", "at")
    snapshots(made, "at", [(2.0, 0.3), (2.5, 0.5)])
    courses = sweep_snapshots.read(sweep.folder, rows_of(sweep))
    assert sweep_snapshots.most_radii(courses) is None
    place = {"step": 100, "epoch": 1.0, "snapshot": True}
    made.records(at_radius(made, 2.0, 0.75, "at") | place)
    courses = sweep_snapshots.read(sweep.folder, rows_of(sweep))
    assert sweep_snapshots.most_radii(courses).member.path == "at"


def test_landscapes_by_layer_by_filter_and_rescaled_are_apart(sweep):
    at, trades = sweep("at", "at"), sweep("trades", "trades", rerr=0.4)
    at.records(landscape(at, "random", "at"), landscape(at, "adversarial", "at"))
    scaled = {"name": "landscape-random-rloss-test-scaled-2", "variant": "scaled-2"}
    at.records(landscape(at, "random", "at", 1.1) | scaled)
    trades.records(landscape(trades, "random", "trades", per="filter"))
    name = "landscape-random-rloss-test-filter"
    at.records(landscape(at, "random", "at", per="filter") | {"name": name})
    found = rows_of(sweep)
    along = np.linspace(-1, 1, 5) ** 2
    (mean,) = sweep_landscapes.lines(found, "random").axes[0].lines
    (maximum,) = sweep_landscapes.lines(found, "adversarial").axes[0].lines
    np.testing.assert_allclose(mean.get_ydata(), 2 * along)
    np.testing.assert_allclose(maximum.get_ydata(), 3 * along)
    legend = sweep_landscapes.lines(found, "random", "filter").axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["1  trades", "2  at"], (
        "under either name"
    )
    assert sweep_landscapes.lines(found, "hessian") is None
    one, two = sweep_landscapes.rescaled(found).axes[0].lines
    assert (one.get_label(), two.get_label()) == ("× 1", "× 2")
    np.testing.assert_allclose(two.get_ydata(), 2.2 * along)


def test_landscapes_are_of_one_checkpoint_and_made_alike(sweep):
    at, awp, trades = (sweep(name, name) for name in ("at", "awp-0.01", "trades-6"))
    early = {"step": 4000, "epoch": 40.0, "checkpoint": "best"}
    at.records(landscape(at, "random", "at", 9.0, **early), landscape(at, "random", "at"))
    scaled = {"name": "landscape-random-rloss-test-scaled-2", "variant": "scaled-2"}
    at.records(landscape(at, "random", "at", 1.1) | scaled)
    awp.records(landscape(awp, "random", "awp-0.01"))
    longer = landscape(trades, "random", "trades-6")
    longer["protocol"]["ball"]["radius"] = 5.0
    trades.records(longer)
    found = rows_of(sweep)
    by_name = {row.name: row.number for row in found}
    drawn = sweep_landscapes.found(found, "random", "layer")
    assert set(drawn) == {by_name["at"], by_name["awp-0.01"]}
    along = np.linspace(-1, 1, 5) ** 2
    np.testing.assert_allclose(drawn[by_name["at"]].losses[0], along)
    one, two = sweep_landscapes.rescaled(found).axes[0].lines
    np.testing.assert_allclose(two.get_ydata(), 1.1 * np.array(one.get_ydata()))


def test_seventy_methods_look_different():
    numbers = range(1, 71)
    assert len({(sweep_look.hue(n), sweep_look.marker(n)) for n in numbers}) == 70


def test_figures_without_data_are_left_out(sweep):
    sweep("none", rerr=None, trained=0)
    found = rows_of(sweep)
    assert sweep_html.sweep_figures_of(found, all_points(found)) == {}
    assert sweep_html.charts_of(found, all_points(found)) == {}
    path, _ = write_sweep_report(sweep.folder)
    text = path.read_text()
    assert "<svg" not in text
    assert "<script" not in text
    assert not (sweep.folder / "report/correlations.csv").exists()


def test_charts_have_every_run_its_numbers_and_links_that_exist(sweep):
    for seed in range(3):
        sweep(f"at {seed}", "awp-0.01", seed, rloss=seed + 1, flat=seed + 1)
    best = sweep("b", "awp-0.005", rerr=0.4, rloss=5, flat=None)
    stopped(best, "awp-0.005", 1.0, 1.0)
    (sweep.folder / "at 1/report.html").touch()
    found = rows_of(sweep)
    chart = sweep_interactive.scatter(all_points(found), found)
    (method,) = [trace for trace in chart["data"] if trace["mode"] == "markers"]
    assert (method["x"], method["y"]) == ([1, 2, 3], [1, 2, 3])
    assert method["customdata"] == [
        ["0", "at 0", None, "50.0"], ["1", "at 1", "at%201/report.html", "50.0"],
        ["2", "at 2", None, "50.0"],
    ]  # fmt: skip
    lines = sweep_interactive.training(found)["data"]
    assert [line["meta"] for line in lines] == [[None], [None], ["at%201/report.html"], [None]]
    assert sum(line["showlegend"] for line in lines) == 2, "once for each method"
    menu = chart["layout"]["updatemenus"][0]["buttons"]
    assert [button["label"] for button in menu] == [AVERAGE.title, WORST.title]
    values = menu[1]["args"][0]
    assert values["x"][0] == [99, 98, 97]
    assert len(values["x"]) == len(values["y"]) == len(chart["data"])
    assert chart["layout"]["yaxis"]["title"]["text"] == RLOSS.title


def test_the_page_asks_for_nothing_from_outside(sweep):
    for seed in range(3):
        sweep(f"{seed}", "at", seed, rloss=seed + 1, flat=seed + 1)
    text = write_sweep_report(sweep.folder)[0].read_text()
    plotly = sweep_interactive.plotly()
    assert text.count(plotly) == 1
    own = text.replace(plotly, "")
    assert not re.search(r"https?://(?!www\.w3\.org/)|\bsrc=|<link|@import|url\((?!#)", own)
    assert "</script" not in plotly
    assert "modeBarButtons:" in own, "else Plotly offers to send the chart to a server"
