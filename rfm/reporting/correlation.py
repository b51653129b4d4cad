"""Pearson's and Spearman's coefficients over runs, with bootstrap intervals over methods.

Each method counts once, however many seeds it has: its runs share one weight. Seeds of a method
are not independent of each other, so a resample draws methods with replacement and takes all
seeds of each that is drawn (a cluster bootstrap). A resample is so many copies of each run, and
both coefficients are those of weighted runs; all resamples are computed at once.
"""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

RESAMPLES = 5_000
LEVEL = 0.95
_SEED = 0  # the same records give the same intervals
_FEWEST = 8  # methods from which there is an interval; of fewer it covers too rarely

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Of two measures over runs.

    Attributes:
      pearson: Pearson's r of the values.
      spearman: Spearman's rank correlation.
      runs: of how many.
      methods: of how many different methods these are.
      pearson_interval, spearman_interval: 2.5th and 97.5th percentile of resamples over
        methods; None of fewer than eight.
    """

    pearson: float
    spearman: float
    runs: int
    methods: int
    pearson_interval: Interval | None = None
    spearman_interval: Interval | None = None

    @property
    def count(self) -> str:
        """Of how much it is, "n = 21", or "21 runs of 7 methods"."""
        if self.runs == self.methods:
            return f"n = {self.runs}"
        return f"{self.runs} runs of {self.methods} method{'' if self.methods == 1 else 's'}"

    def __str__(self) -> str:
        """Above a small panel: in short lines."""
        separator = ", " if self.runs == self.methods else "\n"
        return (
            f"Pearson {in_words(self.pearson, self.pearson_interval)}\n"
            f"Spearman {in_words(self.spearman, self.spearman_interval)}{separator}{self.count}"
        )


def in_words(value: float, interval: Interval | None) -> str:
    """A coefficient with its interval, "0.85 [0.71, 0.93]"."""
    text = f"{value:z.2f}"
    if interval is not None:
        text += f" [{interval[0]:z.2f}, {interval[1]:z.2f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def correlation(
    x: Sequence[float], y: Sequence[float], methods: Sequence[Hashable] | None = None
) -> Correlation | None:
    """Both coefficients of paired values; None of fewer than three, or if one is constant.

    Args:
      x: one measure of each run.
      y: the other.
      methods: of each run; None: each is of its own.
    """
    if len(x) < 3:
        return None
    names = list(range(len(x)) if methods is None else methods)
    values = np.asarray(x, float), np.asarray(y, float)
    weights = _weights(names)
    pearson, spearman = (float(of(*values, weights[None])[0]) for of in (_pearson, _spearman))
    if not np.isfinite([pearson, spearman]).all():
        return None
    intervals = _intervals(*values, names)
    return Correlation(pearson, spearman, len(x), len(set(names)), *intervals)


def difference(
    x: Sequence[float], other: Sequence[float], y: Sequence[float], methods: Sequence[Hashable]
) -> tuple[float, Interval] | None:
    """By how much |r| of `x` and `y` is above that of `other` and `y`, and its interval.

    Both coefficients (Pearson's) are of the same runs in each resample. None of fewer than eight
    methods, or if one of the three is constant.

    Args:
      x: a measure of each run.
      other: another one.
      y: what both are held against.
      methods: of each run.
    """
    if (copies := _copies(methods)) is None:
        return None
    arrays = [np.asarray(values, float) for values in (x, other, y)]

    def above(copies: np.ndarray) -> np.ndarray:
        ours, theirs = (_pearson(of, arrays[2], copies) for of in arrays[:2])
        return np.abs(ours) - np.abs(theirs)

    value = float(above(_weights(methods)[None])[0])
    interval = _percentiles(above(copies))
    return None if interval is None or not np.isfinite(value) else (value, interval)


def _intervals(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], names: Sequence[Hashable]
) -> tuple[Interval | None, Interval | None]:
    if (copies := _copies(names)) is None:
        return None, None
    first, second = (_percentiles(of(x, y, copies)) for of in (_pearson, _spearman))
    return first, second


def _weights(names: Sequence[Hashable]) -> Float[np.ndarray, " n"]:
    """Of each run, the same for all methods together."""
    counts = Counter(names)
    return np.array([1 / counts[name] for name in names])


def _copies(names: Sequence[Hashable]) -> Float[np.ndarray, "b n"] | None:
    """The weight of each run in each resample of methods; None of too few."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    count = len(places)
    if count < _FEWEST:
        return None
    drawn = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return drawn[:, [places[name] for name in names]] * _weights(names)


def _percentiles(resampled: Float[np.ndarray, " b"]) -> Interval | None:
    resampled = resampled[np.isfinite(resampled)]  # a resample can be constant
    if not len(resampled):
        return None
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _pearson(
    x: Float[np.ndarray, "*b n"], y: Float[np.ndarray, "*b n"], copies: Float[np.ndarray, "b n"]
) -> Float[np.ndarray, " b"]:
    """Pearson's r of so many copies of each pair; not a number where one is constant."""
    total = copies.sum(1, keepdims=True)
    x, y = (np.broadcast_to(values, copies.shape) for values in (x, y))
    x, y = (v - (copies * v).sum(1, keepdims=True) / total for v in (x, y))
    xx, yy, xy = ((copies * product).sum(1) for product in (x * x, y * y, x * y))
    scale = np.sqrt(xx * yy)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(scale > 1e-12 * scale.max(initial=1e-300), xy / scale, np.nan)
    return np.clip(found, -1, 1)


def _spearman(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], copies: Float[np.ndarray, "b n"]
) -> Float[np.ndarray, " b"]:
    return _pearson(_ranks(x, copies), _ranks(y, copies), copies)


def _ranks(
    values: Float[np.ndarray, " n"], copies: Float[np.ndarray, "b n"]
) -> Float[np.ndarray, "b n"]:
    """Ranks among so many copies of each value, equal ones sharing their mean rank."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(copies[:, order], starts, axis=1)
    return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group]
