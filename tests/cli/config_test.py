"""Which config and which workdir a command means, and what the help says."""

import json
from pathlib import Path

import pytest
from rfm.configs import cifar10, digits

from rfm.cli.config import resolve
from rfm.cli.parser import parse
from rfm.errors import UserError

MINE = """
from rfm.configs import digits

def get_config(method="at"):
    config = digits.get_config("plain")
    config.name = f"my-{method}"
    config.optimiser.weight_decay = 0  # whole, where the baseline has a fraction
    return config
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_flags_it_is_the_digits(here):
    config, workdir = resolve(None, None, [])
    assert config.to_dict() == digits.get_config().to_dict()
    assert workdir == Path("runs/digits-at")


@pytest.mark.parametrize(
    "spec", ["cifar10", "cifar10:at", "cifar10.py", "configs/cifar10.py:at", "./cifar10.py"]
)
def test_shipped_configs_from_any_directory(here, spec):
    config, workdir = resolve(spec, None, [])
    assert config.to_dict() == cifar10.get_config().to_dict()
    assert workdir == Path("runs/cifar10-at")


def test_the_method_is_passed_on(here):
    config, workdir = resolve("digits:plain", None, [])
    assert config.adversary.name == "none"
    assert workdir == Path("runs/digits-plain")


@pytest.mark.parametrize(
    ("file", "spec"),
    [
        ("mine.py", "mine.py:x"),
        ("sub/mine.py", "sub/mine.py:x"),
        ("mine.py", "{here}/mine.py:x"),
        ("digits.py", "digits.py:x"),  # before the one that ships with rfm
    ],
)
def test_own_files_are_found_from_the_current_directory(here, file, spec):
    (here / file).parent.mkdir(exist_ok=True)
    (here / file).write_text(MINE)
    config, workdir = resolve(spec.format(here=here), None, [])
    assert (config.name, config.adversary.name) == ("my-x", "none")
    assert workdir == Path(f"runs/{Path(file).stem}-my-x")


def test_a_file_may_have_a_colon_in_its_name(here):
    (here / "a:b.py").write_text(MINE)
    assert resolve("a:b.py", None, [])[0].name == "my-at"


def test_the_stored_config_is_the_default_with_its_tuples(here):
    stored = digits.get_config("plain")
    stored.model.width = 3
    (here / "config.json").write_text(json.dumps(stored.to_dict()))
    config, workdir = resolve(None, str(here), ["--config.seed=5"])
    assert workdir == here
    stored.seed = 5
    assert config.to_dict() == stored.to_dict()
    assert config.optimiser.milestones == (12, 16)
    assert resolve("digits", str(here), [])[0].model.width == 16


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("model.width=8", "model.width", 8),
        ("optimiser.learning_rate=1", "optimiser.learning_rate", 1.0),
        ("optimiser.learning_rate=1e-3", "optimiser.learning_rate", 1e-3),
        ("optimiser.milestones=(1,2)", "optimiser.milestones", (1, 2)),
        ("optimiser.milestones=(1, 2)", "optimiser.milestones", (1, 2)),
        ("optimiser.milestones=()", "optimiser.milestones", ()),
        ("optimiser.milestones=(3,)", "optimiser.milestones", (3,)),
        ("flatness.splits=('test','train')", "flatness.splits", ("test", "train")),
        ("data.flip=true", "data.flip", True),
        ("data.flip=False", "data.flip", False),
        ("data.source=/a=b/c d.npz", "data.source", "/a=b/c d.npz"),
        ("data.dir=", "data.dir", ""),
        ("adversary.epsilon=-1", "adversary.epsilon", -1.0),  # refused later, where it is used
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["with =", "apart"])
def test_overrides(here, override, field, value, apart):
    name, _, text = override.partition("=")
    typed = [f"--config.{name}", text] if apart else [f"--config.{override}"]
    known = parse(["train", *typed, "--workdir", "w"])
    assert known.workdir == "w"
    config, _ = resolve("digits", None, known.overrides)
    for part in field.split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


def test_the_last_override_counts(here):
    overrides = ["--config.seed=1", "--config.model.width=2", "--config.seed=3"]
    config, _ = resolve("digits", None, overrides)
    assert (config.seed, config.model.width) == (3, 2)


def test_overrides_leave_the_shipped_config_alone(here):
    resolve("digits", None, ["--config.model.width=2"])
    assert resolve("digits", None, [])[0].model.width == 16


@pytest.mark.parametrize("config", ["digits", "cifar10", "cifar10_small", "cifar10_study"])
@pytest.mark.parametrize("method", ["at", "plain"])
def test_shipped_configs_pass_their_own_checks(here, config, method):
    resolve(f"{config}:{method}", None, [])


MODEL = ("--model", "--weights")
MEASURE = ("--checkpoint", "--again", "--exported", *MODEL, "--help")
JOB = ("--coordinator", "--processes", "--process", "--distributed")
FLAGS = {
    "": ["--version", "--help"],
    "run": [
        *("--config", "--workdir", "--checkpoint", "--again", "--no-snapshots", "--help"),
        *("--memory", "--exported", *MODEL, *JOB),
    ],
    "train": ["--config", "--workdir", "--help", "--memory", *JOB],
    "evaluate": ["--config", "--workdir", *MEASURE, *JOB],
    "flatness": [
        *("--config", "--workdir", *MEASURE, "--no-snapshots", *JOB),
        *("--average-radii", "--worst-radii", "--rescale"),
    ],
    "attack": ["--config", "--workdir", *MEASURE, "--attack", "--split", "--saved", *JOB],
    "export": ["--config", "--workdir", "--checkpoint", "--out", "--format", *MODEL, "--help"],
    "curvature": ["--config", "--workdir", *MEASURE, "--rloss", "--density", *JOB],
    "landscape": [
        "--config",
        "--workdir",
        *MEASURE,
        "--kinds",
        "--losses",
        "--beside",
        "--rescale",
        *JOB,
    ],
    "sweep": [
        *("--config", "--methods", "--seeds", "--workdir", "--executor", "--parallel", "--retries"),
        *("--gpus-per-run", "--cpus-per-run", "--hours", "--slurm-partition", "--slurm-account"),
        *("--slurm", "--dry-run", "--no-snapshots", "--help"),
    ],
    "compare": ["--level", "--help"],
    "zoo": ["--csv", "--help"],
    "report": ["--config", "--workdir", "--help", "DIR"],
    "data": ["--data-dir", "--out", "--exported", "--help", "prepare", "show", "convert"],
}


@pytest.mark.parametrize("verb", FLAGS)
def test_help_mentions_every_flag(verb, quick_rfm):
    result = quick_rfm(*filter(None, [verb, "--help"]))
    assert (result.status, result.err) == (0, ""), result
    assert not [flag for flag in FLAGS[verb] if flag not in result.out], result.out
    assert len(result.out.splitlines()) > 8, "it reads like documentation"
    known = {flag for flags in FLAGS.values() for flag in flags}
    unknown = {word.strip(".,[]") for word in result.out.split() if word.startswith("--")} - known
    assert all(word.startswith("--config.") for word in unknown), unknown
    if verb not in ("", "data", "compare", "zoo"):
        assert "exit status" in result.out
    if verb not in ("", "data", "compare", "sweep", "zoo"):
        assert "--config.optimiser.learning_rate=0.1" in result.out


def test_help_lists_the_verbs(quick_rfm):
    out = quick_rfm("--help").out
    assert not [verb for verb in FLAGS if verb not in out]


def test_unknown_fields_are_refused_also_in_stored_configs(here):
    stored = digits.get_config().to_dict()
    stored["model"]["widht"] = 3
    (here / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"did you mean model\.width"):
        resolve(None, str(here), [])
