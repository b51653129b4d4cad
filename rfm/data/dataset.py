"""A data set is five arrays on the host, and one door through which they come in.

Images stay what files hold: uint8 pixels, channels last. A quarter of the memory of
float32 leaves CIFAR-10 in 180 MB, small enough to live on the device as a whole,
where the compiled step turns the pixels of one batch into numbers in [0, 1]. This
package is NumPy only: nothing here is worth compiling.

`from_arrays` is the door. It checks types, shapes, lengths and labels once and says
in one line what is wrong; every source goes through it, and so can arrays of your
own. Past it, code trusts a `Dataset`.

    >>> import numpy as np
    >>> from rfm.data import from_arrays
    >>> pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    >>> labels = np.array([0, 1, 2, 0, 1, 2])
    >>> from_arrays("noise", pixels, labels, pixels[:2], labels[:2]).image_shape
    (8, 8, 3)
"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int32, UInt8

from rfm.errors import UserError

# A label is an index into the logits. ImageNet-21k has 21,841 classes; a label beyond
# this is an identifier, and would ask for a network with that many outputs.
_MAX_CLASSES = 100_000
_LOOKED_AT = 100_000  # images, for means and deviations of pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples; position i is example i of the original files.

    Attributes:
      name: what the user calls it, such as "cifar10".
      train_images: pixels from 0 to 255.
      train_labels: from 0 to ``classes - 1``.
      test_images: of the same (h, w, c) as the training images.
      test_labels: from 0 to ``classes - 1``.
      class_names: one per class.
      original_order: false where the source has lost the order of the original files,
        so that "the first 1000" are some fixed 1000 (see `rfm.data.tfds`).
    """

    name: str
    train_images: UInt8[np.ndarray, "n h w c"]
    train_labels: Int32[np.ndarray, " n"]
    test_images: UInt8[np.ndarray, "m h w c"]
    test_labels: Int32[np.ndarray, " m"]
    class_names: tuple[str, ...]
    original_order: bool = True

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    def pixel_statistics(
        self,
    ) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
        """Mean and standard deviation per channel, for whitening.

        Over all pixels of the training images in units of [0, 1], float64; of more than
        100,000 images over so many, evenly spaced. Pixels have 256 levels, so their
        histogram says it all: no float copy of the images is made, and the order of the
        examples cannot change a bit of the result.
        """
        channels = self.image_shape[-1]
        counts = np.zeros((channels, 256), np.int64)
        n = len(self.train_images)
        rows = np.linspace(0, n - 1, min(n, _LOOKED_AT)).round().astype(np.int64)
        for start in range(0, len(rows), 1000):
            some = rows[start : start + 1000]
            if len(rows) == n:  # a slice need not be copied
                pixels = self.train_images[start : start + 1000].reshape(-1, channels)
            else:
                pixels = self.train_images[some].reshape(-1, channels)
            for channel in range(channels):
                counts[channel] += np.bincount(pixels[:, channel], minlength=256)
        levels = np.arange(256) / 255
        frequencies = counts / counts[0].sum()
        mean = frequencies @ levels
        variance = np.sum(frequencies * (levels - mean[:, None]) ** 2, axis=1)
        return mean, np.sqrt(variance)

    def digest(self) -> str:
        """A checksum of all labels and the first images of both splits."""
        parts = (
            *(self.train_labels, self.test_labels),
            *(self.train_images[:100], self.test_images[:100]),
        )
        sums = [zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in parts]
        return f"{self.train_images.shape} {self.test_images.shape} {sums}"

    def first(self, train_examples: int) -> "Dataset":
        """The same test set with the first `train_examples` training examples.

        Raises:
          UserError: there are fewer.
        """
        check_count(train_examples, len(self.train_labels), f"{self.name}: training")
        return dataclasses.replace(
            self,
            train_images=self.train_images[:train_examples],
            train_labels=self.train_labels[:train_examples],
        )


def from_arrays(
    name: str,
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    original_order: bool = True,
) -> Dataset:
    """A `Dataset` from arrays, after checking them.

    Args:
      name: what messages and results call it.
      x_train: uint8 (n, h, w, c); (n, h, w) is taken as one channel.
      y_train: (n,) of any integer type; classes may be missing.
      x_test: uint8 (m, h, w, c) or (m, h, w), shaped like the training images.
      y_test: (m,).
      class_names: one per class; by default "0", "1", ... up to the largest
        training label.
      original_order: see `Dataset`.

    Raises:
      UserError: any of this does not hold; one line that names the array.
    """
    x_train = check_images(name, "x_train", x_train)
    x_test = check_images(name, "x_test", x_test)
    y_train = check_labels(name, "y_train", y_train)
    y_test = check_labels(name, "y_test", y_test)
    for split, images, labels in (
        ("train", x_train, y_train),
        ("test", x_test, y_test),
    ):
        if len(images) != len(labels):
            raise UserError(
                f"{name}: x_{split} has {len(images)} images but y_{split} has "
                f"{len(labels)} labels; each image needs one"
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UserError(
            f"{name}: training images are {_shape(x_train[0])} but test images are "
            f"{_shape(x_test[0])}; they must have one shape"
        )
    if class_names is None:
        class_names = [str(label) for label in range(int(y_train.max()) + 1)]
        range_from = "the largest label in y_train"
    else:
        range_from = "the number of class names"
    for key, labels in (("y_train", y_train), ("y_test", y_test)):
        if labels.max() >= len(class_names):
            raise UserError(
                f"{name}: {key} has label {labels.max()}, but labels go from 0 to "
                f"{len(class_names) - 1}, by {range_from}"
            )
    if len(class_names) < 2:
        raise UserError(f"{name}: all labels are 0; there must be two classes or more")
    return Dataset(
        name=name,
        train_images=x_train,
        train_labels=y_train,
        test_images=x_test,
        test_labels=y_test,
        class_names=tuple(class_names),
        original_order=original_order,
    )


def check_count(count: int, available: int, examples: str) -> None:
    """Checks that the first or last `count` examples of a split exist.

    Args:
      count: how many are asked for.
      available: how many there are.
      examples: which, in words, such as "cifar10: test".

    Raises:
      UserError: `count` is less than 1 or more than `available`.
    """
    if not 1 <= count <= available:
        raise UserError(f"{examples} examples: {count} asked for; it must be from 1 to {available}")


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))


def check_images(name: str, key: str, images: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    """The images, with a channel; raises UserError if they are something else."""
    if images.dtype != np.uint8:
        raise UserError(
            f"{name}: {key} is {images.dtype}, but images must be uint8 pixels from 0 "
            "to 255; from [0, 1], convert by np.rint(255 * x).astype(np.uint8)"
        )
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"{name}: {key} has shape {images.shape}; it must be (examples, height, "
            "width, channels), none of them 0"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(
            f"{name}: {key} has shape {images.shape}, with channels first; put them "
            "last by x.transpose(0, 2, 3, 1)"
        )
    return np.ascontiguousarray(images)


def check_labels(name: str, key: str, labels: np.ndarray) -> Int32[np.ndarray, " n"]:
    """The labels as int32; raises UserError if they are something else."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{name}: {key} is {labels.dtype}, but labels must be integers 0, 1, 2, ..."
        )
    if labels.ndim != 1:
        raise UserError(
            f"{name}: {key} has shape {labels.shape}; it must be (examples,): use "
            "y.argmax(1) for one-hot labels, y.reshape(-1) for a column"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= _MAX_CLASSES):
        raise UserError(
            f"{name}: {key} has labels from {labels.min()} to {labels.max()}; number "
            "the classes 0, 1, 2, ..."
        )
    return labels.astype(np.int32)
