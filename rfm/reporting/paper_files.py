"""Tables B to E in the report of a sweep: its files, and what its page shows of them."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from rfm.reporting import paper_latex, paper_markup
from rfm.reporting.paper_columns import TABLES
from rfm.reporting.paper_rows import PaperTable


def files(tables: Sequence[PaperTable]) -> dict[str, str | None]:
    """Contents by path; None of a file that there is nothing for."""
    found: dict[str, str | None] = {
        "report/paper.csv": paper_markup.to_csv(tables) if tables else None,
        "report/paper.md": paper_markup.to_markdown(tables) if tables else None,
    }
    found |= {f"report/table-{layout.letter.lower()}.tex": None for layout in TABLES}
    for table in tables:
        path = f"report/table-{table.layout.letter.lower()}.tex"
        found[path] = paper_latex.to_latex(table)
    return found


def sections(tables: Sequence[PaperTable]) -> list[dict[str, Any]]:
    """For ``paper_tables.html.j2``."""
    return [
        {
            "letter": table.layout.letter,
            "title": table.title,
            "html": Markup(paper_markup.to_html(table)),
            "notes": table.notes,
            "alike": ", ".join(table.alike),
            "differences": table.differences,
            "absent": len(table.absent),
            "not_as": paper_markup.NOT_AS_IN_THE_PAPER,
        }
        for table in tables
    ]
