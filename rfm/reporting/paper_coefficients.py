"""The paper's own coefficients: of all rows of its Tables D and E, and of methods of a sweep.

The paper prints two (Section D). All others, and those of some methods only, are of its tables.
"""

from collections.abc import Collection, Sequence

from rfm.reporting.correlation import Correlation, correlation, in_words
from rfm.reporting.paper_rows import Published
from rfm.reporting.sweep_points import (
    AVERAGE,
    AVERAGE_LOSS,
    RLOSS,
    TRAIN_RLOSS,
    WORST,
    Measured,
)

COLUMNS = {
    RLOSS: "rloss_pgd_test",
    TRAIN_RLOSS: "rloss_pgd_train",
    AVERAGE: "average_rloss",
    WORST: "worst_rloss",
    AVERAGE_LOSS: "average_loss",
}
"""Of its tables."""

_PRINTED = {AVERAGE: "0.85", AVERAGE_LOSS: "0.27"}


def values(paper: Sequence[Published], measure: Measured) -> dict[str, float]:
    """Of a measure, by method; a measure that is not in the tables has none."""
    found = {row.method: row.values.get(COLUMNS.get(measure, "")) for row in paper if row.method}
    return {method: value for method, value in found.items() if value is not None}


def of_rloss(
    paper: Sequence[Published], measure: Measured, methods: Collection[str] | None = None
) -> Correlation | None:
    """A measure against RLoss on test examples, of these methods or of all."""
    x, y = values(paper, measure), values(paper, RLOSS)
    shared = [name for name in x if name in y and (methods is None or name in methods)]
    return correlation([x[name] for name in shared], [y[name] for name in shared])


def pearsons(
    paper: Sequence[Published], measures: Sequence[Measured], methods: Collection[str]
) -> str:
    """Pearson's coefficients in words: of all rows, and of these methods; "" without any."""
    every = [of_rloss(paper, measure) for measure in measures]
    same = [of_rloss(paper, measure, methods) for measure in measures]
    if None in every:
        return ""
    text = " and ".join(
        _PRINTED.get(measure) or in_words(of.pearson, None)
        for measure, of in zip(measures, every, strict=True)
        if of is not None
    )
    if not all(measure in _PRINTED for measure in measures):
        text += " (from Tables D and E)"
    of_same = [of for of in same if of is not None]
    if len(of_same) < len(measures) or of_same[0].runs == max(of.runs for of in every if of):
        return text
    also = " and ".join(in_words(of.pearson, None) for of in of_same)
    return f"{text}; {also} of the same {of_same[0].runs} methods"
