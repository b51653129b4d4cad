"""The tables of `benchmarks.scale`: from a record alone, what is missing in it included."""

import statistics
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
TRAINING_SET = 50_000  # of CIFAR-10; what an epoch is
EPOCHS = 150  # of a row of the paper's table
UTILISATION = "operations and peak"
MEASURES, SNAPSHOTS, AUTOATTACK = "measures at the end", "measures at a snapshot", "AutoAttack"
TITLES = {
    "throughput": "Training alone: examples per second",
    "torch": "A step beside PyTorch",
    "mfu": "Operations and peak",
    "compile": "Compilation",
    "outside": "Outside of the compiled step",
    "row": "A row of the table: training, evaluation, flatness",
    "scaling": "Scaling",
}


def markdown(record: dict[str, Any]) -> str:
    """All tables of one machine."""
    makers = {
        "throughput": _throughput,
        "torch": _torch,
        "mfu": _mfu,
        "compile": _compile,
        "outside": _outside,
        "row": _row,
        "scaling": _scaling,
    }
    lines = [f"### {record['machine']}", "", *_describe(record), ""]
    for part, make in makers.items():
        rows = [row for row in record["rows"] if row["part"] == part]
        measured = [row for row in rows if "found" in row]
        made = list(make(measured, record)) if measured else []
        lines += [f"**{TITLES[part]}**", "", *made, *([""] if made else [])]
        missing = [f"{row['name']}: {row['unmeasured']}" for row in rows if "unmeasured" in row]
        if not rows:
            missing = [f"nothing (`--only {part}`)"]
        lines += [*(f"- Unmeasured: {what}" for what in missing), *([""] if missing else [])]
    lines += ["**Aims on one H100**", "", "| | aim | here |", "|---|---:|---:|", *_aims(record), ""]
    return "\n".join(lines)


def _describe(record: dict[str, Any]) -> Iterator[str]:
    """Where the rows come from; more than one line if they differ."""
    known = []
    for row in record["rows"]:
        about, environment = row["about"], row["environment"]
        line = (
            f"{about['devices']} x {about['device']}; {environment['cpu']},"
            f" {environment['cores']} cores; jax {about['jax']}, torch {about['torch'] or 'none'};"
            f" revision {environment['git']}."
        )
        if line not in known:
            known.append(line)
            yield line
    busiest = max((row.get("busy_before", 0.0) for row in record["rows"]), default=0.0)
    if busiest > 0.05:
        yield f"Other work kept up to {busiest:.0%} of the cores busy: these are not quiet timings."


def _spread(values: list[float], digits: int = 3) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"


def rates(row: Row) -> list[float]:
    """Examples per second on all devices together, of every repetition."""
    return [row["found"]["examples"] / seconds for seconds in row["found"]["seconds"]]


def epoch_seconds(row: Row) -> float:
    """Of 50,000 examples, in the median."""
    return TRAINING_SET / statistics.median(rates(row))


def utilisation(row: Row, record: dict[str, Any]) -> float | None:
    """Share of the measured peak that the operations of training need; None if not known."""
    found = _found(record, "mfu", UTILISATION)
    workload = row["settings"]["workload"]
    sizes = (found or {}).get("peaks", {}).get(workload["dtype"])
    steps = [
        count["step"]
        for count in (found or {}).get("counts", ())
        if (count["network"], count["width"]) == (workload["network"], workload["width"])
    ]
    if not sizes or not steps:
        return None
    peak = max(size["flops_per_second"] for size in sizes.values())
    # On CPU the product had all cores, and so all simulated devices together.
    units = 1 if row["about"]["platform"] == "cpu" else row["found"]["devices"]
    return statistics.median(rates(row)) * steps[0] / (peak * units)


def _throughput(rows: list[Row], record: dict[str, Any]) -> Iterator[str]:
    yield "| | examples/s/device | epoch of 50,000 (s) | of the peak | compilation (s) | GiB |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows:
        found, share = row["found"], utilisation(row, record)
        of_device = [rate / found["devices"] for rate in rates(row)]
        cells = [
            row["name"],
            _spread(of_device),
            f"{epoch_seconds(row):.3g}",
            "-" if share is None else f"{share:.1%}",
            f"{found['compile_seconds']:.0f}",
            f"{found['peak_bytes'] / 2**30:.2f}" if found["peak_bytes"] else "-",
        ]
        yield "| " + " | ".join(cells) + " |"


