import pytest

from rfm.reporting.metrics import (
    Metrics,
    TrainMetrics,
    ValidationMetrics,
    read_metrics,
)


def _validation(*rerrs: float | None) -> Metrics:
    lines = (
        ValidationMetrics(epoch * 10, epoch, 0.5, 0.2, 1.5, rerr, 500)
        for epoch, rerr in enumerate(rerrs, start=1)
    )
    return Metrics(validation=tuple(lines))


def _rates(*rates: float | None) -> Metrics:
    lines = (
        TrainMetrics(epoch * 10, epoch, 1.0, 0.5, rate) for epoch, rate in enumerate(rates, start=1)
    )
    return Metrics(train=tuple(lines))


def test_lines_are_sorted_by_kind_and_other_kinds_are_skipped(files):
    files.metrics(
        {"kind": "train", "step": 5, "epoch": 0.5, "loss": 2.0, "error": 0.75},
        {"kind": "tomorrow", "step": 5},
        {"kind": "validation", "step": 10, "epoch": 1, "rerr": 0.5, "examples": 500},
    )
    metrics, problems = read_metrics(files.workdir / "metrics.jsonl")
    assert metrics.train == (TrainMetrics(5, 0.5, 2.0, 0.75, None),)
    assert metrics.validation == (ValidationMetrics(10, 1.0, None, None, None, 0.5, 500),)
    assert problems == ()


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == (Metrics(), ())


def test_a_last_line_cut_short_is_ignored_at_every_byte(files):
    files.training()
    path = files.workdir / "metrics.jsonl"
    whole = path.read_bytes()
    complete, _ = read_metrics(path)
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole) - 2):
        path.write_bytes(whole[:end])
        metrics, problems = read_metrics(path)
        assert problems == ()
        assert metrics.train == complete.train
        assert metrics.validation == complete.validation[:-1]


@pytest.mark.parametrize("line", ['{"kind": "tra', '{"kind": "train"}', "7", ""])
def test_a_damaged_line_elsewhere_is_named_and_costs_that_line(files, line):
    files.training()
    path = files.workdir / "metrics.jsonl"
    complete, _ = read_metrics(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    metrics, problems = read_metrics(path)
    assert metrics == complete
    assert problems == (f"{path}: line 4 is damaged and left out",)


def test_early_stopping_takes_the_lowest_rerr_and_the_earliest_of_equals():
    assert _validation(0.6, 0.5, 0.7, 0.5).early_stopping().epoch == 2
    assert _validation(None, 0.6, None).early_stopping().epoch == 2
    assert _validation(0.6, 0.0, 0.1).early_stopping().epoch == 2
    assert _validation(None).early_stopping() is None
    assert Metrics().early_stopping() is None


def test_early_stopping_may_be_confined_to_the_checkpoints_there_are():
    metrics = _validation(0.6, 0.5, 0.7)
    first, _, last = (line.step for line in metrics.validation)
    assert metrics.early_stopping([first, last]).step == first
    assert metrics.early_stopping([last]).step == last
    assert metrics.early_stopping([]) is None


@pytest.mark.parametrize(
    ("rates", "drops"),
    [
        ((0.05, 0.05, 0.005, 0.005, 0.0005), (2, 4)),
        ((0.05, 0.05, 0.02, 0.005, 0.005), (2,)),  # a dispatch with the drop inside
        ((0.05, 0.05, 0.05), ()),
        ((0.05, 0.050000001, 0.05, 0.05), ()),  # rounding
        ((0.2, 0.15, 0.1, 0.05, 0.2, 0.15, 0.1), ()),  # cyclic
        ((0.01, 0.01, 0.05, 0.05), ()),  # upwards
        ((0.05, None, 0.05, 0.005), (3,)),
        ((0.05,), ()),
    ],
)
def test_learning_rate_drops_end_a_plateau(rates, drops):
    assert _rates(*rates).learning_rate_drops() == drops
