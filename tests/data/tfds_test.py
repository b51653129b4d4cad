"""TFDS: the original order comes back, and what cannot be read is said in one line.

The files are real ones: array_record shards of CIFAR-10 images in shuffled order,
written by TFDS itself, which needs no TensorFlow for that.
"""

import io
import json
import os
import pathlib
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rfm.data import load
from rfm.data import tfds as rfm_tfds
from rfm.errors import UserError

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "cifar10_small.npz"
CLASSES = tuple(f"kind {letter}" for letter in "abcdefghij")
SHARD = 100  # more than one shard in training


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as archive:
        return dict(archive)


def _png(image: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def _write(data_dir, arrays, id_format="{split}_{number:05d}", splits=("train", "test")):
    """Prepares a shuffled data set "tiny"; returns the order it was written in."""
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }
    if id_format is not None:
        features["id"] = tfds.features.Text()
    directory = data_dir / "tiny" / "1.0.0"
    directory.mkdir(parents=True)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name="tiny",
            version=tfds.core.Version("1.0.0"),
            data_dir=str(directory),
            module_name="",
        ),
        features=tfds.features.FeaturesDict(features),
    )
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=SHARD, file_format="array_record"
    )
    writer.initialize_splits(splits)
    orders = {}
    for split, known in zip(splits, ("train", "test"), strict=False):
        images, labels = arrays[f"x_{known}"], arrays[f"y_{known}"]
        orders[split] = np.random.default_rng(1).permutation(len(labels))
        examples = []
        for number in orders[split]:
            example = {"image": _png(images[number]), "label": int(labels[number])}
            if id_format is not None:
                example["id"] = id_format.format(split=split, number=number)
            examples.append(example)
        writer.add_examples({split: examples})
    writer.close_all()
    return directory, orders


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, arrays):
    data_dir = tmp_path_factory.mktemp("tfds")
    _write(data_dir, arrays)
    return data_dir


def test_the_original_order_is_restored(tiny, arrays):
    shuffled = tfds.builder("tiny", data_dir=tiny).as_data_source("train")
    labels_on_disk = [example["label"] for example in shuffled]
    assert labels_on_disk != arrays["y_train"].tolist()

    dataset = load("tfds:tiny", data_dir=str(tiny))
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"])
    np.testing.assert_array_equal(dataset.train_labels, arrays["y_train"])
    np.testing.assert_array_equal(dataset.test_images, arrays["x_test"])
    np.testing.assert_array_equal(dataset.test_labels, arrays["y_test"])
    assert dataset.original_order
    assert dataset.name == "tiny"
    assert dataset.class_names == CLASSES
    assert "tensorflow" not in sys.modules


def test_numbers_need_no_leading_zeros(tmp_path, arrays):
    _write(tmp_path, arrays, id_format="{number}.png")
    dataset = load("tfds:tiny", data_dir=str(tmp_path))
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"])


def test_train_examples_are_the_first_of_the_original_order(tiny, arrays):
    dataset = load("tfds:tiny", data_dir=str(tiny), train_examples=20)
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"][:20])
    np.testing.assert_array_equal(dataset.train_labels, arrays["y_train"][:20])
    np.testing.assert_array_equal(dataset.test_images, arrays["x_test"])
    assert dataset.classes == 10


@pytest.mark.parametrize("count", [0, 257])
def test_train_examples_must_exist(tiny, count):
    with pytest.raises(UserError, match="tfds:tiny: training .*from 1 to 256"):
        load("tfds:tiny", data_dir=str(tiny), train_examples=count)


@pytest.mark.parametrize("id_format", [None, "{split}", "{number:02x}"])
def test_without_numbers_the_order_of_the_files_stays_and_is_said(tmp_path, arrays, id_format):
    _, orders = _write(tmp_path, arrays, id_format=id_format)
    with pytest.warns(UserWarning, match="tfds:tiny has no numbered `id`"):
        dataset = load("tfds:tiny", data_dir=str(tmp_path))
    assert not dataset.original_order
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"][orders["train"]])


@given(
    numbers=st.lists(st.integers(0, 10**6), min_size=1, unique=True),
    before=st.sampled_from(["train_", "", "img-", "a1_"]),
    after=st.sampled_from(["", ".jpg"]),
)
def test_original_order_sorts_by_number(numbers, before, after):
    order = rfm_tfds.original_order([f"{before}{n}{after}" for n in numbers])
    assert [numbers[k] for k in order] == sorted(numbers)


@pytest.mark.parametrize(
    "ids",
    [["a_1", "b_2"], ["x_1", "x_1"], ["x_1", "x_01"], ["x", "y"], ["", "x_1"], []],
)
def test_ids_that_are_no_numbering_order_nothing(ids):
    assert rfm_tfds.original_order(ids) is None