def _torch(rows: list[Row], record: dict[str, Any]) -> Iterator[str]:
    yield "| | rfm (s) | PyTorch (s) | PyTorch / rfm |"
    yield "|---|---:|---:|---:|"
    for row in rows:
        ours, theirs = (row["found"]["sides"][name]["seconds"] for name in ("rfm", "PyTorch"))
        pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
        ratio = statistics.median(theirs) / statistics.median(ours)
        cell = f"{ratio:.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        yield f"| {row['name']} | {_spread(ours)} | {_spread(theirs)} | {cell} |"


def _mfu(rows: list[Row], record: dict[str, Any]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---:|"
    for count in rows[0]["found"]["counts"]:
        name = f"{count['network']}, width {count['width']}"
        forward, by_hand = count["xla"]["forward"], count["by_hand"]
        yield f"| {name}: a step, per example (GFLOP, by XLA) | {count['step'] / 1e9:.4g} |"
        yield f"| {name}: forward (GFLOP, by XLA) | {forward / 1e9:.4g} |"
        if by_hand["forward"]:
            hand = [by_hand[key] / 1e9 for key in ("forward", "forward_with_zeros")]
            yield f"| the same by hand; with the products by zeros | {hand[0]:.4g}; {hand[1]:.4g} |"
    for dtype, sizes in rows[0]["found"]["peaks"].items():
        for size, found in sizes.items():
            rate = found["flops_per_second"] / 1e12
            yield f"| product of two {dtype} matrices of {size} (TFLOP/s) | {rate:.3g} |"


def _compile(rows: list[Row], record: dict[str, Any]) -> Iterator[str]:
    yield "| | programs in the cache | compilation (s) | first dispatch (s) | a dispatch (s) |"
    yield "|---|---:|---:|---:|---:|"
    for row in rows:
        found = row["found"]
        seconds = [found["compile_seconds"], found["first_call_seconds"], *found["seconds"][:1]]
        cells = " | ".join(f"{value:.2f}" for value in seconds)
        yield f"| {row['name']} | {found['cached_before']} | {cells} |"


def outside_share(row: Row) -> float:
    """Of the loop's time without validation, what is not in compiled steps."""
    found = row["found"]
    working = found["loop_seconds"] - found["validation_seconds"]
    return 1 - found["dispatch_seconds"] / working


def _outside(rows: list[Row], record: dict[str, Any]) -> Iterator[str]:
    yield (
        "| | epochs | loop (s) | in steps (s) | validation (s) | outside of both |"
        " of that, checkpoints (s) | start (s) |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        found = row["found"]
        names = ("loop_seconds", "dispatch_seconds", "validation_seconds")
        times = " | ".join(f"{found[name]:.1f}" for name in names)
        cells = f"{found['epochs']:.3g} | {times} | {outside_share(row):.2%}"
        more = " | ".join(f"{found[name]:.2f}" for name in ("checkpoint_seconds", "start_seconds"))
        yield f"| {row['name']} | {cells} | {more} |"


def row_seconds(record: dict[str, Any]) -> dict[str, float]:
    """A row's parts, extrapolated from one batch or some epochs each; those that are known."""
    parts: dict[str, float] = {}
    for row in record["rows"]:
        if row["part"] == "outside" and "found" in row:
            found, epochs = row["found"], row["settings"]["row_epochs"]
            # Epochs of the whole training set, of which some examples may have been left out.
            per_epoch = found["loop_seconds"] / found["epochs"]
            parts[f"training, {epochs} epochs"] = epochs * per_epoch + found["start_seconds"]
    for name in (MEASURES, SNAPSHOTS):
        found = _found(record, "row", name)
        if found:
            times = found["times"] if name == SNAPSHOTS else 1
            pieces = found["pieces"].values()
            once = sum(piece["seconds"] * piece["batches"] for piece in pieces)
            label = f"{name}, {times} times" if name == SNAPSHOTS else name
            parts[label] = times * once + sum(piece["compile_seconds"] for piece in pieces)
    found = _found(record, "row", AUTOATTACK)
    if found:
        seconds = found["seconds"] * found["batches"] + found["compile_seconds"]
        parts[f"{AUTOATTACK}, at most (nothing falls)"] = seconds
    return parts


def _row(rows: list[Row], record: dict[str, Any]) -> Iterator[str]:
    parts = row_seconds(record)
    config = rows[0]["settings"]["config"]["file"]
    yield f"**Extrapolated**, not measured, to the whole of `{config}`: from one batch of each"
    yield "measure and from the loop above. Reports and start-up are left out."
    yield ""
    yield "| | minutes |"
    yield "|---|---:|"
    for name, seconds in parts.items():
        yield f"| {name} | {seconds / 60:.1f} |"
    yield f"| sum of these | {sum(parts.values()) / 60:.1f} |"


def efficiency(row: Row, alone: Row) -> float:
    """The rate per device, relative to that of one device."""
    one, all_of_them = (statistics.median(rates(r)) for r in (alone, row))
    return all_of_them / one / row["found"]["devices"]


def _scaling(rows: list[Row], record: dict[str, Any]) -> Iterator[str]:
    first = rows[0]["settings"]["workload"]
    yield (
        f"{first['network']} of width {first['width']}, {first['dtype']}, on"
        f" {rows[0]['environment']['cores']} cores: more devices than cores cannot be faster,"
        " and the last column shows what they cost. Efficiency is the rate per device, relative to"
        " one device; per core, to as many devices as there are cores."
    )
    yield ""
    yield "| | devices | processes | batch | examples/s | efficiency | per core |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for row in sorted(rows, key=lambda row: row["settings"]["kind"]):  # "strong", "weak"
        found, workload = row["found"], row["settings"]["workload"]
        same = [r for r in rows if r["settings"]["kind"] == row["settings"]["kind"]]
        alone = next((r for r in same if r["found"]["devices"] == 1), None)
        share = efficiency(row, alone) if alone else None
        devices, cores = found["devices"], row["environment"]["cores"]
        shares = [share, share and share * devices / min(devices, cores)]
        cells = [
            row["settings"]["kind"],
            *map(str, (devices, found["processes"], workload["batch"])),
            _spread(rates(row)),
            *("-" if value is None else f"{value:.2f}" for value in shares),
        ]
        yield "| " + " | ".join(cells) + " |"


def _aims(record: dict[str, Any]) -> Iterator[str]:
    """What the project aims at, and what is known here; another device says nothing of it."""
    rows = [row for row in record["rows"] if "found" in row]
    on_gpu = any(row["about"]["platform"] == "gpu" for row in rows)
    unknown = "unmeasured" if on_gpu else "unmeasured: needs a GPU"

    def of(part: str, **workload: Any) -> list[Row]:
        asked = (("network", "resnet18"), ("width", 64), ("batch", 1024), *workload.items())
        return [
            row
            for row in rows
            if on_gpu
            and row["part"] == part
            and all(row["settings"]["workload"][name] == value for name, value in asked)
        ]

    for tuned, label in ((False, ""), (True, ", autotuned")):
        epochs = [epoch_seconds(row) for row in of("throughput") if bool(row["variables"]) == tuned]
        told = f"{min(epochs):.1f} s" if epochs else unknown
        yield f"| epoch at batch 1024{label} | 8 s | {told} |"
    for compiled, label, aim in ((False, "eager PyTorch", "3"), (True, "torch.compile", "above 1")):
        ratios = [1 / row["found"]["ratio"]["of_medians"] for row in of("torch", compiled=compiled)]
        yield f"| speed over {label} | {aim} | {f'{max(ratios):.2f}' if ratios else unknown} |"
    shares = [outside_share(row) for row in rows if row["part"] == "outside" and on_gpu]
    yield f"| outside of the compiled step | 2 % | {f'{max(shares):.2%}' if shares else unknown} |"
    parts = row_seconds(record) if on_gpu else {}
    told = f"{sum(parts.values()) / 60:.0f} min, extrapolated ({len(parts)} of 4 parts)"
    yield f"| a row of {EPOCHS} epochs | 30 min | {told if parts else unknown} |"


def _found(record: dict[str, Any], part: str, name: str) -> dict[str, Any] | None:
    rows = [r for r in record["rows"] if (r["part"], r["name"]) == (part, name)]
    return rows[0].get("found") if rows else None
