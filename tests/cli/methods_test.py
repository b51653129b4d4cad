"""``rfm methods`` and ``rfm data pseudo-label``, as users have them."""

import csv
import io

import numpy as np
import pytest


def test_methods_are_listed_with_the_papers_numbers(quick_rfm):
    result = quick_rfm("methods")
    assert (result.status, result.err) == (0, "")
    assert all(len(line) <= 100 for line in result.out.splitlines()[:-2])
    (line,) = (line for line in result.out.splitlines() if line.split()[:1] == ["awp-0.01"])
    assert line.split() == ["awp-0.01", "good", "21.4", "54.3", "1.31", "0.35", "2.68"]
    assert "Eq. (12)" in result.out


def test_all_columns_come_as_csv(quick_rfm):
    rows = list(csv.DictReader(io.StringIO(quick_rfm("methods", "--csv").out)))
    by_name = {row["method"]: row for row in rows}
    assert by_name["at"]["rloss_pgd_test"] == "3.91"
    assert by_name["plain"]["rloss_pgd_test"] == ""
    assert len(by_name) == len(rows) > 80


def test_images_labelled_by_a_model_are_trained_on(quick_rfm, trained, tiny, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    model, labelled = tmp_path / "model.npz", tmp_path / "labelled.npz"
    result = quick_rfm("export", "--workdir", trained, "--out", model)
    assert result.status == 0, result
    arguments = ("pseudo-label", tmp_path / "images.npz", "--exported", model, "--out", labelled)
    result = quick_rfm("data", *arguments)
    assert (result.status, result.err) == (0, ""), result
    assert "300 images labelled" in result.out
    with np.load(labelled) as found:
        np.testing.assert_array_equal(found["images"], images)
        assert found["labels"].shape == (300,)
    flags = [*tiny, "--config.train.epochs=1", f"--config.data.extra={labelled}"]
    flags[flags.index("digits")] = "digits:unlabeled"
    result = quick_rfm("train", "--workdir", tmp_path / "run", *flags)
    assert (result.status, result.err) == (0, ""), result


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("data", "pseudo-label", "x.npz"), "pseudo-label needs --exported"),
        (("data", "show", "digits", "--out", "x.npz"), "show takes no --out"),
        (("train", "--config", "digits:unlabeled"), "there is no such file"),
        (("train", "--config", "digits:trades-6+mart-6"), "both set config.objective.name"),
        (("train", "--config", "digits:awp"), "must be like awp-0.0005"),
        (("methods", "--config", "digits"), "unknown"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(quick_rfm, tmp_path, arguments, line):
    result = quick_rfm(*arguments, cwd=tmp_path)
    assert result.status == 2, result
    assert line in result.line
