"""What stands under Tables B to E: what the numbers are, and why they cannot be compared."""

from collections.abc import Iterator, Mapping, Sequence

from rfm.reporting import paper_protocol
from rfm.reporting.paper_protocol import BALL, DATA, Choice
from rfm.reporting.paper_rows import LIMITS, PaperTable
from rfm.reporting.protocol import setting, threat_text
from rfm.reporting.records import Record
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_rows import Row
from rfm.reporting.tables import MEASURES

TASK = ((DATA, BALL),)
"""What the paper's groups are about."""
FEWEST = 4  # rows no worse than the AT baseline that can be parted at 30 and 70 percent
_NAMED = 4  # so many rows are named, of more the number is said


def task(row: Row) -> tuple[tuple[str, str], ...]:
    """The data and the balls around inputs that a row was attacked with at the end of training."""
    found = {
        (
            paper_protocol.data_text(setting(record.protocol, "source")),
            threat_text(record.protocol),
        )
        for member in row.members
        for record in member.final
        if record.kind in ("evaluation", "attack")
    }
    return tuple(sorted(found))


def is_of_the_papers_size(row: Row) -> bool:
    """Are network and training data the paper's, as far as the runs say?"""
    choices = (
        choice
        for member in row.members
        for choice in paper_protocol.of_training(member.run.config, row.name)
    )
    size = {"data", "training examples", "network"}
    return all(not of.ours or of.ours == of.papers for of in choices if of.title in size)


def notes(table: PaperTable, left_out: Sequence[Row] = ()) -> tuple[str, ...]:
    """The lines under a table; of `left_out` it is said that they are not in it."""
    lines = [*_reading(table), *_open(table)]
    if left_out:
        names = ", ".join(row.title for row in left_out)
        lines.append(f"Not trained here, and in the table of results alone: {names}.")
    return tuple(lines)


def _reading(table: PaperTable) -> Iterator[str]:
    spread = (
        "± is one standard deviation over the runs of a method, its seeds (n − 1)"
        if table.seeds
        else "of one run each: ± is one standard error over examples"
    )
    yield (
        f"Upright is ours, {spread}; italic is the paper’s (Table {table.layout.letter} of the"
        " supplement), of one run each. – was not measured, or is not in the paper."
    )
    means = [(line, mean) for line in table.lines for mean in line.means.values()]
    if any(line.row and mean.runs < len(line.row.members) for line, mean in means):
        yield "In parentheses: of how many runs, where not all of a row have the value."
    by = table.sorted_by
    if by is None:
        yield "In the order of the supplement, by name. The paper’s used early stopping."
    else:
        yield f"Sorted by our {by.text} on test, lowest first."
    if table.limits == LIMITS:
        yield "Groups by our RErr (AA), with the limits of Section H."
    elif table.limits:
        yield (
            "Groups by the rule of Section H on these rows: what is above the AT baseline is"
            " worse, the others are parted at 30 and 70 percent of them."
        )
    elif table.layout.grouped:
        yield (
            f"Not grouped: the limits of Section H are of RErr (AA) on {DATA}, {BALL}, of the"
            f" paper’s network trained on all images; its rule needs an AT baseline and {FEWEST}"
            " rows that are no worse, attacked alike."
        )


def compared(table: PaperTable) -> tuple[tuple[Choice, ...], tuple[str, ...]]:
    """What is not as in the paper, and the titles of what is, as far as runs and records say.

    Where rows differ from each other, the text of ours says which are which.
    """
    found: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for line in table.lines:
        if line.row is not None:
            for choice in filter(lambda choice: choice.ours, _choices(table, line.row)):
                texts = found.setdefault((choice.title, choice.papers), {})
                texts.setdefault(choice.ours, {})[line.row.title] = None
    is_alike = {key: texts.keys() == {key[1]} for key, texts in found.items()}
    differing = (
        Choice(title, _texts(texts), papers)
        for (title, papers), texts in found.items()
        if not is_alike[title, papers]
    )
    return tuple(differing), tuple(title for (title, _), alike in is_alike.items() if alike)


def _texts(said: Mapping[str, Mapping[str, None]]) -> str:
    """Texts of ours with the rows that they are of, as far as that tells them apart."""
    if all(names == next(iter(said.values())) for names in said.values()):
        return " or ".join(said)
    most = max(said.values(), key=len)
    parts = []
    for text, names in said.items():
        named = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} rows"
        parts.append(f"{text} ({'all others' if names is most and len(names) > 1 else named})")
    return " or ".join(parts)


def _choices(table: PaperTable, row: Row) -> Iterator[Choice]:
    measured = {measure.label: measure.record for measure in MEASURES}
    columns = table.layout.columns
    of_end = {measured[c.measure].format(c.place[1]) for c in columns if c.of != "stop"}
    of_stop = {measured[c.measure].format("test") for c in columns if c.of == "stop"}
    for member in row.members:
        if not table.layout.zoo:
            yield from paper_protocol.of_training(member.run.config, row.name)
        for record in _named(member.final, of_end):
            yield from paper_protocol.of_record(record)
        stopped = _named(member.early_stopped, of_stop)
        for record in stopped:
            yield from paper_protocol.of_record(record)
        if stopped:
            yield from paper_protocol.of_early_stopping(member.run.config)


def _named(records: Sequence[Record], names: set[str]) -> list[Record]:
    return [record for record in records if record.name in names]


def _open(table: PaperTable) -> Iterator[str]:
    """Why cells are open that could have a value."""
    members = [member for line in table.lines if line.row for member in line.row.members]
    if table.layout.zoo:
        return
    if ends := [member.path for member in members if not member.final]:
        yield f"Not measured at the end of training: {_few(ends)}."
    done = [member for member in members if member.early_stopped]
    measured = _count(len(members), "run")
    if len(done) < len(members):
        yield (
            f"Early stopping is known of {len(done)} of {measured}, and open unless it is of all of"
            " a row: rfm evaluate --checkpoint best --workdir RUN measures it."
        )
    if last := sum(_is_the_last(member) for member in done):
        yield f"In {last} of {measured} the snapshot that early stopping picks is the last one."


def _is_the_last(member: Member) -> bool:
    return {record.step for record in member.early_stopped} == {r.step for r in member.final}


def _few(names: Sequence[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
