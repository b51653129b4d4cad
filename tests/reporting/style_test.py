import re
import subprocess
import sys

import matplotlib
import pytest

from rfm.reporting import figures, style
from rfm.reporting.run import read_run


@pytest.fixture
def metrics(files):
    return read_run(files.training()).metrics


def test_the_same_figure_is_the_same_file(metrics):
    first, second = (figures.training_curves(metrics) for _ in range(2))
    assert style.svg(first) == style.svg(second) == style.svg(first)
    assert style.png(first) == style.png(second)


def test_files_name_no_date_and_no_program(metrics):
    text = style.svg(figures.training_curves(metrics))
    assert "<metadata" not in text
    assert b"Software" not in style.png(figures.training_curves(metrics))


def test_inside_a_page_colours_are_variables_and_ids_unique(metrics):
    text = style.svg(figures.training_curves(metrics))
    inline = style.inline_svg(text, "a") + style.inline_svg(text, "b")
    assert not re.search(r"#[0-9a-f]{6}\b", inline)
    assert {f"--{name}" for name in ("ink", "test", "train", "mark")} <= set(
        re.findall(r"var\((--[a-z-]+)\)", inline)
    )
    ids = re.findall(r'\bid="([^"]+)"', inline)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', inline)
    assert targets
    assert set(targets) <= set(ids)
    assert inline.startswith("<svg ")
    assert not re.search(r'<svg [^>]*\b(width|height)="', inline)


def test_drawing_leaves_matplotlib_as_it_was(metrics):
    before = dict(matplotlib.rcParams)
    style.png(figures.training_curves(metrics))
    assert dict(matplotlib.rcParams) == before


def test_no_display_is_touched():
    code = "import sys, rfm.reporting; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_colour_is_told_apart_from_the_others_in_both_modes():
    for mode in (0, 1):
        assert len({pair[mode] for pair in style.COLOURS.values()}) == len(style.COLOURS)
