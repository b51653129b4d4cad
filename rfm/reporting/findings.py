"""The paper's findings, asked of the runs of a sweep.

Each is a sentence of the paper, the number that it rests on there, that of these runs, and whether
it was found again. When that is so is fixed here, for all runs alike (`RULES`): an interval that
has zero in it decides nothing, few runs decide nothing. Last, are methods in the paper's order?
Networks that were trained without an adversary, or elsewhere, are not asked; adversarial methods
that the paper does not have, are.
"""

from collections.abc import Iterable, Mapping, Sequence

from rfm.reporting import findings_of_training as training
from rfm.reporting.correlation import correlation, difference, in_words
from rfm.reporting.finding import Finding, by_sign, in_lower_case, is_weaker
from rfm.reporting.paper_coefficients import of_rloss, pearsons, values
from rfm.reporting.paper_rows import Published
from rfm.reporting.records import ELSEWHERE
from rfm.reporting.rescaling import changes
from rfm.reporting.sweep_groups import means
from rfm.reporting.sweep_points import (
    AVERAGE,
    AVERAGE_LOSS,
    LAMBDA_MAX,
    RLOSS,
    TRAIN_RLOSS,
    WORST,
    Measured,
    Points,
    points,
)
from rfm.reporting.sweep_rows import Row
from rfm.reporting.sweep_snapshots import Course
from rfm.reporting.tables import markdown_escape

COLUMNS = ("finding", "paper", "here", "found again")
RULES = (
    "In brackets: 95 % intervals by a bootstrap over methods, each counting once; none of fewer"
    " than eight. Methods of one study are no random sample: the intervals say how much hangs on"
    " single ones.",
    "Yes: the whole interval has the sign that is claimed; but weaker: it is below half of the"
    " paper's number, that of the same methods where there is one. No: it has the other sign. Of"
    " overfitting it is Student's interval over at least three seeds. Counts: a two-sided binomial"
    " test at 5 %. Rescaling: flatness of RLoss changes by no more than in the paper, by a factor"
    " of 1.12, and λmax by 2 or more. Else nothing is decided.",
    "The order of methods is not asked in the paper.",
)
"""What stands under them."""


def findings(
    rows: Iterable[Row], paper: Iterable[Published] = (), courses: Iterable[Course] = ()
) -> tuple[Finding, ...]:
    """Those that there are records for.

    Args:
      rows: of the sweep.
      paper: its rows, for coefficients that it does not print.
      courses: snapshots of a run of each method.
    """
    asked = [row for row in rows if _is_asked(row)]
    published = [row for row in paper if row.method]
    measures = (AVERAGE, WORST, AVERAGE_LOSS, LAMBDA_MAX, TRAIN_RLOSS)
    of = {measure: points(asked, measure) for measure in measures}
    found = (
        training.overfitting(asked),
        _correlated(of, AVERAGE, 1, "RLoss is higher in sharper minima", published),
        _correlated(of, WORST, 1, "RLoss is higher in sharper minima", published),
        _tells_less(of, AVERAGE_LOSS, published),
        _tells_less(of, LAMBDA_MAX, published),
        _correlated(of, TRAIN_RLOSS, -1, "What fits training examples less is more robust",
                    published),
        *(training.early_stopping(asked, measure) for measure in (AVERAGE, WORST)),
        training.sharpens(asked),
        *training.through_training([of for of in courses if _is_asked(of.row)]),
        _rescaling(asked),
        *(_in_order(asked, measure, published) for measure in (RLOSS, AVERAGE, WORST)),
    )  # fmt: skip
    return tuple(finding for finding in found if finding is not None)


def to_markdown(found: Sequence[Finding]) -> str | None:
    """A pipe table and its rules; None without any."""
    if not found:
        return None
    lines = [COLUMNS, *(finding.cells for finding in found)]
    rows = ["| " + " | ".join(map(markdown_escape, line)) + " |" for line in lines]
    rows.insert(1, "| --- " * len(COLUMNS) + "|")
    return "\n".join([*rows, "", *(f"- {markdown_escape(rule)}" for rule in RULES)]) + "\n"


