"""What belongs under a table: how its numbers were measured, in a few lines.

One line per subject where the records agree. Where they do not (another radius for
Loss than for RLoss, another attack on train than on test, another protocol at another
checkpoint) each is said apart, so that no line claims more than the records do.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rfm.reporting.protocol import (
    attack_name,
    attack_text,
    checkpoint_text,
    listed,
    radius,
    setting,
    threat_text,
)
from rfm.reporting.records import Record


def caption(records: Sequence[Record]) -> tuple[str, ...]:
    """The lines under a table of `records`, the latest checkpoint first."""
    if not records:
        return ()
    checkpoints: dict[str, list[Record]] = {}
    for record in sorted(records, key=_position):
        checkpoints.setdefault(checkpoint_text(record), []).append(record)
    lines = ["± is one standard error; – was not measured. Lower is better (eigenvalues apart)."]
    measured: list[str] = []
    for checkpoint, there in checkpoints.items():
        new = [line for line in measures(there) if line not in measured]
        lines += [f"At {checkpoint}: {line}" for line in new] if measured else new
        measured += new
    lines.append(f"Checkpoint: {'; '.join(checkpoints)}.")
    if machines := "; ".join(_distinct(records, _machine)):
        lines.append(f"Measured with {machines}.")
    return tuple(lines)


def all_machines(records: Iterable[Record]) -> str:
    """What many records were measured with: of each part all that there are.

    Which goes with which is not said; a caption of one run does.
    """
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, part in _machine_parts(record).items():
            found.setdefault(name, {})[part] = None
    named = [" or ".join(_first_few(list(parts))) for parts in found.values()]
    return f"Measured with {', '.join(named)}." if named else ""


def _first_few(parts: Sequence[str], count: int = 4) -> list[str]:
    others = len(parts) - count
    return [*parts[:count], f"{others} others"] if others > 1 else list(parts)


def _position(record: Record) -> tuple[int, bool, str]:
    return -record.step, record.split != "test", record.name


def _distinct(records: Iterable[Record], text: Callable[[Record], str]) -> dict[str, list[Record]]:
    """Records by what `text` says of them, those of which it says nothing aside."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(text(record), []).append(record)
    groups.pop("", None)
    return groups


def measures(records: Sequence[Record]) -> Iterator[str]:
    """Lines on evaluation, average- and worst-case flatness, without the checkpoint."""
    evaluations = [record for record in records if record.kind == "evaluation"]
    if clean := _examples(evaluations, "err"):
        yield f"Err and Loss: {clean}."
    for attack, group in _distinct(evaluations, _attack).items():
        if attacked := _examples(group, "rerr"):
            worst = "of each example the worst case counts"
            first = _first(group)
            yield f"RErr and RLoss: {attack}; {first}{attacked}, {worst}."
    for title, name in (("AA", "attack-autoattack"), ("AA+", "attack-autoattack-plus")):
        wanted = (f"{name}-test", f"{name}-train")
        ensembles = [record for record in records if record.name in wanted]
        groups = _distinct(ensembles, lambda record: threat_text(record.protocol))
        for ball, group in groups.items():
            attacks = ", ".join(stage["stage"] for stage in group[0].protocol.get("stages") or ())
            attacked = f"{_first(group)}{_examples(group, 'rerr')}"
            yield f"RErr and RLoss ({title}): AutoAttack ({attacks}), {ball}; {attacked}."
    for case in ("average", "worst"):
        start = f"flatness-{case}-"
        flatness = [record for record in records if record.name.startswith(start)]
        groups = _distinct(flatness, weights_text)
        for weights, group in groups.items():
            title = f"{case.capitalize()}-case flatness"
            if len(groups) > 1:
                names = dict.fromkeys(record.name.removeprefix(start) for record in group)
                title += f" ({', '.join(names)})"
            parts = [weights, *_distinct(group, inputs_text), _samples(group)]
            yield f"{title}: {'; '.join(filter(None, parts))}."


def _attack(record: Record) -> str:
    return attack_text(record.protocol.get("attack"))


def weights_text(record: Record) -> str:
    """How the weights of a flatness record were perturbed."""
    protocol, xi = record.protocol, radius(record)
    if "-average-" in record.name:
        parts = listed(protocol, samples="{} random weights per batch")
    else:
        parts = listed(
            protocol,
            steps="{} steps",
            restarts="{} restarts per batch",
            weight_step_size="weight step {:g}",
        )
    if xi is not None:
        per = setting(protocol["ball"], "per")
        norm = f" of each {per}'s norm" if per else ""
        parts.append(f"weights within ξ = {xi:g}{norm}")
    return "; ".join(parts)


def inputs_text(record: Record) -> str:
    """How the inputs of a flatness record of RLoss were attacked."""
    protocol = record.protocol
    attack, reference = protocol.get("attack"), protocol.get("reference")
    if "-average-" in record.name:
        parts = [f"RLoss by {attack_text(attack)}"] if attack else []
    elif threat := threat_text(protocol):
        parts = [f"RLoss jointly with inputs within {threat}"]
        parts += listed(protocol, input_step_size="input step {:g}")
    else:
        parts = []
    if reference:
        parts.append(f"reference by {attack_name(reference)}")
    return ", ".join(parts)


def _samples(records: Sequence[Record]) -> str:
    """On which examples flatness was measured."""
    examples = _examples(records, "flatness")
    size = setting(records[0].protocol, "batch_size")
    batches = f" in batches of {size}" if size else ""
    return f"{_first(records)}{examples}{batches}" if examples else ""


def _examples(records: Iterable[Record], value: str) -> str:
    """How many examples the values are means of: "1,000 test and 360 train"."""
    counts = {
        f"{number:,} {record.split}": None
        for record in records
        if (number := record.value(value).examples)
    }
    return f"{' and '.join(counts)} examples" if counts else ""


def _first(records: Iterable[Record]) -> str:
    """`the first ` where the examples are the first of their splits."""
    examples = (record.protocol.get("examples") or {} for record in records)
    return "the first " if all(entry.get("first") == 0 for entry in examples) else ""


def _machine(record: Record) -> str:
    """Seed, numerics, device and software."""
    return ", ".join(_machine_parts(record).values())


def _machine_parts(record: Record) -> dict[str, str]:
    protocol = record.protocol
    parts = {
        key: text.format(protocol[key])
        for key, text in (
            ("seed", "seed {}"),
            ("dtype", "{}"),
            ("exported", "exported model {:.12}"),
            ("zoo", "zoo:{}"),
            ("weights", "weights {:.12}"),
            ("matmul_precision", "matmul precision {}"),
        )
        if protocol.get(key) is not None
    }
    device = protocol.get("device") or {}
    kind, platform = device.get("kind"), device.get("platform")
    if kind or platform:
        named = f"{platform} ({kind})" if kind and platform not in (None, kind) else ""
        parts["device"] = f"{device.get('count', 1)} × {named or kind or platform}"
    versions = protocol.get("versions") or {}
    parts |= {package: f"{package} {version}" for package, version in versions.items()}
    if git := protocol.get("git"):
        revision = git.get("revision") if isinstance(git, Mapping) else git
        short = re.sub(r"\b([0-9a-f]{12})[0-9a-f]+", r"\1", str(revision))
        parts["git"] = f"git {short}"
    return parts
