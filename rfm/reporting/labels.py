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
    centres, halves = places, np.full_like(places, 3.0)  # of what is there already
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
            outside = np.maximum(low - (centre - half), 0) + np.maximum(centre + half - high, 0)
            covered = _covered(centre, half, centres, halves)
            cost = covered + 10 * float(outside.sum()) + (far - 1)
            if cost < least:
                best, least = centre, cost
        centres, halves = np.vstack([centres, best]), np.vstack([halves, half])
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


def _covered(
    centre: np.ndarray, half: np.ndarray, centres: np.ndarray, halves: np.ndarray
) -> float:
    """The area that a box shares with others."""
    sides = np.minimum(centre + half, centres + halves) - np.maximum(
        centre - half, centres - halves
    )
    return float(np.prod(np.maximum(sides, 0), axis=1).sum())