def test_the_default_data_dir_is_named_when_it_lacks_the_set(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"not in {tmp_path}/mnist/.* prepare mnist`"):
        load("tfds:mnist")


def test_a_set_that_is_not_prepared(tmp_path):
    says = f"not in {tmp_path}/cifar10/.*: run `rfm data prepare cifar10`"
    with pytest.raises(UserError, match=says):
        load("tfds:cifar10", data_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())  # in particular, nothing was downloaded


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar_10", "TFDS has no data set 'cifar_10'; did you mean 'cifar10"),
        ("cifar10/nothing", "cannot open tfds:cifar10/nothing"),
        ("cifar10:0.0.1", "cannot open tfds:cifar10:0.0.1"),
        ("imagenet2012", r"images of shape \(None, None, 3\)"),
        ("ag_news_subset", "not image classification: it has .*title"),
    ],
)
@pytest.mark.parametrize("verb", [rfm_tfds.read, rfm_tfds.prepare])
def test_sets_that_cannot_serve(tmp_path, verb, name, says):
    with pytest.raises(UserError, match=says) as caught:
        verb(name, str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_set_without_a_test_split(tmp_path, arrays):
    _write(tmp_path, arrays, splits=("train", "validation"))
    with pytest.raises(UserError, match="tfds:tiny has the splits .*validation"):
        load("tfds:tiny", data_dir=str(tmp_path))


def test_a_set_in_a_file_format_of_tensorflows(tmp_path, arrays):
    directory, _ = _write(tmp_path, arrays)
    info = json.loads((directory / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (directory / "dataset_info.json").write_text(json.dumps(info))
    for verb in (rfm_tfds.read, rfm_tfds.prepare):
        with pytest.raises(UserError, match=f"{directory} holds tfrecord .*another"):
            verb("tiny", str(tmp_path))


def _truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, pathlib.Path.unlink])
@pytest.mark.parametrize("pattern", ["*train*-00001*", "*test*-00000*"])
def test_damaged_shards(tmp_path, arrays, damage, pattern):
    directory, _ = _write(tmp_path, arrays)
    (shard,) = directory.glob(pattern)
    damage(shard)
    with pytest.raises(UserError, match=f"tiny: cannot read .* {directory}") as caught:
        load("tfds:tiny", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [_truncate, pathlib.Path.unlink])
def test_damaged_description(tmp_path, arrays, damage):
    directory, _ = _write(tmp_path, arrays)
    damage(directory / "dataset_info.json")
    with pytest.raises(UserError, match="tfds:tiny") as caught:
        load("tfds:tiny", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_prepare_without_tensorflow_says_how_to_get_it(tmp_path, monkeypatch):
    find_spec = rfm_tfds.importlib.util.find_spec
    monkeypatch.setattr(
        rfm_tfds.importlib.util,
        "find_spec",
        lambda name: None if name == "tensorflow" else find_spec(name),
    )
    says = r"needs TensorFlow .*pip install 'robust-flat-minima\[prepare\]'"
    with pytest.raises(UserError, match=says):
        rfm_tfds.prepare("cifar10", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_prepare_that_fails_says_why(tmp_path, monkeypatch):
    def no_network(self, **_):
        raise ConnectionError("cannot reach www.cs.toronto.edu\n(a long story)")

    monkeypatch.setattr(rfm_tfds.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    says = r"cannot prepare cifar10 in .*\(cannot reach www.cs.toronto.edu\)"
    with pytest.raises(UserError, match=says) as caught:
        rfm_tfds.prepare("cifar10", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_prepare_leaves_what_is_prepared(tiny):
    assert rfm_tfds.prepare("tiny", str(tiny)) == str(tiny / "tiny" / "1.0.0")


TFDS_DIR = os.environ.get("RFM_TFDS_DIR", "")
ORIGINAL = os.environ.get("RFM_CIFAR10_NPZ", "")
needs_tfds = pytest.mark.skipif(
    not (TFDS_DIR and ORIGINAL),
    reason="needs all of CIFAR-10: set RFM_TFDS_DIR to the data directory that `rfm data "
    "prepare cifar10` filled, and RFM_CIFAR10_NPZ to an .npz made of the original files",
)


@needs_tfds
def test_all_of_cifar10_is_in_the_order_of_its_files():
    dataset = load("tfds:cifar10", data_dir=TFDS_DIR)
    original = load(ORIGINAL)
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(dataset, field), getattr(original, field))
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")


@needs_tfds
def test_cifar10_begins_with_the_fixture(arrays):
    dataset = load("tfds:cifar10", data_dir=TFDS_DIR, train_examples=256)
    np.testing.assert_array_equal(dataset.train_images, arrays["x_train"])
    np.testing.assert_array_equal(dataset.test_images[:128], arrays["x_test"])
