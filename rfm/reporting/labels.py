"""Small numbers in figures, where they cover as little as possible."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from rfm.reporting import style

_SIZE = 7.5  # of the font, in points
_WIDTH, _HEIGHT = 5.0, 7.0  # of a digit and of a line, in points
_FAR = 7.0  # from a point to the middle of its label, in points


def beside_points(
    axes: Axes, x: Sequence[float], y: Sequence[float], numbers: Sequence[int] | Sequence[str]
) -> None:
    """Each number (or text) once, beside that of its points which is in the middle of them.

    Of eight places around the point, it goes where it covers the least. The figure must have
    its layout already.
    """
    to_points = 72 / axes.figure.dpi
    places = to_points * axes.transData.transform(np.column_stack([x, y]))
    found = np.array(numbers)
    taken: list[tuple[np.ndarray, np.ndarray]] = [(place, np.array([3.0, 3.0])) for place in places]
    low, high = to_points * np.array(axes.get_window_extent().get_points())
    for number in dict.fromkeys(numbers):
        mine = places[found == number]
        anchor = mine[np.abs(mine - mine.mean(0)).sum(1).argmin()]
        half = np.array([_WIDTH * len(str(number)), _HEIGHT]) / 2
        best, least = anchor, np.inf
        for far, (right, up) in itertools.product(
            (1.0, 1.7), ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
        ):
            centre = anchor + far * np.array([right * (_FAR + half[0] - 2), up * _FAR])
            covered = sum(_overlap(centre, half, *other) for other in taken)
            outside = np.maximum(low - (centre - half), 0) + np.maximum(centre + half - high, 0)
            cost = covered + 10 * float(outside.sum()) + (far - 1)
            if cost < least:
                best, least = centre, cost
        taken.append((best, half))
        offset = best - anchor
        axes.annotate(
            str(number),
            tuple(axes.transData.inverted().transform(anchor / to_points)),
            xytext=tuple(offset),
            textcoords="offset points",
            fontsize=_SIZE,
            ha="center",
            va="center",
            color=style.colour("ink"),
            zorder=3,
        )


def _overlap(
    centre: np.ndarray, half: np.ndarray, other: np.ndarray, half_other: np.ndarray
) -> float:
    """The area that two boxes share."""
    sides = np.minimum(centre + half, other + half_other) - np.maximum(
        centre - half, other - half_other
    )
    return float(np.prod(np.maximum(sides, 0)))
