"""Relative balls around weights, Eq. (4)."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm import perturb
from rfm.perturb import RelativeBall, is_normalisation

PER = pytest.mark.parametrize("per", ["layer", "filter"])
SHAPES = {
    "conv/kernel": (3, 3, 2, 4),
    "dense/kernel": (5, 3),
    "dense/bias": (3,),
    "temperature": (),
    "BatchNorm_0/scale": (4,),
}


def leaves(limit: float) -> st.SearchStrategy[dict[str, np.ndarray]]:
    """Trees of the above shapes; whole tensors may be zero."""
    numbers = st.floats(-limit, limit, width=32, allow_subnormal=False)
    return st.fixed_dictionaries(
        {name: hnp.arrays(np.float32, shape, elements=numbers) for name, shape in SHAPES.items()}
    )


def random_params(seed: int = 0) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    named = zip(SHAPES.items(), keys, strict=True)
    return {name: jax.random.normal(key, shape) for (name, shape), key in named}


def norms(leaf, per: str) -> np.ndarray:
    """Per tensor, or per output channel of tensors that have several dimensions."""
    leaf = np.asarray(leaf, np.float64)
    if per == "filter" and leaf.ndim > 1:
        return np.linalg.norm(leaf.reshape(-1, leaf.shape[-1]), axis=0)
    return np.linalg.norm(leaf.ravel(), keepdims=True)


@pytest.mark.parametrize(
    "path",
    [
        "BatchNorm_0/scale",  # Flax linen
        "block_1/LayerNorm_0/bias",
        "GroupNorm_3/scale",
        "RMSNorm_0/scale",
        "InstanceNorm_0/bias",
        "SpectralNorm_0/sigma",
        "WeightNorm_0/scale",
        "stage1_block1/norm1/scale",  # Flax nnx, rfm
        "stem_norm/bias",
        "norm_skip/scale",
        "norm/scale",
        "layers/0/norm2/weight",  # Equinox, torch-like
        "layer1/0/bn2/weight",
        "bn/weight",
        "stem_bn/bias",
        "res_net50/~/initial_batchnorm/scale",  # Haiku
        "res_net50/~/block_0/~/batch_norm_1/offset",
        "transformer/layer_norm/scale",
        "rms_norm/scale",
        "block_0/prenorm/scale",
        "InputNorm_0/scale",
        "batch_normalization_1/gamma",
        "normalisation/scale",
    ],
)
def test_normalisation_layers_are_recognised(path):
    assert is_normalisation(path)


@pytest.mark.parametrize(
    "path",
    [
        "Conv_0/kernel",
        "stage1_block1/conv1/conv/kernel",
        "Dense_0/bias",
        "head/kernel",
        "normal_dense/kernel",
        "abnormal/kernel",
        "subnet/kernel",
        "ebnet/kernel",
        "bnet/kernel",
        "enormous/kernel",
        "res_net50/~/initial_conv/w",
        "embedding/table",
    ],
)
def test_other_layers_are_not(path):
    assert not is_normalisation(path)


def test_paths_are_joined_by_slashes():
    seen = []
    ball = RelativeBall(0.5, exclude=lambda path: bool(seen.append(path)))
    ball.project(*[{"block": [{"kernel": jnp.ones((2, 2))}], "head": jnp.ones(2)}] * 2)
    assert sorted(seen) == ["block/0/kernel", "head"]


@pytest.mark.parametrize("per", ["layer", "filter"])
@given(params=leaves(3), radius=st.sampled_from([0.0, 0.003, 0.5, 2.0]), seed=st.integers(0, 99))
def test_samples_are_in_the_ball_of_each_layer(per, params, radius, seed):
    nu = RelativeBall(radius, per).sample(jax.random.key(seed), params)
    for name, leaf in nu.items():
        assert leaf.shape == SHAPES[name]
        assert leaf.dtype == jnp.float32
        limit = radius * norms(params[name], per)
        assert (norms(leaf, per) <= limit * (1 + 1e-5)).all(), name
    np.testing.assert_array_equal(nu["BatchNorm_0/scale"], np.zeros(4))


@PER
def test_samples_are_uniform_in_the_ball(per):
    """(||nu|| / (xi ||w||))^d is uniform, and each coordinate is a shifted beta."""
    ball, params = RelativeBall(0.5, per), {"kernel": jnp.array([[3.0, 0.1], [-4.0, 0.2]])}
    keys = jax.random.split(jax.random.key(0), 4000)
    nu = np.asarray(jax.jit(jax.vmap(lambda key: ball.sample(key, params)))(keys)["kernel"])
    limit = 0.5 * norms(params["kernel"], per)
    size = np.stack([norms(draw, per) for draw in nu])
    d = 4 if per == "layer" else 2
    for volume in ((size / limit) ** d).T:
        assert scipy.stats.kstest(volume, "uniform").pvalue > 0.01
    for i in range(2):
        for j in range(2):
            scale = limit[j if per == "filter" else 0]
            marginal = scipy.stats.beta((d + 1) / 2, (d + 1) / 2, loc=-scale, scale=2 * scale)
            assert scipy.stats.kstest(nu[:, i, j], marginal.cdf).pvalue > 0.01
    if per == "filter":  # filters have radii of their own
        assert abs(np.corrcoef(size.T)[0, 1]) < 0.1


def test_layers_have_draws_of_their_own():
    params = {"a": jnp.ones((40, 40)), "b": jnp.ones((40, 40))}
    nu = RelativeBall(0.5).sample(jax.random.key(0), params)
    assert abs(np.corrcoef(nu["a"].ravel(), nu["b"].ravel())[0, 1]) < 0.1
    assert abs(norms(nu["a"], "layer") - norms(nu["b"], "layer")) > 0


def test_large_layers_are_drawn_near_the_sphere():
    params = {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 64, 64))}
    nu = RelativeBall(0.5).sample(jax.random.key(0), params)
    np.testing.assert_allclose(
        norms(nu["kernel"], "layer"), 0.5 * norms(params["kernel"], "layer"), rtol=1e-3
    )


@PER
@pytest.mark.parametrize("s", [0.5, 2.0, 7.3])
def test_scaling_the_weights_scales_the_samples(per, s):
    """Section E: the ball grows with the weights."""
    ball, params = RelativeBall(0.5, per), random_params()
    plain = ball.sample(jax.random.key(5), params)
    scaled = ball.sample(jax.random.key(5), jax.tree.map(lambda w: s * w, params))
    for name, leaf in plain.items():
        np.testing.assert_allclose(scaled[name], s * leaf, rtol=1e-5)


@pytest.mark.parametrize("per", ["layer", "filter"])
@given(nu=leaves(2), params=leaves(3), radius=st.sampled_from([0.0, 0.1, 1.0]))
def test_projection_lands_in_the_ball_and_stays(per, nu, params, radius):
    ball = RelativeBall(radius, per)
    once = ball.project(nu, params)
    twice = ball.project(once, params)
    for name, leaf in once.items():
        assert np.isfinite(leaf).all()
        limit = radius * norms(params[name], per) * (1 + 1e-5)
        assert (norms(leaf, per) <= limit + 1e-18).all(), name  # squares below underflow
        np.testing.assert_allclose(twice[name], leaf, rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(once["BatchNorm_0/scale"], np.zeros(4))


@PER
def test_projection_moves_no_point_inside(per):
    ball, params = RelativeBall(0.5, per), random_params()
    nu = jax.tree.map(lambda leaf: 0.99 * leaf, ball.sample(jax.random.key(3), params))
    for name, leaf in ball.project(nu, params).items():
        np.testing.assert_array_equal(leaf, nu[name])


@PER
def test_projection_shortens_along_the_ray(per):
    ball, params = RelativeBall(0.5, per), random_params()
    far = jax.tree.map(lambda leaf: 100 * leaf, random_params(1))
    for name, leaf in ball.project(far, params).items():
        if not is_normalisation(name):
            np.testing.assert_allclose(norms(leaf, per), 0.5 * norms(params[name], per), rtol=1e-5)
            ratio = np.asarray(leaf / far[name]).reshape(-1, leaf.shape[-1] if leaf.ndim else 1)
            spread = ratio.std(0) if per == "filter" and leaf.ndim > 1 else ratio.std()
            np.testing.assert_allclose(spread, 0, atol=1e-6)


@PER
def test_normalised_directions_are_as_long_as_the_weights(per):
    """Eqs. (1) and (2)."""
    params, direction = random_params(), random_params(1)
    for name, leaf in RelativeBall(0.5, per).normalise(direction, params).items():
        if is_normalisation(name):
            np.testing.assert_array_equal(leaf, np.zeros(4))
        else:
            np.testing.assert_allclose(norms(leaf, per), norms(params[name], per), rtol=1e-5)
            assert (np.sign(leaf) == np.sign(direction[name])).all()


@PER
def test_zero_directions_and_zero_weights_stay_zero(per):
    ball, params = RelativeBall(0.5, per), random_params()
    zero = jax.tree.map(jnp.zeros_like, params)
    for tree in (
        ball.normalise(zero, params),
        ball.normalise(params, zero),
        ball.project(params, zero),
        ball.sample(jax.random.key(0), zero),
    ):
        jax.tree.map(np.testing.assert_array_equal, tree, zero)


def test_one_zero_filter_does_not_disturb_the_others():
    params, direction = {"kernel": jnp.ones((3, 2))}, {"kernel": jnp.array([[0, 1.0]] * 3)}
    leaf = RelativeBall(0.5, "filter").normalise(direction, params)["kernel"]
    np.testing.assert_allclose(leaf, [[0, 1]] * 3, rtol=1e-6)


def test_a_function_says_what_a_layer_is():
    """Filters first, as in Equinox, are the transposed filters of Flax; stacked layers, layers."""
    rng = np.random.default_rng(0)
    w, direction = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)

    def first(path, leaf):
        return None if path == "bias" else tuple(range(1, leaf.ndim))

    filters = RelativeBall(0.5, per=first)
    flax = RelativeBall(0.5, per="filter")
    params, towards = {"w": w, "bias": bias}, {"w": direction, "bias": bias}
    moved = {"w": np.moveaxis(w, 0, -1), "bias": bias}
    moved_towards = {"w": np.moveaxis(direction, 0, -1), "bias": bias}
    for method in ("normalise", "project", "direction"):
        found = getattr(filters, method)(towards, params)
        expected = getattr(flax, method)(moved_towards, moved)
        np.testing.assert_allclose(np.moveaxis(found["w"], 0, -1), expected["w"], rtol=1e-5)
        np.testing.assert_allclose(found["bias"], expected["bias"], rtol=1e-5)
    sample = filters.sample(jax.random.key(0), params)["w"]
    ratios = np.linalg.norm(np.reshape(sample, (3, -1)), axis=1)
    ratios = ratios / np.linalg.norm(w.reshape(3, -1), axis=1)
    assert (ratios <= 0.5 * (1 + 1e-5)).all()
    assert len(set(ratios.round(6))) == 3, "each has a radius of its own"


def test_exclude_chooses_the_leaves():
    ball, params = RelativeBall(0.5, exclude=lambda path: "kernel" in path), random_params()
    moved = {name for name, leaf in ball.sample(jax.random.key(0), params).items() if leaf.any()}
    assert moved == {"dense/bias", "temperature", "BatchNorm_0/scale"}


def test_double_precision_stays(x64):
    params = {"kernel": np.ones((4, 3))}
    ball = RelativeBall(0.5)
    nu = ball.sample(jax.random.key(0), params)
    for tree in (nu, ball.project(nu, params), ball.normalise(nu, params)):
        assert tree["kernel"].dtype == jnp.float64


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_bad_radius_is_told(radius):
    with pytest.raises(ValueError, match="radius must be a finite number >= 0"):
        RelativeBall(radius)


def test_a_bad_unit_is_told():
    with pytest.raises(ValueError, match="per must be 'layer', 'filter' or a function, got"):
        RelativeBall(0.5, per="channel")  # type: ignore[arg-type]


def test_balls_are_static_arguments():
    assert RelativeBall(0.5) == RelativeBall(0.5)
    assert hash(RelativeBall(0.5)) == hash(RelativeBall(0.5))
    assert RelativeBall(0.5) != RelativeBall(0.5, "filter")


def test_the_docstring_is_true():
    assert doctest.testmod(perturb).failed == 0


@pytest.mark.parametrize(("drawn", "mean_share"), [("ball", 12 / 13), ("sphere", 1), ("norm", 0.5)])
def test_norms_are_drawn_as_asked(drawn, mean_share):
    """Of 12 dimensions: d / (d + 1) on average in the ball, 1 on the sphere, else a half."""
    params, ball = {"w": jnp.ones((4, 3))}, RelativeBall(0.5, drawn=drawn)
    keys = jax.random.split(jax.random.key(0), 2000)
    samples = jax.vmap(lambda key: ball.sample(key, params))(keys)["w"]
    shares = np.linalg.norm(samples.reshape(2000, -1), axis=1) / (0.5 * np.sqrt(12))
    assert shares.max() <= 1 + 1e-5
    assert shares.mean() == pytest.approx(mean_share, abs=0.02)
    expected = {"ball": 0.5 ** (1 / 12), "sphere": 1, "norm": 0.5}[drawn]
    assert np.median(shares) == pytest.approx(expected, abs=0.03)
    assert np.abs(samples.mean(0)).max() < 0.02, "directions are uniform"


def test_a_bad_distribution_is_told():
    with pytest.raises(ValueError, match="drawn must be"):
        RelativeBall(0.5, drawn="gaussian")
