"""Models as files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import losses, models
from rfm.errors import UserError
from rfm.flatness import extreme_eigenvalues
from rfm.models import exported
from rfm.types import bind

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def model():
    """A network with all kinds of layers, and statistics that are not those it begins with."""
    module = models.create(
        "resnet8", classes=10, width=2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)
    )
    params, stats = models.initialise(module, jax.random.key(0), SHAPE)
    stats = jax.tree.map(lambda leaf: leaf + 0.1, stats)
    return models.apply_fn(module, stats), params


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.npz"
    exported.save(path, *model, image_shape=SHAPE)
    return path


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).uniform(size=(n, *SHAPE)).astype(np.float32)


def test_logits_and_gradients_are_those_of_the_model(model, path):
    """Also the gradients of the weights, and second derivatives."""
    found, x, y = exported.load(path), images(3), np.arange(3)
    assert (found.image_shape, found.classes) == (SHAPE, 10)

    def values(apply_fn, params):
        def loss(params, x):
            return losses.cross_entropy(apply_fn(params, x), y).sum()

        gradient = jax.grad(loss, (0, 1))(params, x)

        def along(params):
            return sum(leaf.sum() for leaf in jax.tree.leaves(jax.grad(loss)(params, x)))

        return apply_fn(params, x), gradient, jax.grad(along)(params)

    one, two = jax.jit(values)(*model), jax.jit(values)(found.apply_fn, found.params)
    assert len(found.params) == len(jax.tree.leaves(model[1]))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(jnp.abs(a).max()))


def test_curvature_is_that_of_the_model(model, path):
    """It takes three derivatives."""
    found = exported.load(path)
    x, y, key = images(4), np.arange(4), jax.random.key(3)
    one, two = (
        extreme_eigenvalues(apply_fn, params, x, y, key, products=6).largest
        for apply_fn, params in (model, (found.apply_fn, found.params))
    )
    assert one.value == pytest.approx(two.value, rel=0.05)
    np.testing.assert_allclose(two.examples.mean(), two.value, rtol=1e-3)


def test_a_batch_may_be_spread_over_devices(model, path, spread):
    found, x = exported.load(path), images(8)
    logits = jax.jit(bind(found.apply_fn, found.params))(spread(x))
    np.testing.assert_allclose(logits, model[0](model[1], x), rtol=1e-4, atol=1e-4)


def test_any_function_can_be_exported(tmp_path):
    def apply_fn(params, x):
        return x.reshape(x.shape[0], -1) @ params["a"][0] + params["b"]

    params = {"a": [jnp.ones((12, 3))], "b": jnp.arange(3.0)}
    exported.save(tmp_path / "linear.npz", apply_fn, params, image_shape=(2, 2, 3))
    found = exported.load(tmp_path / "linear.npz")
    assert set(found.params) == {"a/0", "b"}
    x = np.ones((2, 2, 2, 3), np.float32)
    np.testing.assert_allclose(found.apply_fn(found.params, x), [[12, 13, 14]] * 2)


def test_a_function_that_wants_a_number_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"x\.shape\[0\]"):
        exported.save(
            tmp_path / "m.npz", lambda _, x: x.reshape(len(x), -1), {}, image_shape=(2, 2, 3)
        )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "not an .npz archive"),
        (b"PK\x03\x04 cut", "not an .npz archive"),
        ({"x": np.zeros(3)}, "no exported model: rfm export writes one"),
        ({"about": np.array("{}")}, "no exported model"),
        ({"about": np.array('{"format": "rfm-exported-9"}')}, "its format is 'rfm-exported-9'"),
        ({"about": np.array([{}], object)}, "pickled"),
    ],
)
def test_what_is_no_exported_model_is_told(tmp_path, content, says):
    path = tmp_path / "model.npz"
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as told:
        exported.load(path)
    assert "\n" not in str(told.value)


def test_damage_anywhere_is_told(path, tmp_path):
    whole = path.read_bytes()
    for at in range(100, len(whole), len(whole) // 20):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            found = exported.load(tmp_path / "damaged.npz")
        except UserError:
            continue
        assert found.params.keys() == exported.load(path).params.keys(), "a byte nobody reads"


def test_a_program_that_is_none_is_told(path, tmp_path):
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["program"] = arrays["program"][:1000]
    np.savez(tmp_path / "cut.npz", **arrays)
    with pytest.raises(UserError, match="no exported model"):
        exported.load(tmp_path / "cut.npz")
