import json

import pytest

from rfm.errors import UserError
from rfm.reporting.records import Value, latest, read_record
from rfm.reporting.run import read_run


def test_a_record_is_read_and_unknown_fields_are_skipped(files):
    files.records(files.evaluation("test"))
    record = read_record(files.workdir / "records/00006000/evaluation-test.json")
    assert (record.kind, record.split, record.step) == ("evaluation", "test", 6000)
    assert record.value("rerr") == Value(0.61, 0.0154, 1000)
    assert record.value("no such value") == Value(None)
    assert record.protocol["attack"]["restarts"] == 10
    assert record.adversarial.images.shape == (8, 8, 8, 1)
    assert record.adversarial.name(3) == "3"


def test_classes_have_names_where_the_protocol_says_them(files):
    entry = files.evaluation("test")
    entry["protocol"]["data"]["class_names"] = ["airplane", "automobile"]
    files.records(entry)
    (record,) = read_run(files.workdir).records
    assert [record.adversarial.name(label) for label in (1, 2)] == ["automobile", "2"]


@pytest.mark.parametrize("number", [None, float("nan"), float("inf"), "0.5", True])
def test_what_is_not_a_finite_number_is_no_number(files, number):
    entry = files.evaluation("test")
    entry["values"]["rerr"] = {"value": number, "standard_error": number}
    files.records(entry)
    (record,) = read_run(files.workdir).records
    assert record.value("rerr") == Value(None, None, None)


def _without_values(entry):
    del entry["values"]


def _of_tomorrow(entry):
    entry["schema"] = 2


def _without_a_label(entry):
    entry["adversarial"]["labels"].pop()


def _smaller_images(entry):
    entry["adversarial"]["adversarial_images"] = [[[[0.5]]]] * 8


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without_values, "not a record of rfm"),
        (_of_tomorrow, "update rfm"),
        (_without_a_label, "one image and label each"),
        (_smaller_images, "differ in shape"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(tmp_path, files, damage, reason):
    entry = files.evaluation("test")
    damage(entry)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(entry))
    with pytest.raises(UserError, match=reason) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", '{"schema": 1, "kin', "[1, 2]", "null", "\xff"])
def test_a_file_that_is_no_record_is_named_in_one_line(tmp_path, text):
    path = tmp_path / "damaged.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"damaged\.json: not a") as caught:
        read_record(path)
    assert "\n" not in str(caught.value)


def test_latest_is_the_furthest_checkpoint_and_no_snapshot(files):
    files.records(
        files.evaluation("test", step=300, checkpoint="best"),
        files.evaluation("test", step=600),
        files.evaluation("test", step=900, snapshot=True),
    )
    assert [record.step for record in latest(read_run(files.workdir).records)] == [600]
    assert latest([]) == ()
