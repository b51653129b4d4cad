"""The spectral density of the Hessian, from records of `rfm curvature --density`."""

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rfm.flatness import SpectralDensity
from rfm.reporting import style
from rfm.reporting.records import Record, latest

_SMOOTHED = 100  # the width of the Gaussians is so small a part of the range


@style.styled()
def spectral_density(records: Iterable[Record]) -> Figure | None:
    """Densities of Loss and RLoss on a logarithmic axis; None without any."""
    found = [(r, r.density) for r in latest(records) if r.density is not None]
    if not found:
        return None
    figure = Figure(figsize=(6.2, 3.5), layout="constrained")
    axes, peak = figure.subplots(), 0.0
    for record, data in found:
        robust = "-rloss-" in record.name
        grid, density = _smoothed(data)
        peak = max(peak, density.max())
        axes.plot(
            grid,
            density,
            color=style.series_colour("test", robust),
            linestyle="-" if robust else (0, (4, 2)),
            label="RLoss" if robust else "Loss",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(1e-6 * peak, 3 * peak)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("density")
    style.legend_below(figure)
    return figure


def _smoothed(density: SpectralDensity) -> tuple[np.ndarray, np.ndarray]:
    """A grid and the density on it."""
    low, high = density.nodes.min(), density.nodes.max()
    width = max(high - low, 1e-12) / _SMOOTHED
    grid = np.linspace(low - 5 * width, high + 5 * width, 800)
    return grid, density.at(grid, width)
