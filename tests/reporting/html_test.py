import html
import html.parser
import logging
import os
import re
from pathlib import Path

import pytest

from rfm.errors import UserError
from rfm.reporting import write_report
from rfm.reporting.run import read_run
from rfm.reporting.tables import table

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Checks nesting and collects what a page shows and what it points to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _files(workdir: Path) -> dict[str, bytes]:
    paths = [workdir / "report.html", *(workdir / "report").rglob("*.*")]
    return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


def test_the_report_is_one_wellformed_file_that_asks_for_nothing(files):
    path = write_report(files.everything(shape=(32, 32, 3)))
    assert path == files.workdir / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import|\bon\w+=", text)


def test_the_report_shows_the_table_the_protocol_and_the_config(files):
    page = Page(write_report(files.everything()).read_text(encoding="utf-8"))
    results = table(read_run(files.workdir).records)
    for _, cells in results.rows:
        assert all(cell.text in page.text for cell in cells)
    assert all(line in page.text for line in results.caption)
    assert '"width": 16' in page.text
    assert "attack.step_size" in page.text
    for number in range(3, 8):
        assert f"Eq. ({number})" in page.text


def test_parts_of_the_report_are_files(files):
    write_report(files.everything())
    figures = ("training", "flatness", "correctness", "examples")
    expected = {f"report/figures/{name}.{kind}" for name in figures for kind in ("png", "svg")}
    assert _files(files.workdir).keys() == expected | {
        "report.html",
        "report/table.csv",
        "report/table.md",
    }


def test_the_same_run_gives_the_same_bytes(files):
    write_report(files.everything())
    first = _files(files.workdir)
    write_report(files.workdir)
    assert _files(files.workdir) == first


def test_what_users_write_is_text(files):
    name = "<script>alert('at')</script>&amp;{{ run }}"
    page = Page(write_report(files.everything(name=name)).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(name) >= 3  # title, heading, summary, config


def test_training_alone_gives_its_curves(files):
    page = Page(write_report(files.training()).read_text(encoding="utf-8"))
    assert page.tags.count("svg") == 1
    assert "Results" not in page.text
    assert _files(files.workdir).keys() == {
        "report.html",
        "report/figures/training.png",
        "report/figures/training.svg",
    }


def test_records_alone_give_their_table(files):
    files.records(files.flatness("worst", "rloss", 6.4907, 0.2))
    page = Page(write_report(files.workdir).read_text(encoding="utf-8"))
    assert "6.491 ± 0.200" in page.text
    assert "svg" not in page.tags


def test_what_a_later_run_no_longer_has_is_removed(files):
    write_report(files.everything())
    for path in (files.workdir / "records").rglob("*.json"):
        path.unlink()
    write_report(files.workdir)
    assert not (files.workdir / "report/figures/flatness.png").exists()
    assert not (files.workdir / "report/table.csv").exists()


def test_damaged_files_are_named_in_the_report_and_the_log(files, caplog):
    files.everything()
    damaged = files.workdir / "records/00006000/evaluation-test.json"
    damaged.write_text("{")
    with caplog.at_level(logging.WARNING):
        page = Page(write_report(files.workdir).read_text(encoding="utf-8"))
    assert str(damaged) in caplog.text
    assert str(damaged.relative_to(files.workdir)) in page.text
    assert str(files.workdir) not in page.text  # reports are passed on


def test_numbers_that_are_not_finite_do_not_stop_the_report(files):
    entry = files.evaluation("test")
    for value in entry["values"].values():
        value["value"] = value["standard_error"] = float("nan")
    entry["adversarial"]["adversarial_images"][0][0][0] = [float("nan")]
    nan = {"loss": float("nan"), "rloss": None, "rerr": float("inf")}
    files.metrics({"kind": "validation", "step": 1, "epoch": 1, **nan})
    files.records(
        entry,
        files.flatness("average", "rloss", float("nan"), None),
        files.flatness("average", "rloss", float("nan"), 0.1, snapshot=True),
    )
    page = Page(write_report(files.workdir).read_text(encoding="utf-8"))
    assert page.tags.count("svg") == 1  # the adversarial examples
    assert "nan" not in page.text.lower().replace("cannot", "")


def test_a_report_that_cannot_be_written_leaves_the_old_one(files, monkeypatch):
    path = write_report(files.everything())
    before = _files(files.workdir)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left"):
        write_report(files.workdir)
    assert path.exists()
    assert _files(files.workdir) == before


def test_nothing_to_report_is_a_users_mistake(files):
    with pytest.raises(UserError, match="rfm train"):
        write_report(files.workdir)
    assert list(files.workdir.iterdir()) == []
