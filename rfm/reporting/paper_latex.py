r"""Tables B to E as LaTeX: a ``longtable`` with the rules of ``booktabs``.

A file is for ``\input``; it needs in the preamble::

    \usepackage{booktabs, longtable, xcolor}

and a page of one column, since a ``longtable`` goes on over pages. Below each line of ours is
the paper's, grey and in italics. The notes are a list after the table.
"""

import re
from collections.abc import Iterator

from rfm.reporting.paper_markup import runs
from rfm.reporting.paper_rows import Cell, Line, PaperTable

PACKAGES = ("booktabs", "longtable", "xcolor")

_ESCAPED = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"{{{character}}}" for character in "[]*"},  # of \\ they would be options
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "ξ": r"$\xi$",
    "τ": r"$\tau$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "’": "'",
    "“": "``",
    "”": "''",
}


def escape(text: str) -> str:
    """`text` as LaTeX shows it literally."""
    quoted = re.sub(r'"([^"]*)"', "“\\1”", text)
    return "".join(_ESCAPED.get(character, character) for character in quoted)


def to_latex(table: PaperTable, *, absent: bool = False) -> str:
    """The table and its notes.

    Args:
      table: one of Tables B to E.
      absent: with the paper's rows that have no run, too.
    """
    layout = table.layout
    count = len(layout.columns) + 1
    start, parts, rules = 2, [], []
    for part, width in layout.parts.items():
        parts.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(part)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    head = [
        r"\toprule",
        rf" & {' & '.join(parts)} \\",
        "".join(rules),
        rf" & {' & '.join(escape(column.title) for column in layout.columns)} \\",
        rf"Method & {' & '.join(escape(column.how) for column in layout.columns)} \\",
        r"\midrule",
    ]
    body, group = [], ""
    for line in (*table.lines, *(table.absent if absent else ())):
        if line.group and line.group != group:
            body += [r"\midrule"] if group else []
            title = escape(table.group_title(line.group))
            body.append(rf"\multicolumn{{{count}}}{{l}}{{\textbf{{{title}}}}} \\*")
            group = line.group
        body += _lines(table, line)
    name = layout.letter.lower()
    return "\n".join(
        [
            f"% {table.title}. Needs \\usepackage{{{', '.join(PACKAGES)}}}.",
            r"\providecommand{\rfmpaper}[1]{\textcolor{gray}{\emph{#1}}}",
            r"\begingroup",
            r"\scriptsize",
            r"\setlength{\tabcolsep}{1.9pt}",  # fits A4 with margins of 1.5 cm
            r"\setlength{\LTcapwidth}{\linewidth}",
            rf"\begin{{longtable}}{{@{{}}l{'r' * (count - 1)}@{{}}}}",
            rf"\caption{{{escape(layout.title[0].upper() + layout.title[1:])}. Upright: ours;"
            r" \rfmpaper{italic}: the paper's.}",
            rf"\label{{tab:rfm-{name}}}\\",
            *(*head, r"\endfirsthead", *head, r"\endhead"),
            *(r"\bottomrule", r"\endlastfoot"),
            *body,
            r"\end{longtable}",
            r"\begin{itemize}",
            r"\setlength{\itemsep}{0pt}\setlength{\parskip}{0pt}",
            *(rf"\item {escape(note)}" for note in (*table.notes, *_differences(table))),
            r"\end{itemize}",
            r"\endgroup",
            "",
        ]
    )


def _differences(table: PaperTable) -> Iterator[str]:
    if table.alike:
        yield f"As in the paper: {', '.join(table.alike)}."
    for of in table.differences:
        yield f"Not as in the paper, {of.title}: {of.ours}; there: {of.papers}."


def _lines(table: PaperTable, line: Line) -> list[str]:
    """Ours and the paper's, which a page break does not part."""
    cells = [table.cell(line, column) for column in table.layout.columns]
    found = []
    if line.row is not None:
        title = escape(f"{line.row.title}, {runs(line)}")
        end = r"\\*" if line.published is not None else r"\\"
        found.append(f"{title} & {' & '.join(map(_ours, cells))} {end}")
    if line.published is not None:
        papers = [_papers(text) for text in (line.published.title, *(c.papers for c in cells))]
        found.append(rf"{' & '.join(papers)} \\")
    return found


def _ours(cell: Cell) -> str:
    if not cell.ours:
        return "--"
    spread = rf"$_{{\pm{cell.spread}}}$" if cell.spread else ""
    return cell.ours + spread + (rf"\,{cell.runs}" if cell.runs else "")


def _papers(text: str) -> str:
    return rf"\rfmpaper{{{escape(text) or '--'}}}"
