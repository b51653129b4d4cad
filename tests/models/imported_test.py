"""Weights from a file: both kinds of names, what the JSON says, and what does not fit."""

import hashlib
import json

import jax
import numpy as np
import pytest

from rfm import models
from rfm.errors import UserError
from rfm.models import imported, weights

ARGUMENTS = {
    "name": "resnet8",
    "width": 4,
    "activation": "silu",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.25, 0.2, 0.3),
    "cosine_scale": 0.0,
}
SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def module():
    return models.create(classes=10, **ARGUMENTS)


@pytest.fixture(scope="module")
def variables(module):
    """With statistics that are not those of the initialisation."""
    made = models.initialise(module, jax.random.key(0), SHAPE)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + rng.uniform(0, 0.2, leaf.shape).astype("f4"), made)


@pytest.fixture(scope="module")
def own(variables):
    return imported.own_names(*variables)


@pytest.mark.parametrize("names", ["own", "torch"])
@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_what_is_written_comes_back(module, variables, own, tmp_path, names, ending):
    arrays = own if names == "own" else models.to_torch(*variables, module)
    assert imported.has_own_names(arrays) == (names == "own")
    path = str(tmp_path / f"w{ending}")
    if ending == ".npz":
        np.savez(path, **arrays)
    else:
        weights.write_safetensors(path, arrays, {})
    found = imported.load(path, module, image_shape=SHAPE)
    assert jax.tree.structure(tuple(found)) == jax.tree.structure(variables)
    # A scale is one more there: its last bits are lost.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), tuple(found), variables)
    apply_fn = models.apply_fn(module, found.batch_stats)
    x = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
    expected = models.apply_fn(module, variables[1])(variables[0], x)
    np.testing.assert_array_equal(apply_fn(found.params, x), expected)


def changed(arrays, **changes):
    """`arrays` with some of them replaced, None: left out."""
    new = {**arrays, **{name.replace("__", "/"): value for name, value in changes.items()}}
    return {name: value for name, value in new.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"params__head__bias": None}, "params/head/bias: missing"),
        ({"params__head__boas": np.zeros(10)}, "params/head/boas: unexpected"),
        ({"params__head__bias": np.zeros(9)}, "params/head/bias: has shape (9,), not (10,)"),
        ({"batch_stats__stem_norm__var": None}, "batch_stats/stem_norm/var: missing"),
        ({"params__head__bias": np.full(10, np.nan)}, "params/head/bias: not finite"),
        ({"params__head__bias": np.array(["a"] * 10)}, "params/head/bias: is <U1, not"),
        ({"batch_stats__stem_norm__var": -np.ones(4)}, "stem_norm/var: has negative variances"),
    ],
)
def test_what_does_not_fit_is_named(module, own, tmp_path, changes, says):
    path = str(tmp_path / "w.npz")
    np.savez(path, **changed(own, **changes))
    with pytest.raises(UserError) as caught:
        imported.load(path, module, image_shape=SHAPE)
    assert says in str(caught.value)
    assert str(caught.value).startswith(path)


def test_many_mismatches_are_one_line(own, tmp_path):
    path = str(tmp_path / "w.npz")
    np.savez(path, **own)
    wider = models.create(classes=10, **{**ARGUMENTS, "width": 8})
    with pytest.raises(UserError, match=r"; and \d+ more$") as caught:
        imported.load(path, wider, image_shape=SHAPE)
    assert "\n" not in str(caught.value)
    np.savez(path, **models.to_torch(*models.initialise(wider, jax.random.key(0), SHAPE), wider))
    module = models.create(classes=10, **ARGUMENTS)
    with pytest.raises(UserError, match=r"conv1.weight.*; and \d+ more$") as caught:
        imported.load(path, module, image_shape=SHAPE)
    assert "\n" not in str(caught.value)


def test_the_json_says_what_network_it_is(own, tmp_path):
    path = tmp_path / "w.safetensors"
    about = imported.description(ARGUMENTS, image_shape=SHAPE, classes=10)
    weights.write_safetensors(path, own, {**about, "step": 7})
    found = imported.about(str(path))
    assert found is not None
    assert found.arguments == ARGUMENTS
    assert (found.image_shape, found.classes) == (SHAPE, 10)
    assert models.create(classes=found.classes, **found.arguments).width == 4


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": "of somebody else"}', "\xff"])
def test_a_json_of_somebody_else_says_nothing(tmp_path, text):
    if text is not None:
        (tmp_path / "w.json").write_text(text, encoding="latin1")
    assert imported.about(str(tmp_path / "w.pt")) is None


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("width", None, "None is no whole number"),
        ("width", "four", "'four' is no whole number"),
        ("width", True, "True is no whole number"),
        ("mean", "abc", "'abc' is no list"),
        ("name", 3, "3 is no text"),
        ("cosine_scale", "x", "could not convert"),
    ],
)
def test_a_damaged_json_is_told(tmp_path, field, value, says):
    about = imported.description(ARGUMENTS, image_shape=SHAPE, classes=10)
    about["model"][field] = value
    (tmp_path / "w.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=rf"w.json is damaged \({says}.*; delete it"):
        imported.about(str(tmp_path / "w.safetensors"))
    del about["model"][field]
    (tmp_path / "w.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=rf"w.json is damaged \('{field}'\); delete it"):
        imported.about(str(tmp_path / "w.safetensors"))


def test_a_json_of_another_file_is_told(own, tmp_path):
    about = imported.description(ARGUMENTS, image_shape=SHAPE, classes=10)
    for name in "ab":
        other = {**own, "params/head/bias": np.full(10, ord(name), np.float32)}
        weights.write_safetensors(tmp_path / f"{name}.safetensors", other, about)
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    with pytest.raises(UserError, match=r"b.json describes another file than .*b.safetensors"):
        imported.about(str(tmp_path / "b.safetensors"))


def test_a_checksum_is_of_the_bytes(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"abc")
    assert imported.sha256(str(tmp_path / "w.pt")) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(UserError, match="there is no such file"):
        imported.sha256(str(tmp_path / "absent.pt"))
