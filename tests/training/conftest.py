"""A tiny run on digits, built from a config as users do."""

import dataclasses
from collections.abc import Callable

import pytest
from ml_collections import ConfigDict
from rfm.configs import digits

from rfm.devices import make_mesh
from rfm.training import build


def tiny_config() -> ConfigDict:
    """Seconds of training: width 4, 128 examples, 2 attack steps."""
    config = digits.get_config()
    config.data.train_examples = 160
    config.model.width = 4
    config.adversary.steps = 2
    config.train.update(epochs=3, batch_size=32, snapshot_every=1, steps_per_dispatch=2)
    config.validation.update(examples=40, steps=2, restarts=1)
    return config


@pytest.fixture
def config() -> ConfigDict:
    return tiny_config()


@pytest.fixture(scope="session")
def run() -> build.Run:
    """On one device: step_test compares layouts, the others need not pay for several."""
    return on_one_device(build.build(tiny_config()))


def on_one_device(run: build.Run) -> build.Run:
    return dataclasses.replace(run, mesh=make_mesh(1))


@pytest.fixture
def build_run() -> Callable[[ConfigDict], build.Run]:
    return lambda config: on_one_device(build.build(config))
