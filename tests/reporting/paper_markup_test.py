"""Tables B to E as CSV, Markdown, HTML and LaTeX: every cell in each, and nothing that breaks."""

import csv
import dataclasses
import html.parser
import io
import re
import shutil
import subprocess

import pytest
from rfm.configs import methods

from rfm.reporting import paper_files
from rfm.reporting.paper_columns import TABLES
from rfm.reporting.paper_latex import escape, to_latex
from rfm.reporting.paper_markup import to_csv, to_html, to_markdown
from rfm.reporting.paper_protocol import Choice
from rfm.reporting.paper_rows import GROUPS, LIMITS, Line, PaperTable
from rfm.reporting.run import Run
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_rows import Mean, Row

PAPER = {row.method: row for row in methods.paper()}
ODD = '[x] *<script>_50%|&\\{~^}#$ "q"'


def line(number, name, value, group, *, apart=()):
    """Two runs of a method, with `value` in every column but one."""
    members = tuple(Member(f"{name}/{seed}", Run(name)) for seed in range(2))
    means = {
        column.key: Mean(value + position, 0.5, None, 1 if position == 1 else 2, 1)
        for position, column in enumerate(TABLES[2].columns)
        if column.key != "rerr_aa_train"
    }
    row = Row(number, name, apart, members, {}, {})
    return Line(name, row, PAPER.get(name), means, group)


@pytest.fixture
def table():
    """Table D with a method of the paper, one of ours, and one without a run."""
    lines = (line(2, "at", 50.0, "good"), line(1, ODD, 70.0, "worse", apart=("a_b = <1>",)))
    return PaperTable(
        TABLES[2],
        lines,
        (Line("weight-clipping-0.01", None, PAPER["weight-clipping-0.01"]),),
        LIMITS,
        ("Ours ± and 1 < 2.",),
        (Choice("network & data", "resnet8_x", "resnet18"),),
        ("ε", "ξ_50%"),
    )


class Page(html.parser.HTMLParser):
    """Rows of cells, and whether all elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.values, self.tags = [], [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
            self.values.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.values[-1].append(dict(attributes).get("data-value"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += text


def test_csv_has_every_number_of_ours_and_of_the_paper(table):
    found = list(csv.DictReader(io.StringIO(to_csv([table]))))
    by_place = {(row["method"], row["column"]): row for row in found}
    assert {row["table"] for row in found} == {"D"}
    at = by_place["at", "rerr_pgd_test"]
    assert (at["mean"], at["standard_deviation"], at["runs"], at["runs_of_method"]) == (
        *("51", "0.5"),
        *("1", "2"),
    )
    assert (at["paper"], at["unit"], at["group"]) == ("61", "percent", "good")
    assert by_place["at", "rerr_aa_train"]["mean"] == ""
    assert by_place["at", "rerr_aa_train"]["paper"] == "10.7"
    assert by_place[ODD, "worst_loss"]["paper"] == ""
    assert by_place[ODD, "worst_loss"]["apart"] == "a_b = <1>"
    assert (ODD, "rerr_aa_train") not in by_place, "neither ours nor the paper's"
    alone = by_place["weight-clipping-0.01", "rerr_aa_test"]
    assert (alone["mean"], alone["runs"], alone["paper"]) == ("", "0", "59.6")
    assert len(found) == 12 + 11 + 12


def cells(text):
    """Those of the lines of a pipe table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


def test_markdown_has_ours_above_the_papers(table):
    text = to_markdown([table])
    found = [row for row in cells(text) if len(row) == 14]
    titles = [row[1].strip() for row in found]
    assert titles[0] == "method"
    assert titles[2:6] == [
        "**good: RErr (AA) up to 57.0 %**",
        "at, 2 runs",
        "*paper: AT (baseline)*",
        "**worse: RErr (AA) above 62.8 %**",
    ]
    ours = [cell.strip() for cell in found[3][2:5]]
    assert ours == ["50.0 ± 0.5", "51.0 ± 0.5 (1)", "52.0 ± 0.5"]
    assert [cell.strip() for cell in found[4][2:5]] == ["*20.20*", "*61.0*", "*62.8*"]
    assert found[3][7].strip() == "–"
    assert "- Ours ± and 1 \\< 2." in text
    assert "Weight clipping" not in text
    assert "*paper: Weight clipping w\\_max = 0.01*" in to_markdown([table], absent=True)
    assert [row for row in cells(text) if len(row) == 3][-1][0].strip() == "network & data"


