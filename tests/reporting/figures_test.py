import numpy as np
from matplotlib.container import ErrorbarContainer

from rfm.reporting import figures, style, through_training
from rfm.reporting.metrics import Metrics, TrainMetrics, ValidationMetrics
from rfm.reporting.run import read_run


def _lines(axes) -> dict[str, np.ndarray]:
    """The labelled lines of axes, each as points (n, 2)."""
    return {
        line.get_label(): np.column_stack(line.get_data())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def _points(lines, x: str, y: str, scale: float = 1) -> np.ndarray:
    return np.array([(getattr(line, x), scale * getattr(line, y)) for line in lines])


def test_training_curves_are_the_metrics(files):
    metrics = read_run(files.training()).metrics
    figure = figures.training_curves(metrics)
    losses, errors = figure.axes
    for axes, scale, on_train, robust, clean in (
        (losses, 1, "loss", "rloss", "loss"),
        (errors, 100, "error", "rerr", "err"),
    ):
        lines = _lines(axes)
        for label, entries, value in (
            ("train, under attack", metrics.train, on_train),
            ("held-out test, under attack", metrics.validation, robust),
            ("held-out test, clean", metrics.validation, clean),
        ):
            expected = _points(entries, "epoch", value, scale)
            np.testing.assert_allclose(lines[label], expected)
        stop = metrics.early_stopping()
        star = lines["early stopping, epoch 30"]
        np.testing.assert_allclose(star, _points([stop], "epoch", robust, scale))
        drops = [
            line.get_xdata()[0]
            for line in axes.lines
            if line.get_label() == "learning rate lowered"
        ]
        assert drops == [30, 45]


def test_split_and_loss_have_the_same_colours_in_all_figures(files):
    run = read_run(files.everything())
    training = figures.training_curves(run.metrics).axes[0]
    flatness = through_training.flatness_through_training(run.records, run.metrics).axes[1]
    bars = figures.loss_by_correctness(run.records).axes[0].patches
    colours = {line.get_label(): line.get_color() for line in (*training.lines, *flatness.lines)}
    assert colours["held-out test, under attack"] == colours["RLoss, test"] == style.colour("test")
    assert colours["held-out test, clean"] == colours["Loss, test"] == style.colour("test-clean")
    assert colours["train, under attack"] == style.colour("train")
    assert len({bar.get_facecolor() for bar in bars}) == 2


def test_missing_numbers_leave_gaps_and_missing_curves_are_left_out():
    lines = tuple(
        ValidationMetrics(epoch, epoch, None, None, rloss, None)
        for epoch, rloss in enumerate((1.0, None, 3.0))
    )
    losses, errors = figures.training_curves(Metrics(validation=lines)).axes
    (curve,) = _lines(losses).values()
    np.testing.assert_array_equal(curve[:, 1], [1.0, np.nan, 3.0])
    assert _lines(errors) == {}


def test_a_single_dispatch_can_be_drawn():
    metrics = Metrics(train=(TrainMetrics(1, 0.01, 2.3, 0.9, 0.05),))
    assert style.png(figures.training_curves(metrics)).startswith(b"\x89PNG")


def test_flatness_is_drawn_at_the_snapshots_beside_validation(files):
    run = read_run(files.everything())
    figure = through_training.flatness_through_training(run.records, run.metrics)
    beside, average, worst = figure.axes
    for axes, case in ((average, "average"), (worst, "worst")):
        for label, loss in (("RLoss, test", "rloss"), ("Loss, test", "loss")):
            name = f"flatness-{case}-{loss}-test"
            records = [r for r in run.records if r.snapshot and r.name == name]
            values = [record.value("flatness").value for record in records]
            expected = np.column_stack([range(10, 61, 10), values])
            np.testing.assert_allclose(_lines(axes)[label], expected)
        bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
        assert len(bars) == 2
        assert "ξ = " in axes.get_title(loc="left")
    at_snapshots = [line for line in run.metrics.validation if line.epoch % 10 == 0]
    np.testing.assert_allclose(
        _lines(beside)["RLoss, test"], _points(at_snapshots, "epoch", "rloss")
    )


def test_evaluations_of_snapshots_come_before_validation(files):
    files.training()
    for step, rloss in ((1000, 2.0), (2000, 1.5)):
        place = {"step": step, "epoch": step / 100, "snapshot": True}
        entry = files.evaluation("test", **place)
        entry["values"]["rloss"]["value"] = rloss
        files.records(entry, files.flatness("average", "rloss", 0.5, 0.1, **place))
    run = read_run(files.workdir)
    figure = through_training.flatness_through_training(run.records, run.metrics)
    beside, _ = figure.axes
    expected = [(10, 2.0), (20, 1.5)]
    np.testing.assert_allclose(_lines(beside)["RLoss, test"], expected)


def test_every_radius_has_a_panel(files):
    """Fig. C: the losses and lambda_max above, a row for each case below."""
    for step in (1000, 2000):
        place = {"step": step, "epoch": step / 100, "snapshot": True}
        for case, radii in (("average", (0.5, 0.75, 0.25)), ("worst", (0.003, 0.001))):
            for xi in radii:
                entry = files.flatness(case, "rloss", xi * step, 0.1, **place)
                entry["protocol"]["ball"]["radius"] = xi
                if xi not in (0.5, 0.003):
                    entry |= {"name": f"{entry['name']}-xi-{xi:g}", "variant": f"xi-{xi:g}"}
                files.records(entry)
        files.records(files.evaluation("test", **place), files.curvature("loss", 40.0, **place))
    run = read_run(files.workdir)
    figure = through_training.flatness_through_training(run.records, run.metrics)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    average = [f"Average-case flatness, ξ = {xi}" for xi in (0.25, 0.5, 0.75)]
    worst = [f"Worst-case flatness, ξ = {xi}" for xi in (0.001, 0.003)]
    assert titles == ["RLoss and Loss", "λmax of Loss", *average, *worst]
    np.testing.assert_allclose(_lines(figure.axes[2])["RLoss, test"], [(10, 250), (20, 500)])
    places = [axes.get_subplotspec().get_geometry() for axes in figure.axes]
    assert [place[:3] for place in places] == [(3, 3, i) for i in (0, 1, 3, 4, 5, 6, 7)]


def test_bars_are_the_rloss_of_correct_and_incorrect_examples(files):
    records = read_run(files.everything()).records
    figure = figures.loss_by_correctness(records)
    bars = [bar.get_height() for bar in figure.axes[0].patches]
    assert bars == [3.9149, 2.31, 9.53, 0.1912, 0.18, 1.9]


def test_a_model_without_mistakes_has_no_bar_for_them(files):
    entry = files.evaluation("train")
    entry["values"]["rloss_incorrect"] = {
        "value": None,
        "standard_error": None,
        "examples": 0,
    }
    files.records(entry)
    figure = figures.loss_by_correctness(read_run(files.workdir).records)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["0.19\nn = 1,000", "0.18\nn = 798", ""]
    assert style.svg(figure)


def test_figures_without_data_are_none(files):
    files.records(
        files.evaluation("test", values={}, adversarial=None),
        files.flatness("average", "rloss", float("nan"), 0.1, snapshot=True),
    )
    nothing = ValidationMetrics(6000, 60.0, None, None, None, None)
    assert figures.training_curves(Metrics(validation=(nothing,))) is None
    records = read_run(files.workdir).records
    assert figures.training_curves(Metrics()) is None
    assert through_training.flatness_through_training(records, Metrics()) is None
    assert figures.loss_by_correctness(records) is None
