"""The report in one paragraph: sentences whose every number comes from the run.

A sentence whose numbers were not measured is left out.
"""

from collections.abc import Iterator

from rfm.reporting.metrics import TrainMetrics, ValidationMetrics
from rfm.reporting.protocol import attack_text, radius
from rfm.reporting.records import ELSEWHERE, Record, latest
from rfm.reporting.run import Run
from rfm.reporting.tables import Cell, ResultsTable


def summary(run: Run, results: ResultsTable | None) -> str:
    """What came out, for a reader in a hurry."""
    sentences = [_subject(run, results)]
    if results is None:
        sentences.append("Nothing has been evaluated yet; rfm evaluate and rfm flatness do that.")
    else:
        by_name = {record.name: record for record in latest(run.records)}
        sentences.extend(_errors(results, by_name.get("evaluation-test")))
        sentences.extend(_flatness(results, by_name))
    sentences.extend(_early_stopping(run))
    return " ".join(sentences)


def _subject(run: Run, results: ResultsTable | None) -> str:
    lines: tuple[TrainMetrics | ValidationMetrics, ...] = (
        *run.metrics.train,
        *run.metrics.validation,
    )
    last = max(lines, key=lambda line: line.step, default=None)
    if results is not None:
        column = results.columns[0]
        if column.checkpoint in ELSEWHERE:
            return f"This report measures {ELSEWHERE[column.checkpoint]}, “{run.name}”."
        step, epoch, verb = column.step, column.epoch, "measures"
    else:
        assert last is not None  # a run has records or metrics
        step, epoch, verb = last.step, last.epoch, "follows"
    after = f"{step:,} training steps"
    if epoch is not None:
        after = f"{epoch:g} epoch{'' if epoch == 1 else 's'} ({after})"
    return f"This report {verb} the run “{run.name}” after {after}."


def _errors(results: ResultsTable, evaluation: Record | None) -> Iterator[str]:
    err, rerr = results.cell("Err", "test"), results.cell("RErr", "test")
    if err.value is not None:
        yield f"The classifier gets {err.number} % of the test images wrong."
    if rerr.value is None or evaluation is None:
        return
    attack = attack_text(evaluation.protocol.get("attack"))
    yield f"Under attack ({attack}) it gets {rerr.number} % of them wrong."
    train = results.cell("RErr", "train")
    if train.value is not None:
        gap = rerr.value - train.value
        yield (
            f"On training images the same attack reaches {train.number} %, "
            f"a robust generalisation gap of {gap:.1f} percentage points."
        )


def _flatness(results: ResultsTable, by_name: dict[str, Record]) -> Iterator[str]:
    for case, text in (
        ("average", "A random change of the weights{} raises RLoss by {} on average."),
        ("worst", "The worst change found{} raises it by {}."),
    ):
        cell: Cell = results.cell(f"{case.capitalize()}-case flatness of RLoss", "test")
        if cell.value is None:
            continue
        xi = radius(by_name[f"flatness-{case}-rloss-test"])
        within = f" within {100 * xi:g} % of each layer's norm" if xi else ""
        yield text.format(within, cell.number)


def _early_stopping(run: Run) -> Iterator[str]:
    best = run.metrics.early_stopping()
    if best is None or best.rerr is None:
        return
    last = run.metrics.validation[-1]
    examples = f"{best.examples:,} held-out" if best.examples else "held-out"
    lowest = (
        f"RErr on the {examples} test images was lowest after epoch {best.epoch:g} "
        f"({100 * best.rerr:.1f} %)"
    )
    if best == last or last.rerr is None:
        yield f"{lowest}, the last snapshot."
    else:
        yield f"{lowest} and ended at {100 * last.rerr:.1f} %."
