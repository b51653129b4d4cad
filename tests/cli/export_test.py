"""``rfm export``: what each format holds, and that it comes back as the same network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rfm import data, models
from rfm.models import imported


@pytest.fixture(scope="module")
def measured(trained, quick_rfm, tmp_path_factory) -> Path:
    """The finished training, evaluated."""
    workdir = Path(shutil.copytree(trained, tmp_path_factory.mktemp("measured") / "run"))
    result = quick_rfm("evaluate", "--workdir", workdir)
    assert (result.status, result.err) == (0, ""), result
    return workdir


@pytest.fixture(scope="module")
def files(measured, quick_rfm) -> dict[str, Path]:
    """What each format wrote."""
    made = {}
    for name in ("safetensors", "torch"):
        result = quick_rfm("export", "--workdir", measured, "--format", name)
        assert (result.status, result.err) == (0, ""), result
        made[name] = Path(result.out.strip().removeprefix("exported: "))
    return made


@pytest.fixture(scope="module")
def same_data(tiny) -> tuple[str, ...]:
    """The flags that made `trained`, without those of its model."""
    return tuple(flag for flag in tiny if not flag.startswith("--config.model."))


def record(workdir: Path, name: str) -> dict:
    (path,) = workdir.glob(f"records/*/{name}.json")
    return json.loads(path.read_text())


def test_files_are_called_after_the_run(measured, files):
    assert files["safetensors"] == measured / "exported/at-15.safetensors"
    assert files["torch"] == measured / "exported/at-15-torch.safetensors"


@pytest.mark.parametrize("name", ["safetensors", "torch"])
def test_the_json_says_what_network_it_is(files, measured, name):
    about = json.loads(files[name].with_suffix(".json").read_text())
    assert about["model"].items() >= {"name": "resnet8", "width": 4, "activation": "relu"}.items()
    assert len(about["model"]["mean"]) == 1, "that of the images it was trained on"
    assert (about["image_shape"], about["classes"]) == ([8, 8, 1], 10)
    assert (about["step"], about["checkpoint"], about["run"]) == (15, "final", "at")
    assert about["config"] == json.loads((measured / "config.json").read_text())
    found = imported.about(str(files[name]))
    assert found is not None
    assert found.arguments["std"] == pytest.approx(about["model"]["std"])


def test_names_are_the_librarys_and_the_published_ones(files):
    own, published = (load_file(files[name]) for name in ("safetensors", "torch"))
    assert {"params/stem/conv/kernel", "batch_stats/stem_norm/var"} < own.keys()
    assert {"conv1.weight", "bn1.running_var", "linear.bias", "mu", "sigma"} < published.keys()
    kernel = own["params/stem/conv/kernel"]
    np.testing.assert_array_equal(published["conv1.weight"], kernel.transpose(3, 2, 0, 1))
    found = imported.about(str(files["torch"]))
    module = models.create(classes=10, **found.arguments)
    again = imported.own_names(*models.from_torch(published, module))
    assert again.keys() == own.keys()
    for name in own:
        np.testing.assert_allclose(again[name], own[name], atol=1e-7)


@pytest.mark.parametrize("name", ["safetensors", "torch"])
def test_it_comes_back_with_equal_numbers(files, measured, quick_rfm, same_data, tmp_path, name):
    flags = ("--model", "resnet8", "--weights", files[name], *same_data)
    result = quick_rfm("evaluate", *flags, cwd=tmp_path)
    assert (result.status, result.err) == (0, ""), result
    assert f"Results of {files[name].stem}" in result.out
    workdir = tmp_path / f"runs/weights-{files[name].stem}"
    for split in ("test", "train"):
        one, two = (record(place, f"evaluation-{split}") for place in (measured, workdir))
        assert one["values"] == two["values"]
        assert one["per_example"] == two["per_example"]


def test_pytorch_loads_it_strictly_and_its_checkpoint_comes_back(
    files, measured, quick_rfm, same_data, tmp_path
):
    torch = pytest.importorskip(
        "torch", reason="loads into PyTorch: pip install 'robust-flat-minima[torch]'"
    )
    import torch_reference
    from safetensors.torch import load_file as load_tensors

    about = imported.about(str(files["torch"]))
    whitening = {name: about.arguments[name] for name in ("mean", "std")}
    module = torch_reference.ResNet(torch_reference.BasicBlock, (1, 1, 1), 4, **whitening)
    module.load_state_dict(load_tensors(files["torch"]), strict=True)

    digits = data.load("digits").test_images[:64]
    with torch.no_grad():
        logits = module.eval()(torch.tensor(digits).permute(0, 3, 1, 2) / 255).numpy()
    found = record(measured, "evaluation-test")["per_example"]["correct"]
    labels = data.load("digits").test_labels[:64]
    np.testing.assert_array_equal(logits.argmax(-1) == labels, found)

    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "theirs.pt")
    flags = ("--model", "resnet8", "--config.model.width=4", *same_data)
    result = quick_rfm("evaluate", "--weights", "theirs.pt", *flags, cwd=tmp_path)
    assert (result.status, result.err) == (0, ""), result
    again = record(tmp_path / "runs/weights-theirs", "evaluation-test")
    assert again["per_example"] == record(measured, "evaluation-test")["per_example"]


def test_without_the_json_the_flags_say_what_it_is(files, measured, quick_rfm, same_data, tmp_path):
    file = Path(shutil.copy(files["torch"], tmp_path / "mine.safetensors"))
    line = quick_rfm("evaluate", "--weights", file, *same_data, cwd=tmp_path).line
    assert "conv1.weight: has shape (4, 1, 3, 3), not (16, 1, 3, 3)" in line
    flags = ("--weights", file, *same_data, "--config.model.width=4")
    wrong = ("--config.model.mean=(0.5,)", "--config.model.std=(1,)")
    line = quick_rfm("evaluate", *flags, *wrong, cwd=tmp_path).line
    assert "mu: whitens with (" in line
    assert "model.mean is (0.5)" in line
    result = quick_rfm("evaluate", *flags, cwd=tmp_path)
    assert (result.status, result.err) == (0, ""), result
    workdir = tmp_path / "runs/weights-mine"
    one, two = (record(place, "evaluation-test") for place in (measured, workdir))
    assert one["per_example"] == two["per_example"]


def test_every_measure_takes_weights(files, quick_rfm, same_data, tmp_path):
    workdir = tmp_path / "w"
    few = ("--config.evaluation.examples=8", "--config.evaluation.batch_size=8")
    flags = ("--weights", files["safetensors"], *same_data, *few, "--workdir", workdir)
    for command in (
        ("run", "--config.evaluation.autoattack=standard"),
        ("attack", "--attack", "square", "--config.evaluation.examples=4"),
        ("curvature", "--config.curvature.examples=8", "--config.curvature.products=2"),
        ("flatness", "--rescale", "2", "--config.curvature.examples=8"),
        (
            *("landscape", "--kinds", "random", "--losses", "loss"),
            *("--config.landscape.steps=3", "--config.landscape.directions=1"),
        ),
    ):
        result = quick_rfm(*command, *flags)
        assert (result.status, result.err) == (0, ""), result
    names = {path.stem for path in workdir.glob("records/00000000/*.json")}
    assert names > {
        *("evaluation-test", "flatness-worst-rloss-test", "attack-autoattack-test"),
        *("attack-square-test", "curvature-loss-test", "landscape-random-loss-test"),
        *("evaluation-test-scaled-2", "flatness-average-rloss-test-scaled-2"),
    }
    plain, scaled = (record(workdir, f"evaluation-test{end}") for end in ("", "-scaled-2"))
    assert plain["values"]["err"] == scaled["values"]["err"], "the same function"


def test_a_run_of_an_exported_model_trains_nothing_either(measured, quick_rfm, same_data, tmp_path):
    model = tmp_path / "model.npz"
    assert quick_rfm("export", "--workdir", measured, "--out", model).status == 0
    result = quick_rfm("run", "--exported", model, *same_data, cwd=tmp_path)
    assert (result.status, result.err) == (0, ""), result
    workdir = tmp_path / "runs/exported-model"
    one, two = (record(place, "evaluation-test") for place in (measured, workdir))
    assert one["per_example"]["correct"] == two["per_example"]["correct"]
    assert record(workdir, "flatness-average-rloss-test")
    page = (workdir / "report.html").read_text()
    assert "This report measures an exported model, “at”." in page
    line = quick_rfm("export", "--workdir", workdir, "--format", "torch").line
    assert "an exported model is a program, whose layers have no names" in line


def test_imported_weights_are_exported_as_a_program(
    files, measured, quick_rfm, same_data, tmp_path
):
    """From published names to one that needs no code of the network."""
    flags = ("--weights", files["torch"], *same_data, "--workdir", tmp_path / "w")
    result = quick_rfm("export", *flags, "--out", tmp_path / "program.npz")
    assert (result.status, result.err) == (0, ""), result
    result = quick_rfm("evaluate", "--exported", tmp_path / "program.npz", *same_data, cwd=tmp_path)
    assert (result.status, result.err) == (0, ""), result
    there = tmp_path / "runs/exported-program"
    one, two = (record(place, "evaluation-test") for place in (measured, there))
    assert one["per_example"]["correct"] == two["per_example"]["correct"]


def test_weights_of_other_images_are_told(files, quick_rfm, cifar10, tmp_path):
    pixels = cifar10["x_test"][:40, :8, :12, :1]
    labels = cifar10["y_test"][:40]
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    np.savez(tmp_path / "other.npz", **arrays)
    flags = ("--config.data.source=other.npz", "--config.train.batch_size=8")
    measures = ("--config.evaluation.examples=8", "--config.snapshots.examples=8")
    line = quick_rfm(
        *("evaluate", "--weights", files["safetensors"], *flags, *measures), cwd=tmp_path
    ).line
    assert "at-15.safetensors is for images (8, 8, 1), but other.npz has (8, 12, 1)" in line
    assert line.endswith("give the --config of its data")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--format", "pt"), "argument --format: invalid choice: 'pt'"),
        (
            ("--format", "torch", "--out", "model.pt"),
            "--out model.pt: the name of a --format torch",
        ),
        (("--out", "model.safetensors"), "--out model.safetensors: say --format safetensors"),
        (("--format", "safetensors", "--checkpoint", "3"), "no checkpoint '3'"),
        (("--exported", "x.npz"), "unknown flag --exported"),
    ],
)
def test_what_is_wrong_is_told(measured, quick_rfm, tmp_path, flags, says):
    assert says in quick_rfm("export", "--workdir", measured, *flags, cwd=tmp_path).line


def test_a_json_of_somebody_else_is_not_overwritten(measured, quick_rfm):
    before = (measured / "config.json").read_bytes()
    flags = ("--format", "safetensors", "--out", measured / "config.safetensors")
    line = quick_rfm("export", "--workdir", measured, *flags).line
    assert "config.json would be overwritten" in line
    assert (measured / "config.json").read_bytes() == before