def _is_asked(row: Row) -> bool:
    records = (record for member in row.members for record in member.records)
    if any(record.checkpoint in ELSEWHERE for record in records):
        return False
    adversaries = (member.run.config.get("adversary") for member in row.members)
    return not any(isinstance(of, Mapping) and of.get("name") == "none" for of in adversaries)


def _correlated(
    of: Mapping[Measured, Points],
    measure: Measured,
    sign: int,
    claim: str,
    paper: Sequence[Published],
) -> Finding | None:
    found, names = of[measure].correlation, _names(of[measure])
    if found is None:
        return None
    interval, papers = found.pearson_interval, of_rloss(paper, measure, names)
    return Finding(
        f"{claim} (test RLoss against {in_lower_case(measure)}, Pearson)",
        pearsons(paper, [measure], names),
        f"{in_words(found.pearson, interval)}, {found.count}",
        by_sign(interval, sign),
        papers is not None and is_weaker(interval, papers.pearson),
    )


def _names(of: Points) -> set[str]:
    return {member.run.name for member in of.members}


def _tells_less(
    of: Mapping[Measured, Points], other: Measured, paper: Sequence[Published]
) -> Finding | None:
    """Average-case flatness of RLoss against another measure, on the runs that have both."""
    ours = {member.path: x for member, x in zip(of[AVERAGE].members, of[AVERAGE].x, strict=True)}
    theirs = of[other]
    shared = [
        (ours[member.path], x, y, number)
        for member, x, y, number in zip(
            theirs.members, theirs.x, theirs.y, theirs.numbers, strict=True
        )
        if member.path in ours
    ]
    first, second, losses, numbers = zip(*shared, strict=True) if shared else ((),) * 4
    coefficients = [correlation(x, losses, numbers) for x in (first, second)]
    found = difference(first, second, losses, numbers)
    if found is None or None in coefficients:
        return None
    names = _names(of[AVERAGE]) & _names(theirs)
    papers = [of_rloss(paper, measure, names) for measure in (AVERAGE, other)]
    more, less = (None if of is None else abs(of.pearson) for of in papers)
    text = " and ".join(in_words(of.pearson, None) for of in coefficients if of is not None)
    return Finding(
        f"{other.title} tells less of RLoss than {in_lower_case(AVERAGE)} (Pearson of the"
        " latter, then of the former)",
        pearsons(paper, [AVERAGE, other], names),
        f"{text}; difference of their sizes {in_words(*found)}",
        by_sign(found[1]),
        more is not None and less is not None and is_weaker(found[1], more - less),
    )


def _rescaling(rows: Sequence[Row]) -> Finding | None:
    found = changes(member for row in rows for member in row.members)
    if found is None:
        return None
    return Finding(
        "Rescaled weights of the same function leave flatness as it is, and not the Hessian"
        f" (factors {', '.join(f'{scale:g}' for scale in found.scales)})",
        "flatness changes by a factor of up to 1.12, λmax by 3.9 to 4.0",
        f"flatness changes by a factor of up to {max(found.flat):.3g}, λmax by"
        f" {min(found.curved):.3g} to {max(found.curved):.3g}",
        max(found.flat) <= 1.12 and min(found.curved) >= 2,
    )


def _in_order(rows: Sequence[Row], measure: Measured, paper: Sequence[Published]) -> Finding | None:
    """Methods by a measure, means over seeds, against the paper's own numbers of them."""
    theirs, names = values(paper, measure), {row.number: row.name for row in rows}
    ours = {names[number]: x for number, (x, _) in means(points(rows, measure)).items()}
    shared = [(x, theirs[name]) for name, x in ours.items() if name in theirs]
    found = correlation(*zip(*shared, strict=True)) if shared else None
    if found is None:
        return None
    interval = found.spearman_interval
    return Finding(
        f"The order of methods is like the paper's ({in_lower_case(measure)}, Spearman of"
        " ours and the paper's)",
        "",
        f"{in_words(found.spearman, interval)}, {found.count}",
        by_sign(interval),
    )
