"""Cutting examples into batches of one fixed shape.

Shapes that change recompile, so the last batch is filled up and a mask says which
entries count. Functions that sum over a batch must honour the mask.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int


class Batch(NamedTuple):
    """Which examples are in a batch.

    Attributes:
      indices: positions of the examples, shape (batch_size,), int32; in the filled-up
        part the last valid position again.
      valid: which entries count, shape (batch_size,), bool.
    """

    indices: Int[np.ndarray, " batch"]
    valid: Bool[np.ndarray, " batch"]


def batches(n: int, batch_size: int) -> Iterator[Batch]:
    """The `n` positions in order, in batches of exactly `batch_size`.

    Raises:
      ValueError: `n` or `batch_size` is not positive.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(
            f"need at least one example and a positive batch size, got {n}, {batch_size}"
        )
    for start in range(0, n, batch_size):
        positions = np.arange(start, start + batch_size, dtype=np.int32)
        yield Batch(np.minimum(positions, n - 1), positions < n)
