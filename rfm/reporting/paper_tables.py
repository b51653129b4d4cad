"""Tables B to E of the supplement over a sweep: ours, and beside them what the paper has.

`paper_tables` takes the rows of a sweep and the paper's own, which are given, and arranges
columns, order and groups as in the supplement; `paper_markup` and `paper_latex` write them::

    rows = sweep_rows.rows(rfm.reporting.read_sweep("runs"))
    tables = paper_tables(rows, rfm.configs.methods.paper())
    paper_markup.to_csv(tables), paper_markup.to_markdown(tables), paper_latex.to_latex(tables[0])

Tables B and C have the networks of the zoo, D and E the methods that were trained. The main
columns are of the end of training, those of early stopping of the snapshot that it picks. A row
is the paper's if its method has the same name; what was not measured, or is not in the paper,
stays open.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from rfm.reporting import paper_notes
from rfm.reporting.paper_columns import TABLES, Column, Layout
from rfm.reporting.paper_rows import GROUPS, LIMITS, Line, PaperTable, Published, sorting
from rfm.reporting.records import ELSEWHERE
from rfm.reporting.sweep_rows import Mean, Row, means


def paper_tables(rows: Sequence[Row], paper: Iterable[Published]) -> tuple[PaperTable, ...]:
    """Those of Tables B to E that something was measured for.

    Args:
      rows: of the sweep, `rfm.reporting.sweep_rows.rows`.
      paper: the paper's rows in its order, ``rfm.configs.methods.paper()``; may be empty.
    """
    published = tuple(paper)
    elsewhere = [row for row in rows if _is_from_elsewhere(row)]
    networks = [row for row in elsewhere if zoo_name(row)]
    others = [row for row in elsewhere if not zoo_name(row)]
    methods = [row for row in rows if not _is_from_elsewhere(row)]
    made = (
        _table(layout, networks, [of for of in published if of.zoo])
        if layout.zoo
        else _table(layout, methods, [of for of in published if of.method], others)
        for layout in TABLES
    )
    return tuple(table for table in made if table is not None)


def zoo_name(row: Row) -> str:
    """The name in the zoo of a network with imported weights, "" of anything else."""
    records = (record for member in row.members for record in member.records)
    names = (r.protocol.get("zoo") for r in records if r.checkpoint == "imported")
    return next((str(name) for name in names if name), "")


def _is_from_elsewhere(row: Row) -> bool:
    return any(r.checkpoint in ELSEWHERE for member in row.members for r in member.records)


def _table(
    layout: Layout,
    rows: Sequence[Row],
    published: Sequence[Published],
    left_out: Sequence[Row] = (),
) -> PaperTable | None:
    known = {f"zoo:{of.zoo}" if of.zoo else of.method: of for of in published}
    lines = []
    for row in rows:
        name = f"zoo:{zoo_name(row)}" if layout.zoo else row.name
        lines.append(Line(name, row, known.get(name), _means(layout, row)))
    if not any(line.means for line in lines):
        return None
    by, order = sorting(layout, lines), list(known)

    def rank(line: Line) -> tuple[float, str, tuple[str, ...]]:
        if by is None:
            place = order.index(line.name) if line.name in known else len(order)
            return place, line.name, line.apart
        value = line.value(by.key)
        return math.inf if value is None else value, line.name, line.apart

    lines.sort(key=rank)
    limits = _limits(lines, by) if layout.grouped and by else ()
    if by is not None:
        lines = [
            dataclasses.replace(line, group=_group(line.value(by.key), limits)) for line in lines
        ]
    there = {line.name for line in lines}
    absent = tuple(Line(name, None, of) for name, of in known.items() if name not in there)
    table = PaperTable(layout, tuple(lines), _sorted(absent, by), limits)
    differences, alike = paper_notes.compared(table)
    notes = paper_notes.notes(table, left_out)
    return dataclasses.replace(table, notes=notes, differences=differences, alike=alike)


def _sorted(absent: Sequence[Line], by: Column | None) -> tuple[Line, ...]:
    """As in the paper."""
    if by is None:
        return tuple(absent)
    return tuple(sorted(absent, key=lambda line: line.papers(by.key) or math.inf))


def _means(layout: Layout, row: Row) -> dict[str, Mean]:
    final = means(member.final for member in row.members)
    # Of a run whose best snapshot is its last one early stopping is always known. With those alone
    # a mean would be of the runs that did not overfit.
    everywhere = all(member.early_stopped for member in row.members if member.final)
    stopped = means(member.early_stopped for member in row.members) if everywhere else {}
    found = {
        column.key: (stopped if column.of == "stop" else final).get(column.place)
        for column in layout.columns
    }
    return {key: mean for key, mean in found.items() if mean is not None}


def _limits(lines: Sequence[Line], by: Column) -> tuple[float, ...]:
    """Of the groups: the paper's, or by its rule; () where neither makes sense.

    The paper's are of RErr (AA) on CIFAR-10 at epsilon 8/255, of its network trained on all
    images. Its rule: what is worse than the AT
    baseline is a group, the others are parted at about 30 and 70 percent of them.
    """
    measured = [line for line in lines if line.row is not None and by.key in line.means]
    tasks = {paper_notes.task(line.row) for line in measured if line.row is not None}
    if len(tasks) != 1:
        return ()  # other data or another ball: nothing to be better or worse than
    as_there = all(paper_notes.is_of_the_papers_size(of.row) for of in measured if of.row)
    if by.measure == "RErr (AA)" and tasks == {paper_notes.TASK} and as_there:
        return LIMITS
    baseline = [line.means[by.key].value for line in measured if line.name == "at"]
    within = [line.means[by.key].value for line in measured]
    within = [value for value in within if len(baseline) == 1 and value <= baseline[0]]
    if len(within) < paper_notes.FEWEST:
        return ()
    good, average = np.percentile(within, [30, 70])
    return float(good), float(average), baseline[0]


def _group(value: float | None, limits: Sequence[float]) -> str:
    if value is None or not limits:
        return ""
    return GROUPS[sum(value > limit for limit in limits)]
