"""One look for all figures: colours with fixed meanings, quiet axes, stable files.

Colours say what is measured, everywhere the same: hue is the split (test blue, train
vermilion), strength is the loss (robust full, clean lighter and dashed). They are Okabe
and Ito's, told apart by colour-blind readers and in grey. Figures are made through
matplotlib's objects, never through pyplot, so no state is left behind, no display is
needed, and nobody's open figures are touched.
"""

import contextlib
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "paper": ("#ffffff", "#14181d"),
        "ink": ("#1f2328", "#e6e9ed"),
        "muted": ("#59636e", "#9aa4af"),
        "grid": ("#e3e7eb", "#2c333b"),
        "test": ("#0072b2", "#4fb0e8"),
        "test-clean": ("#74b3d8", "#2f77a6"),
        "train": ("#d55e00", "#ff8c42"),
        "train-clean": ("#eda672", "#a95c28"),
        "mark": ("#00795a", "#35c79f"),
    }
)
"""Every colour of figures and report: (in light mode and in files, in dark mode)."""

RC: Mapping[Any, Any] = MappingProxyType(
    {
        "figure.dpi": 100,
        "figure.constrained_layout.w_pad": 0.06,
        "figure.facecolor": "#ffffff",
        "savefig.facecolor": "#ffffff",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same anywhere
        "font.size": 9.5,
        "text.parse_math": False,  # names of runs are no formulas
        "text.color": COLOURS["ink"][0],
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelcolor": COLOURS["ink"][0],
        "axes.edgecolor": COLOURS["muted"][0],
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": COLOURS["grid"][0],
        "grid.linewidth": 0.8,
        "xtick.color": COLOURS["muted"][0],
        "ytick.color": COLOURS["muted"][0],
        "xtick.labelcolor": COLOURS["ink"][0],
        "ytick.labelcolor": COLOURS["ink"][0],
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "legend.handlelength": 2.4,
        "lines.linewidth": 1.8,
        "lines.markersize": 4.5,
        "errorbar.capsize": 2.5,
        "image.composite_image": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "rfm",  # names of clip paths and markers, else random
    }
)


_DPI = 150  # of PNG


def colour(name: str) -> str:
    """A colour of `COLOURS` as figures draw it."""
    return COLOURS[name][0]


def series_colour(split: str, robust: bool) -> str:
    """The colour of a measure: hue by split, strength by loss."""
    return colour(split if robust else f"{split}-clean")


@contextlib.contextmanager
def styled(**overrides: Any) -> Iterator[None]:
    """Context, or decorator of a function, in which matplotlib follows `RC`."""
    settings: dict[Any, Any] = {**RC, **overrides}
    with matplotlib.rc_context(settings):
        yield


def epoch_axis(axes: Axes) -> None:
    """Labels the x axis of a quantity over training."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True))
    axes.grid(False, axis="x")


def legend_below(figure: Figure) -> None:
    """One legend for all panels of a figure, each entry once."""
    entries: dict[str, Any] = {}
    for handle, label in itertools.chain.from_iterable(
        zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes
    ):
        entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=4 if len(entries) == 4 else 3,
    )


def png(figure: Figure) -> bytes:
    """The figure as PNG, 150 dots per inch."""
    _lay_out(figure)
    buffer, dpi = io.BytesIO(), figure.dpi
    with styled():
        figure.dpi = _DPI
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        figure.dpi = dpi
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as SVG, the same bytes every time."""
    _lay_out(figure)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with styled():
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    # Hundredths of a point are enough; of many curves the rest is most of the file.
    places = re.compile(r'(?<= )(?:d|x|y)="[^"]*"')
    return places.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), buffer.getvalue())


def _lay_out(figure: Figure) -> None:
    """Once for all formats. With `Figure.savefig`, figures of many panels take seconds more."""
    if figure.get_layout_engine() is not None:
        dpi, figure.dpi = figure.dpi, _DPI
        with styled():
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.dpi = dpi


def inline_svg(text: str, name: str) -> str:
    """An SVG of `svg` for a place inside an HTML page.

    Colours become CSS variables (``var(--ink)``), so that the page decides between
    light and dark; ids get `name` in front, so that several figures can share a page.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'^<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    for key, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{key})")
    return text
