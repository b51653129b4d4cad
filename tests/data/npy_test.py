"""Folders of .npy files."""

import json

import numpy as np
import pytest

from rfm import data
from rfm.data import npy
from rfm.errors import UserError


@pytest.fixture
def folder(cifar10, tmp_path):
    dataset = data.from_arrays(
        "small",
        *(cifar10[k][:50] for k in ("x_train", "y_train", "x_test", "y_test")),
        list("abcdefghij"),
    )
    npy.write(dataset, str(tmp_path / "small"))
    return tmp_path / "small", dataset


def test_what_is_written_is_read_back_and_stays_on_the_disk(folder):
    path, dataset = folder
    found = data.load(str(path))
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(dataset, name))
    assert (found.name, found.class_names) == ("small", tuple("abcdefghij"))
    assert found.original_order
    assert isinstance(found.train_images.base, np.memmap)
    assert np.shares_memory(found.first(20).train_images, found.train_images)
    for a, b in zip(found.pixel_statistics(), dataset.pixel_statistics(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pixels_of_very_large_sets_are_looked_at_in_part(cifar10, monkeypatch):
    arrays = [cifar10[k] for k in ("x_train", "y_train", "x_test", "y_test")]
    dataset = data.from_arrays("small", *arrays)
    whole = dataset.pixel_statistics()
    monkeypatch.setattr("rfm.data.dataset._LOOKED_AT", 40)
    part = dataset.pixel_statistics()
    assert not np.array_equal(whole[0], part[0])
    np.testing.assert_allclose(part, whole, atol=0.05)


def test_an_existing_folder_is_left_alone(folder):
    path, dataset = folder
    before = sorted(path.iterdir())
    with pytest.raises(UserError, match="there is something already"):
        npy.write(dataset, str(path))
    assert sorted(path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("y_test.npy", None, "y_test.npy: there is no such file"),
        ("x_test.npy", b"nonsense", "x_test.npy: damaged"),
        ("classes.json", b"{", "classes.json: not JSON"),
        ("classes.json", b"[1]", "classes.json: must be a list of names"),
        ("classes.json", json.dumps(["a", "b"]).encode(), "labels go from 0 to 1"),
    ],
)
def test_damage_is_told(folder, name, content, message):
    path, _ = folder
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        data.load(str(path))


def test_objects_are_not_unpickled(folder):
    path, _ = folder
    np.save(path / "y_train.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"y_train.npy: damaged"):
        data.load(str(path))