def test_html_is_whole_escaped_and_can_be_sorted(table):
    text = to_html(table)
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags <= {
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "button",
        "small",
        "span",
        "em",
    }
    wide = [row for row in page.rows if len(row) == 14]
    assert len(wide) == 4, "titles, two of ours, one without a run"
    values = [row for row in page.values if len(row) == 14][1:]
    assert all(value is not None for row in values for value in row), "each has what to sort by"
    assert [row[3] for row in values] == ["51", "71", "58"], "ours, else the paper's"
    assert wide[1][1] == "at 2 runspaper: AT (baseline)"
    assert wide[1][3] == "51.0 ± 0.5 (1)61.0"
    assert wide[1][7] == "–10.7"
    assert ODD in wide[2][1]
    assert "a_b = <1>" in wide[2][1]
    before, absent = text.split('<tbody class="absent">')
    assert "Weight clipping" in absent
    assert "Weight clipping" not in before
    groups = [row[0].strip() for row in page.rows if len(row) == 1]
    assert groups == ["good: RErr (AA) up to 57.0 %", "worse: RErr (AA) above 62.8 %"]


def unescaped(text, character):
    return len(re.findall(rf"(?<!\\){re.escape(character)}", text))


@pytest.mark.parametrize("absent", [False, True])
def test_latex_is_balanced_and_every_line_has_every_column(table, absent):
    text = to_latex(table, absent=absent)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert unescaped(code, "{") == unescaped(code, "}")
    assert unescaped(code, "$") % 2 == 0
    assert unescaped(code, "%") == 0
    begun, ended = (re.findall(rf"\\{what}{{(\w+)}}", code) for what in ("begin", "end"))
    assert (begun, ended) == (["longtable", "itemize"],) * 2
    body = code.split(r"\endlastfoot")[1].split(r"\end{longtable}")[0].strip().splitlines()
    lines = [row for row in body if unescaped(row, "&")]
    assert {unescaped(row, "&") for row in lines} == {12}
    assert all(re.search(r" \\\\\*?$", row) for row in lines)
    assert len(lines) == (4 if absent else 3)
    assert lines[0].startswith(r"at, 2 runs & 50.0$_{\pm0.5}$ & 51.0$_{\pm0.5}$\,(1) &")
    assert lines[0].endswith(r"\\*"), "the paper's line stays below"
    assert lines[1].startswith(r"\rfmpaper{AT (baseline)} & \rfmpaper{20.20} & ")
    rules = [rule for rule in ("toprule", "midrule", "bottomrule") if rf"\{rule}" in code]
    assert len(rules) == 3
    for package in ("booktabs", "longtable", "xcolor"):
        assert package in text.splitlines()[0]
    assert text.count(r"\item ") == 3
    assert r"$\xi$\_50\%" in text


def test_what_is_special_in_latex_is_literal():
    assert escape("50 % of w_max & $1 #2 {x}") == r"50 \% of w\_max \& \$1 \#2 \{x\}"
    assert escape("a\\b~c^d") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"
    assert escape('"Late" ×2') == r"``Late'' $\times$2"
    assert escape("*[a]") == "{*}{[}a{]}", "an option of the line before, else"
    assert not re.search(r"[^\x00-\x7f]", escape("λ ξ τ ε ∞ × ± − – ’ “ ”"))


@pytest.mark.parametrize("group", GROUPS)
def test_all_titles_of_the_paper_are_latex(table, group):
    """Of the methods of each group."""
    lines = tuple(
        Line(row.method, None, row) for row in PAPER.values() if row.method and row.group == group
    )
    assert lines
    text = to_latex(dataclasses.replace(table, absent=lines), absent=True)
    assert unescaped(text, "{") == unescaped(text, "}")
    assert not re.search(r"[^\x00-\x7f]", text)


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="needs LaTeX: apt-get install texlive-latex-base texlive-latex-recommended",
)
def test_latex_takes_it(table, tmp_path):
    """With all rows of the paper, and what is odd."""
    lines = tuple(Line(row.method, None, row) for row in PAPER.values() if row.method)
    (tmp_path / "table.tex").write_text(
        to_latex(dataclasses.replace(table, absent=lines), absent=True)
    )
    (tmp_path / "page.tex").write_text(r"""\documentclass[a4paper]{article}
\usepackage[margin=1.5cm]{geometry}
\usepackage{booktabs, longtable, xcolor}
\begin{document}\input{table}\end{document}""")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    for _ in range(4):  # until columns are as wide as they stay
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    assert "Rerun LaTeX" not in done.stdout


def test_files_of_tables_that_there_are_no_more_go(table):
    found = paper_files.files([table])
    assert {path for path, content in found.items() if content} == {
        *("report/paper.csv", "report/paper.md", "report/table-d.tex"),
    }
    assert found["report/table-b.tex"] is None
    assert set(paper_files.files([]).values()) == {None}
    assert paper_files.files([]).keys() == found.keys()
