"""How exact a measure is, and whether one model is flatter than another.

Two things are random: which weights were drawn and which examples were looked at. The
bootstrap draws both anew, with replacement, within each batch that shares weight draws, and
takes quantiles of the values. Two models are compared on the same examples: these are
resampled together, so that what makes an example hard for both cancels.

With few draws a plain bootstrap is too narrow (of S draws it has (S - 1) / S of the variance), so
the shares' deviations are stretched by ``sqrt(S / (S - 1))``, for examples likewise. What draws
and examples have to do with each other counts more than once; that errs on the wide side.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rfm.flatness.result import Flatness


class Interval(NamedTuple):
    """A value and where the truth may be.

    Attributes:
      value: the estimate.
      low, high: a percentile bootstrap interval.
      level: its nominal coverage.
    """

    value: float
    low: float
    high: float
    level: float

    @property
    def excludes_zero(self) -> bool:
        """Is the sign certain, at this level?"""
        return self.low > 0 or self.high < 0


def interval(
    found: Flatness, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A bootstrap interval of a measure over weight draws and examples.

    With a single draw (the worst case) over examples alone, given the weights found.

    Raises:
      ValueError: `level` is not in (0, 1), or `resamples` is not positive.
    """
    _check(level, resamples)
    rng = np.random.default_rng(seed)
    values = _resampled(found, _examples(found, resamples, rng), rng)
    return _quantiles(found.value, values, level)


def difference(
    a: Flatness, b: Flatness, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A paired bootstrap interval of ``a.value - b.value``, on the same examples.

    Raises:
      ValueError: the measures are of different numbers of examples or batch sizes, `level`
        is not in (0, 1), or `resamples` is not positive.
    """
    _check(level, resamples)
    if (a.reference_losses.size, a.batch_size) != (b.reference_losses.size, b.batch_size):
        raise ValueError(
            "a paired interval needs the same examples in the same batches, got"
            f" {a.reference_losses.size} by {a.batch_size} and {b.reference_losses.size} by"
            f" {b.batch_size}"
        )
    rng = np.random.default_rng(seed)
    examples = _examples(a, resamples, rng)
    values = _resampled(a, examples, rng) - _resampled(b, examples, rng)
    return _quantiles(a.value - b.value, values, level)


def mean_interval(
    values: Float[np.ndarray, " n"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A bootstrap interval of a mean over examples, such as an error or a loss.

    Raises:
      ValueError: `level` is not in (0, 1), or `resamples` is not positive.
    """
    _check(level, resamples)
    rng, values = np.random.default_rng(seed), np.asarray(values, np.float64)
    # A part at a time: memory is limited for any number of examples.
    parts = np.array_split(np.arange(resamples), max(1, resamples * values.size // 10**6))
    means = [_shares(values.size, len(part), rng) @ values for part in parts]
    return _quantiles(float(values.mean()), np.concatenate(means), level)


def mean_difference(
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " n"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The same for means over examples, such as errors or losses: ``mean(a) - mean(b)``.

    Raises:
      ValueError: other lengths, `level` is not in (0, 1), or `resamples` is not positive.
    """
    one, other = (
        Flatness(np.asarray(v, np.float64)[None], np.zeros(len(v)), len(v)) for v in (a, b)
    )
    return difference(one, other, level=level, resamples=resamples, seed=seed)


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"need level in (0, 1) and resamples >= 1, got {level} and {resamples}")


def _examples(found: Flatness, resamples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The share of each example in each resample: shape (resamples, n) per batch."""
    return [_shares(samples.shape[1], resamples, rng) for samples, _ in found.batches()]


def _resampled(
    found: Flatness, examples: list[np.ndarray], rng: np.random.Generator
) -> Float[np.ndarray, " resamples"]:
    """The measure of each resample."""
    total: np.ndarray = np.zeros(len(examples[0]))
    for (samples, reference), shares in zip(found.batches(), examples, strict=True):
        draws, n = samples.shape
        by_example = _shares(draws, len(shares), rng) @ samples - reference
        total += n / found.reference_losses.size * (shares * by_example).sum(1)
    return total


def _shares(n: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n is drawn in n draws, over n; stretched, see the module. Rows add to 1."""
    if n == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    stretched: np.ndarray = 1 / n + (drawn - 1 / n) * np.sqrt(n / (n - 1))
    return stretched


def _quantiles(value: float, values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)
