"""Pseudo-labelled images, and pickles that want to be programs."""

import collections
import io
import os
import pickle
import subprocess

import numpy as np
import pytest

from rfm.data import extra
from rfm.errors import UserError

SHAPE = (4, 4, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
LABELS = np.array([0, 1, 2, 3, 4, 9])


def read(path, **changes):
    return extra.read(str(path), **({"image_shape": SHAPE, "classes": 10} | changes))


def test_what_is_written_is_read(tmp_path):
    (tmp_path / "a.npz").write_bytes(extra.dumps(IMAGES, LABELS))
    found = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.images, IMAGES)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.labels.dtype == np.int32


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist()])
def test_the_published_layout_is_read(tmp_path, protocol, labels):
    path = tmp_path / "ti.pickle"
    path.write_bytes(pickle.dumps({"data": IMAGES, "extrapolated_targets": labels}, protocol))
    found = read(path)
    np.testing.assert_array_equal(found.images, IMAGES)
    np.testing.assert_array_equal(found.labels, LABELS)


def test_names_of_older_numpy_are_known(tmp_path):
    """numpy.core became numpy._core; Python 2 wrote bytes as latin-1 texts."""
    content = pickle.dumps({"data": IMAGES, "extrapolated_targets": LABELS}, 2)
    assert b"numpy._core.multiarray" in content
    path = tmp_path / "old.pickle"
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(read(path).images, IMAGES)


class Evil:
    """Runs something when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "payload",
    [
        Evil(os.system, "touch {path}"),
        Evil(subprocess.check_output, ["touch", "{path}"]),
        Evil(eval, "open('{path}', 'w')"),
        Evil(getattr, "text", "upper"),
        Evil(np.load, "{path}"),
        Evil(np.fromfile, "{path}"),
        collections.OrderedDict(a=1),
        np.float32(1),
    ],
)
def test_everything_else_is_refused(tmp_path, payload):
    path, touched = tmp_path / "evil.pickle", tmp_path / "touched"
    if isinstance(payload, Evil):
        call = [c.format(path=touched) if isinstance(c, str) else c for c in payload.call]
        call = [[x.format(path=touched) for x in c] if isinstance(c, list) else c for c in call]
        payload = Evil(*call)
    for content in (payload, {"data": payload, "extrapolated_targets": LABELS}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"not a pickle of plain arrays .*not admitted") as told:
            read(path)
        assert "\n" not in str(told.value)
    assert not touched.exists()


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, 1], object),
        np.zeros(2, [("a", "u1"), ("b", "O")]),
        np.zeros(2, [("a", "u1")]),
        np.array(["text"]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, complex),
    ],
)
def test_arrays_of_something_else_than_numbers_are_refused(tmp_path, array, protocol):
    path = tmp_path / "objects.pickle"
    path.write_bytes(pickle.dumps({"data": array, "extrapolated_targets": LABELS}, protocol))
    with pytest.raises(UserError, match="not admitted"):
        read(path)


class Parts:
    """What NumPy's reduction of an array is made of, with a part exchanged."""

    def __init__(self, **changes):
        self.changes = changes

    def __reduce__(self):
        make, arguments, state = IMAGES.__reduce__()
        names = ("version", "shape", "dtype", "fortran", "data")
        return (
            make,
            arguments,
            tuple((dict(zip(names, state, strict=True)) | self.changes).values()),
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (10**9, 10**9)},
        {"shape": (7, 4, 4, 3)},
        {"shape": (-6, -4, 4, 3)},
        {"shape": IMAGES},
        {"shape": 6},
        {"dtype": "O"},
        {"dtype": None},
        {"data": [1, 2, 3]},
        {"data": b""},
    ],
)
def test_arrays_that_do_not_hang_together_are_refused(tmp_path, changes):
    path = tmp_path / "parts.pickle"
    path.write_bytes(pickle.dumps({"data": Parts(**changes), "extrapolated_targets": LABELS}))
    with pytest.raises(UserError, match="not a pickle of plain arrays"):
        read(path)


def test_what_a_name_stands_for_cannot_be_changed(tmp_path):
    """BUILD sets attributes of what is on the stack; a stub has none."""
    path = tmp_path / "build.pickle"
    for name in ("_codecs encode", "numpy ndarray", "numpy._core.numeric _frombuffer"):
        asks = b"c" + name.replace(" ", "\n").encode() + b"\n"
        for state in (b"}(V__defaults__\n(I1\ntu", b"(N}(V__defaults__\n(I1\ntut"):
            path.write_bytes(b"\x80\x02" + asks + state + b"b.")
            with pytest.raises(UserError, match="not a pickle of plain arrays"):
                read(path)


def test_arrays_in_the_other_byte_order_and_layout_are_read(tmp_path):
    path = tmp_path / "other.pickle"
    arrays = {"data": np.asfortranarray(IMAGES), "extrapolated_targets": LABELS.astype(">i4")}
    for protocol in (2, 5):
        path.write_bytes(pickle.dumps(arrays, protocol))
        found = read(path)
        np.testing.assert_array_equal(found.images, IMAGES)
        np.testing.assert_array_equal(found.labels, LABELS)


def test_references_out_of_the_file_are_refused(tmp_path):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return "elsewhere" if obj is IMAGES else None

    buffer = io.BytesIO()
    Pickler(buffer).dump({"data": IMAGES})
    (tmp_path / "p.pickle").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="outside of the file"):
        read(tmp_path / "p.pickle")


@pytest.mark.parametrize(
    ("arrays", "changes", "line"),
    [
        ({"images": IMAGES}, {}, "lacks images or labels"),
        ({"images": IMAGES / 255, "labels": LABELS}, {}, "images is float64"),
        ({"images": IMAGES, "labels": LABELS[:5]}, {}, "6 images but 5 labels"),
        ({"images": IMAGES, "labels": LABELS}, {"classes": 9}, "label 9, but there are 9 classes"),
        ({"images": IMAGES, "labels": LABELS}, {"image_shape": (8, 8, 3)}, "images of"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, arrays, changes, line):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=line):
        read(tmp_path / "a.npz", **changes)


def test_missing_and_damaged_files_are_told(tmp_path):
    for name in ("none.npz", "none.pickle"):
        with pytest.raises(UserError, match="there is no such file"):
            read(tmp_path / name)
    whole = pickle.dumps({"data": IMAGES, "extrapolated_targets": LABELS})
    for content in (b"", whole[:100], b"hello", pickle.dumps([1, 2])):
        (tmp_path / "bad.pickle").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.pickle"):
            read(tmp_path / "bad.pickle")


def test_unlabelled_images_are_found_by_name_or_alone(tmp_path):
    path = tmp_path / "u.npz"
    np.savez(path, images=IMAGES, other=IMAGES[:2])
    np.testing.assert_array_equal(extra.read_unlabelled(str(path), image_shape=SHAPE), IMAGES)
    np.savez(path, x=IMAGES, numbers=LABELS)
    np.testing.assert_array_equal(extra.read_unlabelled(str(path), image_shape=SHAPE), IMAGES)
    np.savez(path, x=IMAGES, y=IMAGES)
    with pytest.raises(UserError, match="no array called images; it has x, y"):
        extra.read_unlabelled(str(path), image_shape=SHAPE)
