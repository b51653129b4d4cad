"""The metrics file: deterministic, cut back on resume, safe against half a line."""

from rfm.training.metrics import MetricsWriter, read_lines


def write(workdir, steps, start=0):
    writer = MetricsWriter(workdir, step=start)
    for step in steps:
        writer.write("train", step, step / 10, {"loss": 1 / (step + 1)})
    writer.close()


def test_resuming_cuts_off_what_is_beyond_the_checkpoint(tmp_path):
    write(tmp_path, range(1, 8))
    expected = (tmp_path / "metrics.jsonl").read_bytes()
    write(tmp_path, range(5, 8), start=4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == expected


def test_half_a_line_is_left_out(tmp_path):
    write(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_tensorboard_has_the_same_values(tmp_path):
    write(tmp_path, range(1, 3))
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
