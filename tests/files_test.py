"""Files that are written whole or not at all."""

import pytest

from rfm import files


def test_atomic_write_leaves_the_old_file_if_it_fails(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, "old")
    with pytest.raises(TypeError):
        files.write_atomically(path, 3)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
