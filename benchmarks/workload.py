"""What both sides compute: sizes, settings, images and weights.

Knows neither JAX nor PyTorch. Both sides start from the same images and the same weights:
every weight is drawn by NumPy from a seed that is its own name, as a Flax kernel. So the
numbers that they compute (a loss, a flatness) can be compared, random starts apart.
"""

import dataclasses
import math
import zlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

CLASSES = 10
EPSILON, STEP_SIZE = 8 / 255, 0.007  # of all attacks, inputs in [0, 1]
TRAIN_STEPS, STEPS = 7, 20  # of PGD in training; in evaluation and flatness
AVERAGE_RADIUS, WORST_RADIUS = 0.5, 0.003  # relative to the norm of each layer
WEIGHT_STEP_SIZE = 0.001
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 0.0005
CROP = 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's


@dataclasses.dataclass(frozen=True)
class Workload:
    """One computation at one size.

    Attributes:
      kind: "at_step", "pgd", "average_case", "worst_case", "landscape" or "hessian".
      width: channels of the first stage.
      times: steps per dispatch, restarts, weight samples, restarts, points, products: what
        `kind` repeats.
      batch: examples.
      steps: of the attack.
      robust: RLoss; otherwise Loss, without an attack.
      dtype: of the computation, "float32", "bfloat16", or "float64" (weights, too) to check.
      device: "cpu" or "cuda".
      data: an .npz with `x_train` (uint8, n h w c) and `y_train`; empty: noise.
      chunk: of rfm's PGD, rows at once; 0: all.
      per_thousand: times are those of 1000 examples; otherwise of a step, a product or a batch.
      network: a name in `rfm.models.ARCHITECTURES`; PyTorch's side has ResNet-18 alone.
      examples: of the training set; 0: eight batches for each step of a dispatch.
      compiled: PyTorch's network by ``torch.compile``.
    """

    kind: str
    width: int
    times: int
    batch: int = 128
    steps: int = STEPS
    robust: bool = True
    dtype: str = "float32"
    device: str = "cpu"
    data: str = ""
    chunk: int = 0
    per_thousand: bool = False
    network: str = "resnet18"
    examples: int = 0
    compiled: bool = False

    @property
    def full_precision(self) -> bool:
        """Measures are taken without TF32; training may use it, on either side."""
        return self.kind != "at_step"

    @property
    def units(self) -> float:
        """What times are divided by."""
        if self.per_thousand:
            return self.batch / 1000
        return self.times if self.kind in ("at_step", "hessian") else 1

    def settings(self) -> dict[str, Any]:
        """As JSON, for a process of its own."""
        return {"workload": dataclasses.asdict(self)}


def images(
    workload: Workload, count: int
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """The first `count` images and labels; noise where there is no data.

    Raises:
      ValueError: there are fewer, or they are not 32 x 32 colour images.
    """
    if not workload.data:
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        return pixels, random.integers(0, CLASSES, count).astype(np.int32)
    with np.load(workload.data, allow_pickle=False) as data:
        pixels, labels = data["x_train"][:count], data["y_train"][:count]
    if pixels.shape != (count, 32, 32, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"{workload.data}: x_train must have {count} uint8 images of 32 x 32 x 3")
    return pixels, labels.reshape(-1).astype(np.int32)


def training_set(
    workload: Workload, *, augment: bool
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """As many as the workload says; without augmentation (a check) a single batch."""
    some = workload.examples or 8 * workload.batch * workload.times
    return images(workload, some if augment else workload.batch)


def weight(path: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """The leaf at `path` ("stage1_block1/conv1/conv/kernel") of the Flax parameters.

    Kernels are normal with variance 2 / fan-out (convolutions, h w i o) or 1 / fan-in
    (dense, i o); scales and biases are small, not 0, so that a check sees them.
    """
    random = np.random.default_rng(zlib.crc32(path.encode()))
    if len(shape) == 4:
        deviation = math.sqrt(2 / (shape[0] * shape[1] * shape[3]))
    else:
        deviation = math.sqrt(1 / shape[0]) if len(shape) == 2 else 0.01
    return (deviation * random.standard_normal(shape)).astype(np.float32)
