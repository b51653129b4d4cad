"""A user's file: read exactly, or refused in one line, whatever its bytes."""

import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfm.data import npz
from rfm.errors import UserError

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "cifar10_small.npz"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as archive:
        return dict(archive)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_was_saved(tmp_path, arrays, save):
    path = tmp_path / "mine.npz"
    save(path, **arrays, note="not read")
    dataset = npz.read(str(path))
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"])
    np.testing.assert_array_equal(dataset.train_labels, arrays["y_train"])
    np.testing.assert_array_equal(dataset.test_images, arrays["x_test"])
    np.testing.assert_array_equal(dataset.test_labels, arrays["y_test"])
    assert dataset.class_names == tuple("0123456789")


def test_reads_class_names(tmp_path, arrays):
    names = [f"kind {letter}" for letter in "abcdefghij"]
    np.savez(tmp_path / "named.npz", **arrays, class_names=names)
    assert npz.read(str(tmp_path / "named.npz")).class_names == tuple(names)


def test_home_directory(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "mine.npz", **arrays)
    assert npz.read("~/mine.npz").classes == 10


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("key", ["x_train", "y_test", "class_names"])
def test_pickled_objects_are_refused_and_never_loaded(tmp_path, arrays, key):
    sprung = tmp_path / "sprung"
    trap = np.array([Trap(sprung), None], dtype=object)
    np.savez(tmp_path / "trap.npz", **{**arrays, key: trap})
    with pytest.raises(UserError, match=f"trap.npz: {key} holds pickled Python objects"):
        npz.read(str(tmp_path / "trap.npz"))
    assert not sprung.exists()


def test_a_pickle_under_another_key_is_not_even_looked_at(tmp_path, arrays):
    sprung = tmp_path / "sprung"
    np.savez(tmp_path / "extra.npz", **arrays, extra=np.array(Trap(sprung)))
    assert npz.read(str(tmp_path / "extra.npz")).classes == 10
    assert not sprung.exists()


def test_a_bare_pickle_is_refused_and_never_loaded(tmp_path):
    sprung = tmp_path / "sprung"
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(UserError, match=r"bare.npz: damaged, or not an .npz archive"):
        npz.read(str(tmp_path / "bare.npz"))
    assert not sprung.exists()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


# (the bytes of the file, given those of a good one; what the line must say)
REFUSED = {
    "empty": (lambda good: b"", "damaged, or not an .npz archive"),
    "text": (lambda good: b"x,y\n1,2\n", "damaged, or not an .npz archive"),
    "truncated": (lambda good: good[:-1000], "damaged, or not an .npz archive"),
    "a single array": (
        lambda good: _npy(np.arange(3)),
        "holds one array without a name",
    ),
    "other keys": (
        lambda good: _zip(x_train=_npy(np.arange(3)), images=b""),
        "lacks y_train, x_test, y_test; .* x_train, y_train, x_test, y_test",
    ),
    "not arrays": (
        lambda good: _zip(x_train=b"no", y_train=b"", x_test=b"", y_test=b""),
        "x_train is damaged",
    ),
    "damaged pixels": (
        lambda good: good[:5000] + bytes(10) + good[5010:],
        "x_train is damaged",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_line(tmp_path, case):
    damage, says = REFUSED[case]
    path = tmp_path / "bad.npz"
    path.write_bytes(damage(FIXTURE.read_bytes()))
    with pytest.raises(UserError, match=f"bad.npz: .*{says}") as caught:
        npz.read(str(path))
    assert "\n" not in str(caught.value)


def test_wrong_arrays_are_named_with_their_file(tmp_path, arrays):
    # The whole table is in dataset_test.py; this is that .npz files go through it.
    np.savez(tmp_path / "float.npz", **{**arrays, "x_train": arrays["x_train"] / 255})
    with pytest.raises(UserError, match="float.npz: x_train is float64"):
        npz.read(str(tmp_path / "float.npz"))


def test_class_names_must_be_a_list_of_strings(tmp_path, arrays):
    np.savez(tmp_path / "mine.npz", **arrays, class_names=np.arange(10))
    with pytest.raises(UserError, match="mine.npz: class_names is int64"):
        npz.read(str(tmp_path / "mine.npz"))


@pytest.fixture(scope="module", params=[np.savez, np.savez_compressed])
def small(request, arrays) -> bytes:
    """A valid file of small crops, so that headers make up most of its bytes."""
    crops = {key: array[:20, :5, :5] for key, array in arrays.items() if key[0] == "x"}
    labels = {key: array[:20] % 4 for key, array in arrays.items() if key[0] == "y"}
    buffer = io.BytesIO()
    request.param(buffer, **crops, **labels)
    return buffer.getvalue()


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_random_damage_is_harmless_or_noticed(small, tmp_path_factory, data):
    damaged = bytearray(small)
    position = st.integers(0, len(small) - 1)
    changes = data.draw(st.dictionaries(position, st.integers(1, 255), max_size=4))
    for where, flip in changes.items():
        damaged[where] ^= flip
    if data.draw(st.booleans(), "truncate"):
        del damaged[data.draw(position, "length") :]
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(small)
    good = npz.read(str(path))
    path.write_bytes(damaged)
    try:
        read = npz.read(str(path))
    except UserError as error:
        assert "\n" not in str(error)
        return
    np.testing.assert_array_equal(read.train_images, good.train_images)
    np.testing.assert_array_equal(read.train_labels, good.train_labels)
    np.testing.assert_array_equal(read.test_images, good.test_images)
    np.testing.assert_array_equal(read.test_labels, good.test_labels)
