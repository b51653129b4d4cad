"""The zoo: names, what `create` takes, and that numbers are those of its sources."""

import dataclasses

import jax
import pytest
from rfm.configs import methods

from rfm import models
from rfm.errors import UserError
from rfm.models import zoo
from rfm.models.layers import Whiten

PAPER = {row.zoo: row for row in methods.paper() if row.zoo}


def test_the_eight_of_table_b_come_first():
    assert tuple(zoo.ZOO)[:8] == zoo.IN_PAPER == tuple(PAPER)
    assert all(name == entry.name for name, entry in zoo.ZOO.items())


@pytest.mark.parametrize("name", zoo.IN_PAPER)
def test_the_papers_clean_error_is_the_published_one(name):
    """That tells networks of the same authors apart: Wu et al. have one of 88.25 %, too."""
    assert PAPER[name].values["err_test"] == pytest.approx(100 - zoo.ZOO[name].clean, abs=0.011)
    assert PAPER[name].title.split()[0] == name[: name.index("20")]


# In millions, from the formula of He et al. and of Zagoruyko and Komodakis (WRN-28-10: 36.5).
MILLIONS = {
    "WideResNet-28-10": 36.48,
    "WideResNet-34-10": 46.16,
    "WideResNet-34-20": 184.5,
    "WideResNet-70-16": 266.8,
    "ResNet-50": 23.52,
    "PreActResNet-18": 11.17,
}


@pytest.mark.parametrize("entry", zoo.ZOO.values(), ids=lambda entry: entry.name)
def test_create_makes_it_at_its_size(entry):
    module = models.create(classes=10, **entry.arguments)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count / 1e6 == pytest.approx(MILLIONS[entry.architecture.split(",")[0]], rel=2e-3)


def test_whitening_and_activations_are_those_of_robustbench():
    bare = {"Carmon2019Unlabeled", "Wang2020Improving", "Wu2020Adversarial"}
    bare |= {"Zhang2019Theoretically", "Zhang2020Attacks"}
    for name, entry in zoo.ZOO.items():
        grey = jax.numpy.full((1, 1, 1, 3), 0.5)
        whitened = Whiten(entry.mean, entry.std).apply({}, grey)
        assert bool((whitened == grey).all()) == (name in bare), name
        assert entry.activation == ("silu" if entry.model.startswith("dm_") else "relu"), name
        assert bool(entry.cosine_scale) == (name == "Pang2020Boosting")
    assert zoo.ZOO["Engstrom2019Robustness"].std == (0.2023, 0.1994, 0.2010)


def test_every_entry_says_where_and_whose():
    urls = [entry.url for entry in zoo.ZOO.values()]
    assert len(set(urls)) == len(urls)
    for entry in zoo.ZOO.values():
        assert entry.url.startswith("https://")
        assert entry.authors.startswith("https://")
        assert entry.file.endswith(".pt")
        assert (entry.file == f"{entry.name}.pt") == (entry.name in zoo.IN_PAPER)
        assert entry.paper.split()[0] in entry.name
        assert 0 < entry.robust < entry.clean < 100
        assert dataclasses.replace(entry) == entry


def test_an_unknown_name_is_told():
    with pytest.raises(UserError, match=r"no network zoo:Carmon2019; did you mean zoo:Carmon2019U"):
        zoo.find("Carmon2019")
    with pytest.raises(UserError, match=r"no network zoo:; rfm zoo lists them"):
        zoo.find("")
