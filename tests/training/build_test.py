"""From configs to objects: the baseline to the letter, and refusals by field."""

import numpy as np
import optax
import pytest
from rfm.configs import cifar10

import rfm
from rfm.errors import UserError
from rfm.training import axes, build


def test_baseline_is_section_f():
    config = cifar10.get_config("at")
    assert config.model.to_dict() == {
        "exported": "",
        "weights": "",
        "weights_sha256": "",
        "zoo": "",
        "name": "resnet18",
        "width": 64,
        "activation": "relu",
        "mean": (),
        "std": (),
        "cosine_scale": 0.0,
        "dropout": 0.0,
        "dtype": "float32",
        "remat": False,
    }
    assert (config.train.epochs, config.train.batch_size, config.train.snapshot_every) == (
        150,
        128,
        5,
    )
    optimiser = config.optimiser
    assert (optimiser.learning_rate, optimiser.momentum, optimiser.nesterov) == (0.05, 0.9, True)
    assert (optimiser.weight_decay, tuple(optimiser.milestones)) == (0.0005, (60, 90, 120))
    training = axes.attack(config.adversary, "config.adversary")
    assert training == rfm.attacks.PGD(rfm.threat.linf(8 / 255), steps=7, step_size=0.007)
    validation = axes.attack(config.validation, "config.validation")
    assert (validation.steps, validation.restarts, config.validation.examples) == (7, 5, 500)
    evaluation = axes.attack(config.evaluation, "config.evaluation")
    assert (evaluation.steps, evaluation.restarts, config.evaluation.examples) == (20, 10, 1000)
    assert (config.flatness.average.radius, config.flatness.average.samples) == (0.5, 10)
    assert (config.flatness.worst.radius, config.flatness.worst.restarts) == (0.003, 10)


def test_run_has_the_data_sets_statistics(run):
    pixels = run.dataset.train_images / 255.0
    np.testing.assert_allclose(run.model.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(run.model.std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert run.steps_per_epoch == 5
    assert isinstance(run.method.optimiser.transformation, optax.GradientTransformation)


def test_whitening_and_the_head_are_those_of_the_config(config):
    config.model.update(mean=(0.5,), std=(2.0,), cosine_scale=3.0)
    model = build.build(config).model
    assert (model.mean, model.std, model.cosine_scale) == ((0.5,), (2.0,), 3.0)


@pytest.mark.parametrize(
    ("mean", "std", "line"),
    [
        (
            (0.5,),
            (),
            r"for each of the 1 channels of digits, or both be \(\); got \(0.5,\) and \(\)",
        ),
        ((0.5, 0.5), (1.0, 1.0), "for each of the 1 channels of digits"),
        ((0.5,), (0.0,), ".std positive"),
        ((float("nan"),), (1.0,), "must be finite"),
    ],
)
def test_whitening_that_makes_no_sense_is_refused(config, mean, std, line):
    config.model.update(mean=mean, std=std)
    with pytest.raises(UserError, match=line):
        build.build(config)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("model.name", "resnet81", "did you mean 'resnet8'"),
        ("model.activation", "rely", "did you mean 'relu'"),
        ("model.dtype", "float16", "model.dtype"),
        ("model.width", 0, "model.width must be at least 1"),
        (
            "adversary.name",
            "pdg",
            "config.adversary.name .* did you mean 'pgd'",
        ),
        ("adversary.threat", "l1", "config.adversary.threat"),
        ("adversary.epsilon", -1.0, "config.adversary: epsilon"),
        ("adversary.steps", -1, "config.adversary"),
        ("adversary.loss", "ce", "config.adversary.loss"),
        ("objective.name", "trads", "config.objective.name .* did you mean 'trades'"),
        ("optimiser.name", "sdg", "did you mean 'sgd'"),
        ("optimiser.learning_rate", 0.0, "must be positive"),
        ("train.batch_size", 1000, "too few"),
        ("train.epochs", 0, "config.train.epochs must be at least 1"),
        ("data.crop", -1, "config.data.crop"),
    ],
)
def test_refusals_name_the_field(config, field, value, line):
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match=line):
        build.build(config)


def test_keys_of_different_purposes_differ(run):
    import jax

    data = {
        tuple(np.asarray(jax.random.key_data(run.key(p)))) for p in ("init", "train", "validation")
    }
    assert len(data) == 3
