"""``rfm zoo``, and runs by ``--model`` and ``--weights``, as users have them."""

import csv
import io
import json
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from rfm import models
from rfm.models import zoo

# Measures of seconds.
SMALL = (
    "--config.model.width=4",
    "--config.train.batch_size=32",
    "--config.evaluation.examples=16",
    "--config.evaluation.batch_size=16",
    "--config.evaluation.clean_train_examples=16",
    "--config.evaluation.steps=2",
    "--config.evaluation.restarts=1",
    "--config.evaluation.autoattack=none",
    "--config.snapshots.examples=16",
    "--config.flatness.average.samples=2",
    "--config.flatness.average.steps=1",
    "--config.flatness.worst.steps=1",
    "--config.flatness.worst.restarts=1",
)


def make(name: str, **changes):
    """A network of the zoo with 4 channels, and random variables for it."""
    arguments = {**zoo.find(name).arguments, "width": 4, **changes}
    module = models.create(classes=10, **arguments)
    variables = models.initialise(module, jax.random.key(0), (16, 16, 3))
    # Statistics that are not those of the initialisation.
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda v: v + rng.uniform(0, 0.2, v.shape).astype("f4"), variables)
    return module, *variables


@pytest.fixture(scope="module")
def network():
    return make("Wong2020Fast")


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> Path:
    """As published: without the statistics for whitening, behind a prefix."""
    module, *variables = network
    published = models.to_torch(*variables, module)
    path = tmp_path_factory.mktemp("downloads") / "Wong2020Fast.npz"
    whitening = ("mu", "sigma")
    np.savez(path, **{f"module.{k}": v for k, v in published.items() if k not in whitening})
    return path


@pytest.fixture(scope="module")
def small(cifar10, tmp_path_factory) -> tuple[str, ...]:
    """Flags for measures on the middle of a few real images of CIFAR-10."""
    path = tmp_path_factory.mktemp("data") / "middle.npz"
    middle = {k: v[:, 8:24, 8:24] if k[0] == "x" else v for k, v in cifar10.items()}
    np.savez(path, **middle)
    return (f"--config.data.source={path}", *SMALL)


def record(workdir: Path, name: str) -> dict:
    (path,) = workdir.glob(f"records/*/{name}.json")
    return json.loads(path.read_text())


def modified(workdir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in workdir.glob("records/*/*.json")}


