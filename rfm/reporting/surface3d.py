"""The interactive 3-D surface of a report: turn it, zoom, read values off.

The one figure that needs a script. It is Plotly's, and part of the page: nothing is fetched.
"""

from collections.abc import Iterable

from rfm.reporting.landscapes import find
from rfm.reporting.records import LandscapeData, Record


def interactive(records: Iterable[Record]) -> str | None:
    """The loss over the plane of two directions as a piece of HTML, None without one."""
    for loss, data in find(records, "surface", "rloss", "loss").items():
        return _draw(data, {"rloss": "RLoss", "loss": "Loss"}[loss])
    return None


def _draw(data: LandscapeData, title: str) -> str:
    from plotly import graph_objects  # a second of imports that few reports need

    first, second = data.lengths[0]
    hover = f"first: %{{x:.2f}}<br>second: %{{y:.2f}}<br>{title}: %{{z:.3f}}<extra></extra>"
    figure = graph_objects.Figure(
        graph_objects.Surface(
            x=data.steps,
            y=data.steps,
            z=data.losses[0].T,
            colorscale="Viridis",
            hovertemplate=hover,
            colorbar={"title": title},
        )
    )
    figure.update_layout(
        height=520,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        font={"color": "#808890"},  # to be read on light and on dark
        scene={
            "xaxis_title": f"first direction (length {first:.3g})",
            "yaxis_title": f"second direction (length {second:.3g})",
            "zaxis_title": title,
        },
    )
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="surface-3d",  # else random: the same records give the same bytes
        config={
            "displaylogo": False,
            "responsive": True,
            "modeBarButtonsToRemove": ["sendChartToCloud"],  # the data stay here
        },
    )
    return text
