"""The interactive charts of a sweep: hover a run for its numbers, click it for its report.

They are Plotly's, whose script the page holds once (`plotly`); nothing is fetched. Each chart is
data and layout as JSON; ``interactive.js.j2`` draws it in the colours of the page.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rfm.reporting import sweep_families
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_groups import means, pairs
from rfm.reporting.sweep_look import HUES, hue, is_wide
from rfm.reporting.sweep_points import RERR, RLOSS, Measured, Points
from rfm.reporting.sweep_rows import Row
from rfm.reporting.sweep_training import held_out, on_train
from rfm.reporting.tables import OPEN

Chart = dict[str, Any]
"""``data`` and ``layout`` of a Plotly figure."""

_Line = list[tuple[float | None, float | None]]  # points, and gaps of None

_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "6px 2px")
_CURVES = {
    "RErr, held-out test (%)": (held_out, "rerr"),
    "RLoss, held-out test": (held_out, "rloss"),
    "RErr, train (%)": (on_train, "rerr"),
    "RLoss, train": (on_train, "rloss"),
}


def link(member: Member) -> str | None:
    """The run's own report as seen from that of the sweep, if there is one."""
    return f"{quote(member.path)}/report.html" if member.report else None


def plotly() -> str:
    """The script of Plotly."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def as_json(charts: Mapping[str, Chart]) -> str:
    """For a script. Texts come from files: none may end it."""
    return json.dumps(charts, allow_nan=False).replace("<", "\\u003c")


def scatter(found: Mapping[Measured, Points], rows: Sequence[Row]) -> Chart | None:
    """Test RLoss against a measure that is chosen; a trace for each method.

    Lines between hyper-parameters of a family (Fig. J) and to the checkpoint of early stopping
    (Fig. D, right) can be shown.
    """
    if not found:
        return None
    shown = [row for row in rows if any(row.number in of.numbers for of in found.values())]
    traces = [_method(row) for row in shown]
    families = sweep_families.lines(shown)
    joining = [_line(name, HUES[n % len(HUES)]) for n, name in enumerate(families)]
    arrows = [_line(f"{row.name}, to early stopping", hue(row.number)) for row in shown]
    every = [*traces, *joining, *arrows]
    buttons: list[Chart] = []
    for measure, of in found.items():
        x, y = _values(of, shown)
        of_row = means(of)
        lines: list[_Line] = [[of_row[r.number] for r in family if r.number in of_row]
                 for family in families.values()]  # fmt: skip
        lines += [_arrows(row, measure) for row in shown]
        places = {
            "x": x + [[x for x, _ in line] for line in lines],
            "y": y + [[y for _, y in line] for line in lines],
        }
        axes = {
            "xaxis.title.text": measure.title,
            "xaxis.type": "log" if is_wide(of.x) else "linear",
            "yaxis.type": "log" if is_wide(of.y) else "linear",
            "xaxis.autorange": True,
            "yaxis.autorange": True,
            "title.text": _title(of),
        }
        buttons.append({"label": measure.title, "method": "update", "args": [places, axes]})
    first = buttons[0]["args"]
    for trace, x_of, y_of in zip(every, first[0]["x"], first[0]["y"], strict=True):
        trace |= {"x": x_of, "y": y_of}
    count = len(shown)
    overlays = {
        "points": (False, False),
        "join families": (True, False),
        "to early stopping": (False, True),
    }
    if not any(line for button in buttons for line in button["args"][0]["x"][-count:]):
        del overlays["to early stopping"]
    if not families:
        del overlays["join families"]
    toggles = [
        {"label": label, "method": "restyle",
         "args": [{"visible": [True] * count + [a] * len(joining) + [b] * len(arrows)}]}
        for label, (a, b) in overlays.items()
    ]  # fmt: skip
    menus = [_menu(buttons, 0.0)]
    if len(toggles) > 1:
        menus.append({**_menu(toggles, 1.0), "xanchor": "right"})
    layout = _layout(menus)
    layout["title"] = {"text": first[1]["title.text"], "font": {"size": 13}, "x": 0,
                       "xref": "paper", "y": 0.98, "yanchor": "top"}  # fmt: skip
    layout["xaxis"] = {"title": {"text": buttons[0]["label"]}, "type": first[1]["xaxis.type"]}
    layout["yaxis"] = {"title": {"text": RLOSS.title}, "type": first[1]["yaxis.type"]}
    return {"data": every, "layout": layout}


def training(rows: Sequence[Row]) -> Chart | None:
    """RLoss or RErr of all runs over epochs; a trace for each run."""
    runs = [(row, member) for row in rows for member in row.members
            if len(held_out(member.run.metrics, "rerr")) > 1]  # fmt: skip
    if not runs:
        return None
    traces: list[Chart] = []
    for row, member in runs:
        label = _escaped(row)
        first = not any(trace["legendgroup"] == str(row.number) for trace in traces)
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": f"{row.number}  {label}",
                "legendgroup": str(row.number), "showlegend": first,
                "line": {"color": hue(row.number), "width": 1.3,
                         "dash": _DASHES[(row.number - 1) // len(HUES) % len(_DASHES)]},
                "meta": [link(member)],
                "hovertemplate": f"<b>{label}</b>, seed {_seed(member)}<br>epoch %{{x:g}}: "
                                 "%{y:.3g}<extra></extra>",
            }
        )  # fmt: skip
    buttons: list[Chart] = []
    for title, (curve, quantity) in _CURVES.items():
        curves = [curve(member.run.metrics, quantity) for _, member in runs]
        if any(curves):
            places = {"x": [[_short(x) for x, _ in of] for of in curves],
                      "y": [[_short(y) for _, y in of] for of in curves]}  # fmt: skip
            axes = {"yaxis.title.text": title, "yaxis.autorange": True}
            buttons.append({"label": title, "method": "update", "args": [places, axes]})
    for trace, x, y in zip(traces, *buttons[0]["args"][0].values(), strict=True):
        trace |= {"x": x, "y": y}
    layout = _layout([_menu(buttons, 0.0)])
    layout["xaxis"] = {"title": {"text": "epoch"}}
    layout["yaxis"] = {"title": {"text": buttons[0]["label"]}}
    return {"data": traces, "layout": layout}


def _method(row: Row) -> Chart:
    label = _escaped(row)
    return {
        "type": "scatter", "mode": "markers", "name": f"{row.number}  {label}",
        "marker": {"color": hue(row.number), "size": 9, "line": {"width": 0.5, "color": "#fff"},
                   "symbol": _SYMBOLS[(row.number - 1) // len(HUES) % len(_SYMBOLS)]},
        "customdata": [[_seed(m), html.escape(m.path), link(m), _rerr(m)] for m in row.members],
        "hovertemplate": f"<b>{label}</b>, seed %{{customdata[0]}}"
                         "<br>%{xaxis.title.text}: %{x:.4g}"
                         "<br>RLoss, test: %{y:.4g}<br>RErr, test: %{customdata[3]} %"
                         "<br>%{customdata[1]}<extra></extra>",
    }  # fmt: skip


def _line(name: str, colour: str) -> Chart:
    return {
        "type": "scatter", "mode": "lines+markers", "name": html.escape(name), "visible": False,
        "line": {"color": colour, "width": 1.2}, "hoverinfo": "name", "showlegend": False,
        "marker": {"symbol": "arrow", "size": 9, "angleref": "previous", "color": colour},
    }  # fmt: skip


def _values(of: Points, rows: Sequence[Row]) -> tuple[list[Any], list[Any]]:
    """Both values of each run of each row; null where one is missing."""
    places = {m.path: (x, y) for m, x, y in zip(of.members, of.x, of.y, strict=True)}
    both = [[places.get(m.path, (None, None)) for m in row.members] for row in rows]
    return [[x for x, _ in row] for row in both], [[y for _, y in row] for row in both]


def _arrows(row: Row, measure: Measured) -> _Line:
    return [end for pair in pairs([row], measure) for end in (pair.final, pair.best, (None, None))]


def _title(of: Points) -> str:
    coefficients = of.correlation
    text = "" if coefficients is None else str(coefficients).replace("\n", "<br>")
    return f"{text}; {of.left_out} measured otherwise and left out" if of.left_out else text


def _layout(menus: Sequence[Chart]) -> Chart:
    return {
        "updatemenus": list(menus), "hovermode": "closest", "hoverdistance": 12,
        "margin": {"l": 60, "r": 10, "t": 105, "b": 50}, "height": 580,
        "legend": {"font": {"size": 11}, "tracegroupgap": 0},
    }  # fmt: skip


def _menu(buttons: Sequence[Chart], x: float) -> Chart:
    return {"buttons": list(buttons), "x": x, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "showactive": True}  # fmt: skip


def _escaped(row: Row) -> str:
    return html.escape(row.title)


def _seed(member: Member) -> str:
    return "–" if member.seed is None else str(member.seed)


def _rerr(member: Member) -> str:
    found = RERR.of(member.records)
    return OPEN if found is None else f"{100 * found[1]:.1f}"


def _short(value: float) -> float:
    """Four digits, so that the page stays small."""
    return float(f"{value:.4g}")
