"""The zoo's page: its Python runs as it stands, and its table is that of the code."""

import re
from pathlib import Path

import pytest
from rfm.configs import methods

from rfm.models import zoo

PAGE = (Path(__file__).parents[1] / "docs" / "zoo.md").read_text()


@pytest.mark.usefixtures("quick_compilation")
def test_python_runs(capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(code, "docs/zoo.md", "exec"), {})
    # 20 convolutions, 16 normalisations of five tensors, the head, mean and deviation.
    assert capsys.readouterr().out == "104 (1, 10)\n"


def test_the_table_is_that_of_the_code():
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(lines) == len(zoo.IN_PAPER)
    paper = {row.zoo: row.values for row in methods.paper() if row.zoo}
    for line, name in zip(lines, zoo.IN_PAPER, strict=True):
        entry, cells = zoo.ZOO[name], [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[:2] == [f"`{name}`", entry.architecture]
        columns = ("err_test", "rerr_pgd_test", "rerr_aa_test", "average_rloss", "worst_rloss")
        expected = [paper[name][column] for column in columns] + [round(100 - entry.robust, 2)]
        assert list(map(float, cells[2:8])) == expected
        assert cells[8] == f"[file]({entry.url})"
        assert f"({entry.authors})" in cells[9]
