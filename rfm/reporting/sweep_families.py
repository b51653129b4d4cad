"""Families of methods: those that differ in a number only, in the order of it (Fig. J).

A method is called by what it is and its numbers, as in ``awp-0.005``, ``cyclic-x2`` or
``pgd-7-2``. `panels` puts families that are kin side by side, so that the many small panels of
a sweep are as few as can be read.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from rfm.reporting.sweep_rows import Row

BASELINE = "at"

_NAME = re.compile(r"([a-z]+(?:-[a-z]+)*?)((?:-x?[0-9]+(?:\.[0-9]+)?)*)")

PANELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Learning rate": ("learning-rate", "const-learning-rate"),
        "Schedule": ("late-multi-step", "cyclic"),
        "Batch size": ("batch-size",),
        "Weight decay": ("weight-decay", "no-weight-decay"),
        "Adam, dropout": ("adam", "dropout"),
        "Label smoothing": ("label-smoothing",),
        "Label noise": ("label-noise",),
        "Weight averaging": ("weight-averaging",),
        "Weight clipping": ("weight-clipping",),
        "Entropy-SGD": ("entropy-sgd",),
        "AT-AWP, SAM": ("awp", "sam"),
        "TRADES": ("trades",),
        "MART": ("mart",),
        "Self-supervision": ("self-supervision",),
        "PGD in training": ("pgd", "epsilon"),
        "Incorrect examples": ("ignore-incorrect", "prevent-label-leaking"),
        "Activation": ("silu", "mish", "gelu"),
        "More data": ("autoaugment", "unlabeled"),
        "Baseline": (BASELINE, "plain"),
    }
)
"""Families side by side in Figs. H and K; others have a panel each."""

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Learning rate schedules": PANELS["Learning rate"] + PANELS["Schedule"],
        "Label smoothing, label noise,\nweight decay": (
            *("label-smoothing", "label-noise", "weight-decay", "no-weight-decay"),
        ),
        "Weight clipping, Entropy-SGD,\nAT-AWP": ("weight-clipping", "entropy-sgd", "awp"),
        "Self-supervision, MART,\nTRADES": ("self-supervision", "mart", "trades"),
    }
)
"""Families by the columns of Fig. J; others come after them."""


def family(name: str) -> tuple[str, tuple[float, ...]]:
    """What a method is, and its numbers: ``pgd-7-2`` is ``("pgd", (7.0, 2.0))``.

    What has no such name is a family of its own.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return name, ()
    return match[1], tuple(float(number.lstrip("x")) for number in match[2].split("-")[1:])


def families(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by family, each in the order of its numbers; families by name."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (*family(row.name), row.number)):
        found.setdefault(family(row.name)[0], []).append(row)
    return found


def lines(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows that differ in their last number only, where there are several.

    ``pgd-14`` has another number of steps, ``pgd-7-2`` with 7 steps another tau.
    """
    found: dict[str, list[Row]] = {}
    for name, of in families(rows).items():
        for row in of:
            fixed = [f"{number:g}" for number in family(row.name)[1][:-1]]
            found.setdefault("-".join([name, *fixed]), []).append(row)
    return {name: of for name, of in found.items() if len(of) > 1}


def panels(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by panel, in the order of `PANELS`, then those of other families."""
    found = families(rows)
    known = [name for names in PANELS.values() for name in names]
    every = {**PANELS, **{name: (name,) for name in found if name not in known}}
    joined = {
        title: [row for name in names for row in found.get(name, ())]
        for title, names in every.items()
    }
    return {title: of for title, of in joined.items() if of}


def groups(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """`lines` by column of Fig. J; those of other families are last, together."""
    several = lines(rows)
    known = [name for names in GROUPS.values() for name in names]
    rest = [name for name in several if name not in known]
    columns = {**GROUPS, "Others": tuple(rest)}
    found = {
        title: {name: several[name] for name in names if name in several}
        for title, names in columns.items()
    }
    return {title: of for title, of in found.items() if of}


def baseline(rows: Iterable[Row]) -> Row | None:
    """Plain adversarial training, where there is a row of it."""
    return next((row for row in rows if row.name == BASELINE), None)