@pytest.fixture(scope="module")
def measured(start, quick_rfm, weights, small, tmp_path_factory) -> tuple[Path, str]:
    """The default workdir of a run that was killed once, and what the second one said."""
    here = tmp_path_factory.mktemp("here")
    command = ("run", "--model", "zoo:Wong2020Fast", "--weights", weights, *small)
    process = start(*command, cwd=here)
    while not list(here.glob("runs/*/records/*/*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    workdir = here / "runs/zoo-Wong2020Fast"
    before = modified(workdir)
    result = quick_rfm(*command, cwd=here)
    assert (result.status, result.err) == (0, ""), result
    after = modified(workdir)
    assert {name: after[name] for name in before} == before, "finished records are kept"
    return workdir, result.out


def test_a_run_evaluates_and_measures_without_training(measured):
    workdir, out = measured
    names = {f"flatness-{c}-{v}-test" for c in ("average", "worst") for v in ("loss", "rloss")}
    names |= {"evaluation-test", "evaluation-train"}
    assert {name.removesuffix(".json") for name in modified(workdir)} == names
    assert not (workdir / "checkpoints").exists()
    assert not (workdir / "metrics.jsonl").exists()
    assert "Results of Wong2020Fast" in out
    assert out.splitlines()[-1] == f"report: {workdir / 'report.html'}"


def test_the_numbers_are_those_of_the_network(measured, network, cifar10):
    module, params, batch_stats = network
    found = record(measured[0], "evaluation-test")
    x = cifar10["x_test"][:, 8:24, 8:24].astype(np.float32) / 255
    logits = models.apply_fn(module, batch_stats)(params, x)
    labels = cifar10["y_test"].astype(int)
    loss = -jax.nn.log_softmax(logits)[np.arange(len(x)), labels]
    assert found["values"]["loss"]["value"] == pytest.approx(float(loss.mean()), rel=1e-4)
    assert found["values"]["err"]["value"] == float((logits.argmax(-1) != labels).mean())


def test_records_say_whose_weights_they_are_of(measured, weights):
    for name in ("evaluation-test", "flatness-worst-rloss-test"):
        found = record(measured[0], name)
        assert (found["checkpoint"], found["step"], found["epoch"]) == ("imported", 0, None)
        assert found["protocol"]["zoo"] == "Wong2020Fast"
        assert len(found["protocol"]["weights"]) == 64
    config = json.loads((measured[0] / "config.json").read_text())
    assert config["name"] == "Wong2020Fast"
    assert config["model"]["weights"] == str(weights)
    assert config["model"]["weights_sha256"] == found["protocol"]["weights"]
    assert config["data"]["crop"] == 4, "the rest is that of cifar10"


def test_the_report_says_so_too(measured):
    page = (measured[0] / "report.html").read_text()
    assert re.search(r"<title>\s*Wong2020Fast\b", page)
    assert "This report measures imported weights, “Wong2020Fast”." in page
    assert "zoo:Wong2020Fast, weights " in page
    assert "training steps" not in page
    table = (measured[0] / "report/table.md").read_text()
    assert "Checkpoint: imported weights." in table


def test_again_by_its_folder_or_its_flags_nothing_is_measured_anew(measured, quick_rfm, weights):
    workdir, _ = measured
    before = modified(workdir)
    flags = ("--model", "zoo:Wong2020Fast", "--weights", weights, "--config.model.width=4")
    for command in (("run", "--workdir", workdir), ("evaluate", "--workdir", workdir, *flags)):
        result = quick_rfm(*command)
        assert (result.status, result.err) == (0, ""), result
    result = quick_rfm("report", "--workdir", workdir)
    assert (result.status, result.err) == (0, ""), result
    assert modified(workdir) == before


def test_another_file_in_the_same_workdir_is_refused(measured, quick_rfm, weights, small, tmp_path):
    workdir, _ = measured
    changed = tmp_path / "Wong2020Fast.npz"
    with np.load(weights) as archive:
        np.savez(changed, **{**archive, "module.linear.bias": np.zeros(10, np.float32)})
    line = quick_rfm("run", "--workdir", workdir, "--weights", changed).line
    assert f"{changed} is not the file that {workdir} is about: its sha256 is" in line
    assert line.endswith("give another --workdir")
    flags = ("--config", "cifar10", "--model", "zoo:Wong2020Fast", "--weights", changed)
    line = quick_rfm("evaluate", "--workdir", workdir, *flags, *small).line
    assert "belongs to another config: config.model.weights is" in line
    # Exchanged under its name.
    other = Path(shutil.copytree(workdir, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["model"]["weights"] = str(changed)
    (other / "config.json").write_text(json.dumps(config))
    assert "is not the file that" in quick_rfm("run", "--workdir", other).line


def test_they_are_not_trained(measured, quick_rfm):
    line = quick_rfm("train", "--workdir", measured[0]).line
    assert "config.model.weights: imported weights cannot be trained" in line
    line = quick_rfm("run", "--workdir", measured[0], "--checkpoint", "best").line
    assert "a file of weights is one checkpoint; leave it out" in line


def test_a_report_of_many_runs_has_them(measured, trained, quick_rfm, tmp_path):
    shutil.copytree(measured[0], tmp_path / "zoo-Wong2020Fast")
    shutil.copytree(trained, tmp_path / "digits-at")
    result = quick_rfm("report", tmp_path)
    assert (result.status, result.err) == (0, ""), result
    page = (tmp_path / "report.html").read_text()
    assert "imported weights" in page
    assert re.search(r"Wong2020Fast +1 ", result.out), result.out


def test_weights_of_another_network_are_listed(quick_rfm, weights, small, tmp_path):
    flags = ("--weights", weights, *small, "--workdir", tmp_path / "w")
    line = quick_rfm("evaluate", "--config", "cifar10", "--model", "resnet18", *flags).line
    assert ": missing; " in line
    assert re.search(r"and \d+ more$", line)
    line = quick_rfm("evaluate", "--model", "zoo:Zhang2020Attacks", *flags).line
    assert "they have names of a " in line
    line = quick_rfm("evaluate", "--model", "zoo:Wong2020Fast", *flags, "--config.model.width=8")
    assert "module.layer1.0.bn2.weight: has shape (4,), not (8,)" in line.line
    assert not (tmp_path / "w").exists(), "nothing is claimed for weights that do not fit"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("run --model zoo:Wong2020", "no network zoo:Wong2020; did you mean zoo:Wong2020Fast?"),
        ("run --model zoo:Wong2020Fast", "needs --weights FILE: download Wong2020Fast.pt from"),
        ("run --config digits --model wrn82", "model.name 'wrn82' is not one of"),
        ("evaluate --weights absent.pt", "absent.pt: there is no such file"),
        ("attack --weights {place}/text.txt", "weights are .pt, .pth"),
        ("flatness --weights {place}/damaged.npz", "damaged.npz: damaged, or not an .npz"),
        ("curvature --weights {place}/damaged.safetensors", "not a .safetensors file"),
        ("run --weights ''", "--weights is empty"),
        ("run --model '' --weights a.npz", "--model is empty"),
        ("run --exported a.npz --weights b.npz", "--exported is a whole model, --weights"),
        ("train --weights a.npz", "unknown flag --weights"),
        (
            "evaluate --weights {weights} --model zoo:Wong2020Fast --config digits",
            "the 1 channels of digits",
        ),
        ("run --config digits --config.model.mean=(0.5,)", "config.model.mean and .std"),
        ("run --config digits --config.model.mean=(0,) --config.model.std=(0,)", "positive"),
        ("run --config.model.mean=(a,)", "config.model.mean: each entry must be a number"),
        ("run --config.model.cosine_scale=-1.0", "model.cosine_scale must be"),
        ("zoo --weights a.npz", "unknown flag --weights"),
        ("zoo --config digits", "unknown"),
    ],
)
def test_what_is_wrong_is_told(quick_rfm, weights, tmp_path, command, says):
    (tmp_path / "text.txt").write_text("hello")
    for ending in ("npz", "safetensors"):
        (tmp_path / f"damaged.{ending}").write_bytes(b"PK\x03\x04 and nothing more")
    words = command.format(place=tmp_path, weights=weights).split()
    words = ["" if word == "''" else word for word in words]
    assert says in quick_rfm(*words, cwd=tmp_path).line


def test_the_list_has_the_papers_numbers_and_where_to_get_weights(quick_rfm, rfm):
    for columns in (80, 120):
        result = quick_rfm("zoo") if columns == 80 else rfm("zoo", COLUMNS="120")
        assert (result.status, result.err) == (0, "")
        lines = result.out.splitlines()
        assert all(len(line) <= columns for line in lines), "it fits"
        (at,) = (i for i, line in enumerate(lines) if line.startswith("Carmon2019Unlabeled"))
        assert lines[at].split()[1:] == [
            *("WideResNet-28-10", "10.31", "37.6", "40.8", "0.7", "0.34", "40.47")
        ]
        below = " ".join(lines[at + 1 : at + 3])
        assert "Carmon2019Unlabeled.pt" in below
        assert zoo.find("Carmon2019Unlabeled").url in below
        for name, entry in zoo.ZOO.items():
            assert any(line.split()[:1] == [name] for line in lines)
            assert entry.file in result.out


def test_the_list_as_csv(quick_rfm):
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(quick_rfm("zoo", "--csv").out))}
    assert rows.keys() == zoo.ZOO.keys()
    pang = rows["Pang2020Boosting"]
    assert (pang["loss_test"], pang["average_rloss"], pang["worst_rloss"]) == (
        *("1.84", "0.08", "0.07"),
    )
    assert pang["published_rerr_aa"] == "46.26"
    assert rows["Gowal2020Uncovering_70_16"]["err_test"] == ""
    assert all(
        row["url"] and row["file"] and row["authors"] and row["paper"] for row in rows.values()
    )
