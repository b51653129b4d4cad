"""Protocols: the settings behind a number, in words and in full.

A record's protocol is a nested mapping written by whoever measured. Here its parts
become words (`attack_text`), and all settings of many records a list that says only
once what they share (`comparison`). Nothing is assumed: what a protocol does not say
is left out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rfm.reporting.records import ELSEWHERE, Record

_NORMS = {"linf": "L∞", "l2": "L2"}


def setting(protocol: Mapping[str, Any], key: str) -> Any:
    """The entry called `key` at the smallest depth of a nested mapping, else None."""
    level = [protocol]
    while level:
        for mapping in level:
            if mapping.get(key) is not None:
                return mapping[key]
        level = [
            value for mapping in level for value in mapping.values() if isinstance(value, Mapping)
        ]
    return None


def epsilon_text(epsilon: float) -> str:
    """An input radius as ``k/255`` where it is one, pixels being in [0, 1]."""
    levels = 255 * epsilon
    is_level = math.isclose(levels, round(levels), rel_tol=1e-5) and round(levels) > 0
    return f"{round(levels)}/255" if is_level else f"{epsilon:g}"


def threat_text(protocol: Mapping[str, Any]) -> str:
    """The ball around an input, "L∞, ε = 8/255"."""
    norm, epsilon = setting(protocol, "norm"), setting(protocol, "epsilon")
    parts = [] if norm is None else [_NORMS.get(str(norm).lower(), str(norm))]
    if isinstance(epsilon, int | float):
        parts.append(f"ε = {epsilon_text(epsilon)}")
    return ", ".join(parts)


def attack_name(attack: Mapping[str, Any]) -> str:
    """An attack by name and effort: "PGD-20, 10 restarts"."""
    name, steps = str(setting(attack, "name") or "PGD"), setting(attack, "steps")
    text = name.upper() if steps is None else f"{name.upper()}-{steps}"
    restarts = setting(attack, "restarts")
    if restarts is None:
        return text
    return f"{text}, {restarts} restart{'' if restarts == 1 else 's'}"


def attack_text(attack: Mapping[str, Any] | None) -> str:
    """An attack in words: "PGD-20, 10 restarts, L∞, ε = 8/255, step size 0.007"."""
    if not attack:
        return "no attack"
    parts = [attack_name(attack), threat_text(attack)]
    parts += listed(attack, step_size="step size {:g}")
    return ", ".join(filter(None, parts))


def listed(protocol: Mapping[str, Any], **texts: str) -> list[str]:
    """Each setting that the protocol has, in the words of `texts`."""
    found = {key: setting(protocol, key) for key in texts}
    return [text.format(found[key]) for key, text in texts.items() if found[key] is not None]


def radius(record: Record) -> float | None:
    """Xi of Eq. (4), the relative radius of a flatness record, if it says so."""
    value = setting(record.protocol.get("ball") or {}, "radius")
    return value if isinstance(value, int | float) else None


def checkpoint_text(record: Record) -> str:
    """Whose weights: "final, step 390, epoch 10"."""
    if record.checkpoint in ELSEWHERE:
        return ELSEWHERE[record.checkpoint]
    parts = [f"step {record.step}"]
    if record.checkpoint not in ("", str(record.step)):
        parts.insert(0, record.checkpoint)
    if record.epoch is not None:
        parts.append(f"epoch {record.epoch:g}")
    return ", ".join(parts)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of dotted names and texts."""
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[f"{prefix}{key}"] = text
    return flat


def comparison(
    records: Sequence[Record],
) -> tuple[dict[str, str], list[tuple[str, dict[str, str]]]]:
    """All settings of all records, without repetition.

    Returns:
      What every record has in common, and for each record its title and the rest.
    """
    settings = [
        flatten(record.protocol)
        | ({} if record.seconds is None else {"seconds": f"{record.seconds:g}"})
        for record in records
    ]
    shared = dict(settings[0]) if settings else {}
    for others in settings[1:]:
        shared = {key: text for key, text in shared.items() if others.get(key) == text}
    own = []
    for record, texts in zip(records, settings, strict=True):
        rest = {key: text for key, text in texts.items() if key not in shared}
        kind = "snapshots, last at " if record.snapshot else ""
        own.append((f"{record.name} ({kind}{checkpoint_text(record)})", rest))
    return shared, own
