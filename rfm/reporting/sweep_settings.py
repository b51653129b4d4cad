"""Which runs are the same but for the seed, and may be averaged.

Settings are what must agree: the config of training without the seed, and the protocol of
each record without where it was made. A record that one of two runs lacks is no difference.
Nor is a field that one lacks and that is off in the other: versions of rfm before it had none.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rfm.reporting.protocol import flatten
from rfm.reporting.records import ELSEWHERE, Record
from rfm.reporting.sweep import Member

Settings = Mapping[str, Mapping[str, str]]
"""Texts by field, of `OF_TRAINING` and of each record by its name."""

OF_TRAINING = ("file", "config")
"""What a run has beside its records: a config that can be read, and what it says."""

_MEASURING = ("evaluation", "flatness", "snapshots", "curvature", "landscape")
_OF_NO_EFFECT = ("config.seed", "config.data.dir", "config.train.steps_per_dispatch",
                 "config.model.remat", "config.model.weights")  # fmt: skip
# Whose weights they are is in the config, too.
_CIRCUMSTANCES = ("device", "versions", "git", "seed", "exported", "weights", "zoo")
_OFF = (None, "", "0", "0.0", "false", "null", "[]", "{}")


def settings(member: Member) -> Settings:
    """What must agree with other runs of the same method."""
    _, total = member.steps
    config = member.run.config
    found: dict[str, Mapping[str, str]] = {
        "file": {"config file": "whole" if config else "damaged"}
    }
    if config:
        found["config"] = _of_training(config)
    for record in member.records:
        found[record.name] = of_record(record, total)
    for record in member.early_stopped:
        if record not in member.records:
            fields = of_record(record, total)
            found[f"{record.name} (early stopping)"] = {
                field: text for field, text in fields.items() if field != "checkpoint"
            }
    return found


def of_record(record: Record, total: int | None) -> Mapping[str, str]:
    """What must agree of a record, of a run of `total` training steps."""
    protocol = {k: v for k, v in record.protocol.items() if k not in _CIRCUMSTANCES}
    at_the_end = total is not None and record.step == total
    checkpoint = "final" if at_the_end else _checkpoint(record)
    return {**flatten(protocol), "checkpoint": checkpoint}


def _of_training(config: Mapping[str, Any]) -> dict[str, str]:
    trained = {key: value for key, value in config.items() if key not in _MEASURING}
    flat = flatten(trained, "config.")
    return {key: text for key, text in flat.items() if key not in _OF_NO_EFFECT}


def _checkpoint(record: Record) -> str:
    if record.checkpoint in ("final", "best", *ELSEWHERE):
        return record.checkpoint
    return f"step {record.step}" if record.epoch is None else f"epoch {record.epoch:g}"


def agree(first: Settings, second: Settings) -> bool:
    """Do two runs have the same settings as far as both have them?"""
    return not differences((first, second))


def joined(several: Sequence[Settings]) -> Settings:
    """Those of runs that agree, as one."""
    found: dict[str, Mapping[str, str]] = {}
    for one in several:
        for scope, fields in one.items():
            found.setdefault(scope, fields)
    return found


def differences(several: Sequence[Settings]) -> dict[str, tuple[str | None, ...]]:
    """The fields that differ between any two, with what each says, None where it says nothing.

    A field that differs in the same way in several records is one entry: "attack.steps of
    evaluation-test, evaluation-train".
    """
    scopes: dict[str, set[str]] = {}
    for one in several:
        for scope, fields in one.items():
            scopes.setdefault(scope, set()).update(fields)
    grouped: dict[tuple[str, tuple[str | None, ...]], list[str]] = {}
    for scope, titles in sorted(scopes.items()):
        for field in sorted(titles):
            texts = tuple(_text(one, scope, field) for one in several)
            if len({text for text in texts if text is not None}) > 1:
                grouped.setdefault((field, texts), []).append(scope)
    return {
        field if where[0] in OF_TRAINING else f"{field} of {', '.join(where)}": texts
        for (field, texts), where in grouped.items()
    }


def _text(one: Settings, scope: str, field: str) -> str | None:
    if scope not in one:
        return None
    text = one[scope].get(field)
    return "off" if text in _OFF else _shortened(str(text))


def _shortened(text: str) -> str:
    """0.03137254901960784 as 0.0313725, and of a checksum its beginning."""
    if re.fullmatch("[0-9a-f]{64}", text):
        return text[:12]
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def telling(found: Mapping[str, Sequence[str | None]], count: int) -> list[list[str]]:
    """For each of `count` sets of settings, the fields that tell it from the others.

    As few as possible, the data source first; how many more there are is said.
    """
    order = sorted(found, key=lambda title: (title != "config.data.source", " of " in title))
    chosen: list[str] = []
    groups = 1 if count else 0
    for title in order:
        told = len({tuple(found[t][i] for t in (*chosen, title)) for i in range(count)})
        if told > groups:
            chosen, groups = [*chosen, title], told
    more = len(found) - len(chosen)
    rest = [f"and {more} more"] if more else []
    return [
        [f"{title.removeprefix('config.')} = {found[title][i]}" for title in chosen
         if found[title][i] is not None] + rest
        for i in range(count)
    ]  # fmt: skip


def summary(found: Mapping[str, Sequence[str | None]], names: Sequence[str]) -> Iterable[str]:
    """A line for each field that differs: which of `names` says what."""
    for title, texts in found.items():
        said: dict[str, list[str]] = {}
        for text, name in zip(texts, names, strict=True):
            if text is not None:
                said.setdefault(text, []).append(name)
        most = max(said.values(), key=len)
        parts = (
            f"{text} ({'all others' if of is most and len(of) > 3 else ', '.join(of)})"
            for text, of in said.items()
        )
        yield f"{title}: {'; '.join(parts)}"
