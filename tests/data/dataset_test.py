"""The door: what becomes a data set, and what is said to everything else."""

import math
import pathlib

import numpy as np
import pytest

from rfm.data import Dataset, from_arrays
from rfm.errors import UserError

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "cifar10_small.npz"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as archive:
        return dict(archive)


def test_keeps_pixels_and_labels(arrays):
    dataset = from_arrays("small", **arrays)
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"])
    np.testing.assert_array_equal(dataset.train_labels, arrays["y_train"])
    np.testing.assert_array_equal(dataset.test_images, arrays["x_test"])
    np.testing.assert_array_equal(dataset.test_labels, arrays["y_test"])
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.classes == 10
    assert dataset.class_names == tuple("0123456789")
    assert dataset.original_order


def test_images_without_a_channel_axis_have_one_channel(arrays):
    grey = {"x_train": arrays["x_train"][..., 0], "x_test": arrays["x_test"][..., 0]}
    dataset = from_arrays("grey", **{**arrays, **grey})
    assert dataset.image_shape == (32, 32, 1)
    np.testing.assert_array_equal(dataset.test_images[..., 0], grey["x_test"])


def test_a_class_may_be_missing(arrays):
    kept = {}
    for split in ("train", "test"):
        keep = arrays[f"y_{split}"] != 4
        kept |= {f"{axis}_{split}": arrays[f"{axis}_{split}"][keep] for axis in "xy"}
    assert from_arrays("no deer", **kept).classes == 10


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_statistics_are_those_of_the_pixels(arrays, channels):
    x_train = arrays["x_train"][..., :channels]
    x_test = arrays["x_test"][..., :channels]
    dataset = from_arrays("small", **{**arrays, "x_train": x_train, "x_test": x_test})
    mean, std = dataset.pixel_statistics()
    pixels = x_train.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert mean.dtype == std.dtype == np.float64


def test_pixel_statistics_cover_more_images_than_one_chunk(arrays):
    # 2560 images: chunks of 1000 with a remainder, each with pixels of its own.
    images = np.concatenate([np.roll(arrays["x_train"], k) // (k + 1) for k in range(10)])
    dataset = from_arrays("large", **{**arrays, "x_train": images, "y_train": np.arange(2560) % 10})
    mean, std = dataset.pixel_statistics()
    n = images.size // 3
    total = images.sum((0, 1, 2), dtype=np.int64)
    squares = np.square(images, dtype=np.int64).sum((0, 1, 2))
    exact_std = [  # in integers, which round nothing
        math.sqrt(n * int(squares[c]) - int(total[c]) ** 2) / n / 255 for c in range(3)
    ]
    np.testing.assert_allclose(mean, total / n / 255, rtol=1e-12)
    np.testing.assert_allclose(std, exact_std, rtol=1e-12)


def test_first_keeps_the_beginning_and_all_classes(arrays):
    whole = from_arrays("small", **arrays)
    part = whole.first(3)
    np.testing.assert_array_equal(part.train_images, arrays["x_train"][:3])
    np.testing.assert_array_equal(part.train_labels, arrays["y_train"][:3])
    assert part.classes == 10 and len(part.test_labels) == 128


@pytest.mark.parametrize("count", [0, -1, 257])
def test_first_refuses_what_is_not_there(arrays, count):
    with pytest.raises(UserError, match=f"small: training .*{count} asked.* 1 to 256"):
        from_arrays("small", **arrays).first(count)


def _with(labels: np.ndarray, label: int) -> np.ndarray:
    changed = labels.astype(np.int64)
    changed[7] = label
    return changed


# (what to change, given the arrays; what the line must say)
REFUSED = {
    "floats": (
        lambda a: {"x_train": a["x_train"] / 255},
        r"x_train is float64.*255 \*",
    ),
    "wide integers": (lambda a: {"x_test": a["x_test"].astype(int)}, "x_test is int64"),
    "flat images": (
        lambda a: {"x_train": a["x_train"].reshape(256, -1)},
        r"\(256, 3072",
    ),
    "one image": (lambda a: {"x_train": a["x_train"][0, 0]}, "x_train has shape"),
    "a scalar": (lambda a: {"x_train": np.uint8(3)[()]}, "x_train has shape"),
    "no images": (lambda a: {"x_test": a["x_test"][:0]}, "x_test .*none of them 0"),
    "no pixels": (lambda a: {"x_test": a["x_test"][:, :0]}, "x_test .*none of them 0"),
    "channels first": (
        lambda a: {"x_train": a["x_train"].transpose(0, 3, 1, 2)},
        r"channels first.*transpose\(0, 2, 3, 1\)",
    ),
    "test images of another shape": (
        lambda a: {"x_test": a["x_test"][:, :28, :28]},
        "32x32x3 but test images are 28x28x3",
    ),
    "a grey test set": (
        lambda a: {"x_test": a["x_test"][..., 0]},
        "32x32x3 but test images are 32x32x1",
    ),
    "too few labels": (
        lambda a: {"y_train": a["y_train"][:-1]},
        "x_train has 256 images but y_train has 255 labels",
    ),
    "no labels": (lambda a: {"y_test": a["y_test"][:0]}, "128 images .* 0 labels"),
    "float labels": (lambda a: {"y_train": a["y_train"] * 1.0}, "y_train is float64"),
    "boolean labels": (lambda a: {"y_train": a["y_train"] > 4}, "y_train is bool"),
    "string labels": (lambda a: {"y_test": a["y_test"].astype(str)}, "y_test is <U3"),
    "one-hot labels": (
        lambda a: {"y_train": np.eye(10, dtype=int)[a["y_train"]]},
        r"\(256, 10\).*argmax",
    ),
    "a column of labels": (
        lambda a: {"y_train": a["y_train"][:, None]},
        r"\(256, 1\).*reshape\(-1\)",
    ),
    "a negative label": (
        lambda a: {"y_train": _with(a["y_train"], -1)},
        "from -1 to 9",
    ),
    "an identifier as label": (
        lambda a: {"y_train": _with(a["y_train"], 2**40)},
        f"y_train has labels from 0 to {2**40}",
    ),
    "a test class without training": (
        lambda a: {"y_test": _with(a["y_test"], 10)},
        "y_test has label 10, but .*from 0 to 9, by the largest label in y_train",
    ),
    "fewer names than classes": (
        lambda a: {"class_names": ["cat", "dog"]},
        "y_train has label 9, but .*from 0 to 1, by the number of class names",
    ),
    "one class": (
        lambda a: {key: np.zeros_like(a[key]) for key in ("y_train", "y_test")},
        "two classes or more",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_line(arrays, case):
    change, says = REFUSED[case]
    with pytest.raises(UserError, match=f"^small: .*{says}") as caught:
        from_arrays("small", **{**arrays, **change(arrays)})
    assert "\n" not in str(caught.value)


def test_a_dataset_cannot_be_reassigned(arrays):
    dataset: Dataset = from_arrays("small", **arrays)
    with pytest.raises(AttributeError):
        dataset.train_labels = dataset.test_labels
