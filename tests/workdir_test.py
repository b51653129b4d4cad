"""A workdir belongs to one training config."""

import pytest

from rfm import workdir
from rfm.errors import UserError

CONFIG = {"model": {"width": 4, "mean": (1, 2)}, "evaluation": {"steps": 1}}


def test_claimed_once_and_recognised(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    workdir.claim(tmp_path, CONFIG)
    assert workdir.read_config(tmp_path)["model"]["width"] == 4
    assert workdir.read_config(tmp_path / "none") is None


def test_measuring_may_change_and_training_may_not(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    workdir.claim(tmp_path, {**CONFIG, "evaluation": {"steps": 2}})
    assert workdir.read_config(tmp_path)["evaluation"] == {"steps": 2}
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"config\.model\.width is 4 there and 8 here"):
        workdir.claim(tmp_path, {**CONFIG, "model": {"width": 8, "mean": (1, 2)}})
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_damaged_config_is_a_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        workdir.claim(tmp_path, CONFIG)


def test_a_file_or_foreign_checkpoints_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        workdir.claim(tmp_path / "file", CONFIG)
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no config\.json"):
        workdir.claim(tmp_path / "other", CONFIG)


def test_records_of_later_steps_are_set_aside_and_kept(tmp_path):
    def record(step, text):
        place = tmp_path / "records" / f"{step:08d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "evaluation-test.json").write_text(text)

    assert workdir.set_aside(tmp_path, 0) is None
    for turn, name in enumerate(("", "-2", "-3")):
        record(10, "kept")
        record(20, f"{turn}")
        record(30, "last")
        place = tmp_path / f"records-set-aside{name}"
        assert workdir.set_aside(tmp_path, 10) == str(place)
        moved = {file.parent.name: file.read_text() for file in place.rglob("*.json")}
        assert moved == {"00000020": f"{turn}", "00000030": "last"}
        assert [folder.name for folder in (tmp_path / "records").iterdir()] == ["00000010"]
    assert workdir.set_aside(tmp_path, 10) is None
