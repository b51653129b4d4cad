"""The benchmark of training and scaling: its counts, its arithmetic, what it leaves out."""

import argparse
import importlib
import json
import time
from pathlib import Path

import jax.numpy as jnp
import pytest
from jax import lax

from rfm import models

ROOT = Path(__file__).resolve().parent.parent
CPU = {"platform": "cpu", "device": "cpu", "devices": 2, "jax": "1", "torch": None}
CPU |= {"torch_cuda": False}
GPU = {**CPU, "platform": "gpu", "device": "NVIDIA H100", "devices": 1, "torch": "2"}
MACHINE = {"cpu": "some", "cores": 2, "git": "abc"}


@pytest.fixture(autouse=True)
def _repository(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def load(name):
    return importlib.import_module(f"benchmarks.{name}")


def options(*arguments):
    return load("scale")._parser().parse_args(arguments)


def row(part, name, found=None, about=CPU, **settings):
    made = {"part": part, "name": name, "about": about, "environment": MACHINE}
    made |= {"settings": settings}
    return made | ({"unmeasured": "why not"} if found is None else {"found": found})


@pytest.mark.parametrize("size", [1, 4, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("zeros", [True, False])
def test_operations_of_a_convolution_are_its_products(size, kernel, stride, zeros):
    pad = kernel // 2
    image = jnp.pad(jnp.ones((size, size)), pad, constant_values=float(zeros))
    # All ones: every output is the number of its products.
    image = jnp.broadcast_to(image[None, :, :, None], (1, *image.shape, 3))
    products = lax.conv_general_dilated(
        image,
        jnp.ones((kernel, kernel, 3, 5)),
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    convolution = load("flops").Convolution(size, 3, 5, kernel, stride)
    assert convolution.outputs == products.shape[1]
    assert convolution.flops(zeros=zeros) == 2 * products.sum()


@pytest.mark.parametrize(
    ("name", "stages", "width", "stem"),
    [
        ("resnet18", (2, 2, 2, 2), 64, 64),
        ("resnet8", (1, 1, 1), 64, 64),
        ("wrn28", (4, 4, 4), 160, 16),
    ],
)
def test_count_by_hand_agrees_with_xla(name, stages, width, stem):
    flops = load("flops")
    model = models.create(name, classes=10, width=width, mean=(0.5,) * 3, std=(0.2,) * 3)
    found, by_hand = flops.counted(model), flops.forward(stages, width, stem=stem)
    assert by_hand < found["forward"] < 1.01 * by_hand  # XLA counts normalisation, too
    assert found["input_gradient"] == pytest.approx(2 * by_hand, rel=0.01)
    first = next(flops.convolutions(stages, width, stem=stem)).flops(zeros=False)
    assert found["gradient"] == pytest.approx(3 * by_hand - first, rel=0.01)


def test_resnet18_has_the_operations_that_papers_give():
    assert load("flops").forward((2, 2, 2, 2), 64, zeros=True) == pytest.approx(2 * 0.556e9, 1e-2)


def test_step_is_the_attack_and_the_update():
    assert load("flops").of_step(1.0, 2.0, 3.0, steps=7) == 7 * 2 + 1 + 3


def test_peak_is_of_the_fastest_call():
    found = load("flops").peak("float32", (32, 64), repeats=2)
    assert list(found) == ["32", "64"]
    for size, of_size in found.items():
        assert len(of_size["seconds"]) == 2
        rate = of_size["flops_per_second"] * min(of_size["seconds"])
        assert rate == pytest.approx(16 * 2 * int(size) ** 3)


def test_rates_epochs_utilisation_and_efficiency():
    table = load("scale_table")
    workload = {"network": "n", "width": 1, "dtype": "float32"}
    found = {"examples": 100, "seconds": [4.0, 2.0, 1.0], "devices": 2}
    on_two = row("throughput", "two", found, GPU, workload=workload)
    alone = row("throughput", "one", {**found, "devices": 1}, GPU, workload=workload)
    assert table.epoch_seconds(on_two) == 50_000 / 50
    assert table.efficiency(on_two, alone) == 0.5
    counts = [{"network": "n", "width": 1, "step": 10.0}]
    peaks = {"float32": {"8": {"flops_per_second": 400.0}, "4": {"flops_per_second": 1000.0}}}
    record = {"rows": [row("mfu", table.UTILISATION, {"counts": counts, "peaks": peaks})]}
    assert table.utilisation(on_two, record) == 50 * 10 / (2 * 1000)
    other = row("throughput", "x", found, workload={**workload, "dtype": "bfloat16"})
    assert table.utilisation(other, record) is None


def test_validation_does_not_count_as_outside_of_the_step():
    found = {"loop_seconds": 120.0, "dispatch_seconds": 98.0, "validation_seconds": 20.0}
    assert load("scale_table").outside_share(row("outside", "x", found)) == pytest.approx(0.02)


def test_a_row_is_extrapolated_from_its_parts():
    table = load("scale_table")
    loop = {"loop_seconds": 20.0, "epochs": 2.0, "start_seconds": 5.0}
    piece = {"seconds": 3.0, "batches": 8, "compile_seconds": 7.0}
    rows = [
        row("outside", "x", loop, row_epochs=150),
        row("row", table.MEASURES, {"pieces": {"a": piece, "b": piece}, "times": 30}),
        row("row", table.SNAPSHOTS, {"pieces": {"a": piece}, "times": 30}),
        row("row", table.AUTOATTACK, {"seconds": 2.0, "batches": 8, "compile_seconds": 7.0}),
    ]
    seconds = list(table.row_seconds({"rows": rows}).values())
    assert seconds == [150 * 10 + 5, 2 * (24 + 7), 30 * 24 + 7, 2 * 8 + 7]


def test_what_is_unmeasured_replaces_nothing_and_is_told(tmp_path):
    scale, table, path = load("scale"), load("scale_table"), tmp_path / "a-machine.json"
    found = {"examples": 1, "seconds": [1.0], "devices": 1, "compile_seconds": 1.0}
    found |= {"peak_bytes": None}
    workload = {"network": "n", "width": 1, "dtype": "float32", "batch": 1}
    scale.keep(row("throughput", "kept", workload=workload), path)
    scale.keep(row("throughput", "kept", found, workload=workload), path)
    scale.keep(row("throughput", "lacking", workload=workload), path)
    scale.keep(row("throughput", "kept", workload=workload), path)
    record = json.loads(path.read_text())
    assert [("found" in r, r["name"]) for r in record["rows"]] == [
        (True, "kept"),
        (False, "lacking"),
    ]
    text = table.markdown(record)
    assert "- Unmeasured: lacking: why not" in text
    for part in load("scale_plan").PARTS[1:]:
        assert f"- Unmeasured: nothing (`--only {part}`)" in text
    assert text.count("needs a GPU") == 6


@pytest.mark.parametrize("about", [CPU, GPU, {**GPU, "devices": 8, "torch_cuda": True}])
def test_plan_names_every_row_once_and_says_what_it_cannot_measure(about):
    plan = load("scale_plan")
    pieces = list(plan.pieces(about, options(), "some.npz"))
    names = [(piece.part, piece.name) for piece in pieces]
    assert len(set(names)) == len(names)
    assert {part for part, _ in names} == set(plan.PARTS)
    for piece in pieces:
        module, function = piece.function.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        json.dumps([piece.settings, piece.environment])
        if piece.part == "torch":
            assert bool(piece.missing) != about["torch_cuda"]
        if plan.WIDE[0] in piece.name:
            assert bool(piece.missing) == (about is CPU)
    scaling = [piece for piece in pieces if piece.part == "scaling"]
    assert {piece.processes for piece in scaling} == {1, 2, 4, 8}
    for piece in scaling:
        assert piece.settings["workload"]["batch"] % piece.processes == 0


def test_what_does_not_end_in_time_is_ended(tmp_path):
    scale = load("scale")
    piece = load("scale_plan").Piece(
        "", "", "benchmarks.scale_parts:about", {"peer_python": "python"}
    )
    with pytest.raises(RuntimeError, match="the time was up"):
        scale.measure(piece, tmp_path, time.monotonic() + 0.2)


def test_a_part_that_fails_says_why(tmp_path):
    scale = load("scale")
    piece = load("scale_plan").Piece("", "", "benchmarks.scale_parts:about", {"nothing": 1})
    with pytest.raises(RuntimeError, match="ended with status 1: TypeError"):
        scale.measure(piece, tmp_path, time.monotonic() + 120)


@pytest.mark.slow
def test_the_loop_outside_of_the_step_is_timed(tmp_path):
    config = {"file": "digits:at", "model.width": 2, "data.train_examples": 64}
    config |= {"train.batch_size": 32, "validation.examples": 32, "validation.restarts": 1}
    settings = {"config": config, "steps": 4}
    piece = load("scale_plan").Piece("", "", "benchmarks.scale_run:outside", settings)
    found = load("scale").measure(piece, tmp_path, time.monotonic() + 240)
    assert found["steps"] == 4
    assert found["epochs"] == found["dispatches"] == 2
    assert 0 < found["dispatch_seconds"] < found["loop_seconds"]


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit):
        options("--only", "throughput,nowhere")
    assert "nowhere" in capsys.readouterr().err
    assert isinstance(options("--only", "mfu,row"), argparse.Namespace)
