"""``--model``, ``--weights`` and ``--exported``: from flags to a config and a workdir."""

import json
from pathlib import Path

import pytest

from rfm.cli.config import resolve
from rfm.cli.model_flags import ModelFlags
from rfm.errors import UserError
from rfm.models import imported, zoo


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolved(*overrides, config=None, workdir=None, **flags):
    return resolve(config, workdir, overrides, model=ModelFlags(**flags))


def test_a_network_of_the_zoo(here):
    config, workdir = resolved(model="zoo:Pang2020Boosting", weights="p.pt")
    assert workdir == Path("runs/zoo-Pang2020Boosting")
    assert (config.name, config.model.zoo) == ("Pang2020Boosting", "Pang2020Boosting")
    assert config.data.source == "tfds:cifar10"
    assert config.model.weights == str(here / "p.pt")
    for field, value in zoo.find("Pang2020Boosting").arguments.items():
        assert config.model[field] == value
    assert config.model.cosine_scale == 1.0


@pytest.mark.parametrize(
    ("config", "workdir"),
    [
        ("cifar10", "zoo-Wong2020Fast"),
        ("cifar10.py:at", "zoo-Wong2020Fast"),
        ("cifar10_small:trades-6", "zoo-Wong2020Fast-cifar10_small"),
        ("configs/digits.py", "zoo-Wong2020Fast-digits"),
    ],
)
def test_other_configs_have_other_workdirs(config, workdir):
    _, found = resolved(config=config, model="zoo:Wong2020Fast", weights="w.pt")
    assert found == Path("runs") / workdir


def test_weights_alone_are_of_the_configs_network():
    config, workdir = resolved(config="digits", weights="a/mine.v2.npz")
    assert workdir == Path("runs/weights-mine.v2")
    assert (config.name, config.model.name, config.model.width) == ("mine.v2", "resnet8", 16)
    assert (config.model.zoo, config.model.mean) == ("", ())


def test_overrides_win():
    flags = {"model": "zoo:Wong2020Fast", "weights": "w.pt"}
    fields = ("--config.model.width=4", "--config.name=mine", "--config.model.mean=(0,0.5,1)")
    config, workdir = resolved(*fields, workdir="elsewhere", **flags)
    assert (config.name, config.model.width, config.model.mean) == ("mine", 4, (0, 0.5, 1))
    assert workdir == Path("elsewhere")
    assert resolved("--config.model.weights=w.pt", model="zoo:Wong2020Fast")[0].model.weights


def test_an_architecture_alone_is_trained():
    config, workdir = resolved(model="wrn28")
    assert (config.model.name, config.name, config.model.weights) == ("wrn28", "at", "")
    assert workdir == Path("runs/digits-at")


def test_a_stored_config_is_gone_on_with(here):
    config, _ = resolved("--config.seed=3", model="zoo:Wong2020Fast", weights="w.pt")
    folder = here / "runs/zoo-Wong2020Fast"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    again, _ = resolved(workdir=str(folder))
    assert again.to_dict() == config.to_dict()
    # The folder that the flags lead to.
    again, workdir = resolved(model="zoo:Wong2020Fast")
    assert (again.seed, workdir) == (3, Path("runs/zoo-Wong2020Fast"))


def described(path: Path, **changes) -> Path:
    """Beside `path` the JSON of a network."""
    arguments = {**zoo.find("Wong2020Fast").arguments, **changes}
    about = imported.description(arguments, image_shape=(32, 32, 3), classes=10)
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


def test_a_file_says_itself_what_it_is_of(here):
    file = described(here / "w.safetensors", width=12, activation="gelu", cosine_scale=2)
    config, _ = resolved(weights=str(file))
    model = config.model
    assert (model.name, model.width, model.activation) == ("preact_resnet18", 12, "gelu")
    assert (model.cosine_scale, model.mean) == (2.0, (0.4914, 0.4822, 0.4465))
    assert resolved("--config.model.width=8", weights=str(file))[0].model.width == 8
    assert resolved(model="preact_resnet18", weights=str(file))[0].model.width == 12


def test_what_a_file_says_is_not_contradicted(here):
    file = str(described(here / "w.safetensors", width=12))
    with pytest.raises(UserError, match=r"w.json says .* of model.name 'preact_resnet18', and"):
        resolved(model="wrn28", weights=file)
    with pytest.raises(UserError, match=r"of model.width 12, and --model that they are of 64"):
        resolved(model="zoo:Wong2020Fast", weights=file)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"model": "zoo:Carmon2019"}, r"no network zoo:Carmon2019; did you mean zoo:Carmon2019Un"),
        (
            {"model": "zoo:Carmon2019Unlabeled"},
            r"needs --weights FILE: download Carmon2019Unlabeled.pt from https://drive.google.com",
        ),
        ({"exported": "a", "weights": "b"}, r"--exported is a whole model, --weights describes"),
        ({"exported": "a", "model": "wrn28"}, r"--exported is a whole model, --model describes"),
    ],
)
def test_what_is_wrong_is_told(flags, says):
    with pytest.raises(UserError, match=says):
        resolved(**flags)
