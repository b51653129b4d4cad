"""The contracts: functions as pytrees, and one key per example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.types import as_partial, bind, example_keys


def affine(weight, bias, x, *, scale=1.0):
    return scale * (x @ weight + bias)


def test_a_plain_function_becomes_a_pytree_without_leaves():
    partial = as_partial(jnp.tanh)
    assert isinstance(partial, jax.tree_util.Partial)
    assert jax.tree.leaves(partial) == []
    assert partial(0.5) == jnp.tanh(0.5)


def test_a_partial_stays_itself():
    partial = jax.tree_util.Partial(affine, jnp.ones((2, 2)))
    assert as_partial(partial) is partial


@pytest.mark.parametrize("make", [jax.tree_util.Partial, functools.partial])
def test_bind_keeps_earlier_arguments_and_keywords(make):
    weight, bias, x = jnp.ones((3, 2)), jnp.arange(2.0), jnp.arange(6.0).reshape(2, 3)
    bound = bind(make(affine, weight, scale=2.0), bias)
    np.testing.assert_allclose(bound(x), affine(weight, bias, x, scale=2.0))


def test_bind_keeps_arrays_visible_to_jax():
    """Nested partials would hide the inner arrays and make them constants."""
    bound = bind(jax.tree_util.Partial(affine, jnp.ones((3, 2)), scale=jnp.float32(2)), jnp.ones(2))
    assert sorted(leaf.size for leaf in jax.tree.leaves(bound)) == [1, 2, 6]


def test_checkpoints_share_one_compilation():
    traces = []

    @jax.jit
    def run(function, x):
        traces.append(1)
        return function(x)

    x = jnp.ones((4, 3))
    for seed in range(3):
        weight = jax.random.normal(jax.random.key(seed), (3, 2))
        np.testing.assert_allclose(run(bind(affine, weight, weight[0]), x), x @ weight + weight[0])
    assert len(traces) == 1


def test_one_key_becomes_one_per_example():
    keys = example_keys(jax.random.key(3), 50)
    words = np.asarray(jax.random.key_data(keys))
    assert keys.shape == (50,)
    assert len(np.unique(words, axis=0)) == 50


def test_the_key_of_an_example_does_not_depend_on_how_many_there_are():
    key = jax.random.key(3)
    few, many = example_keys(key, 5), example_keys(key, 9)
    np.testing.assert_array_equal(jax.random.key_data(few), jax.random.key_data(many)[:5])


def test_keys_per_example_stay_as_they_are():
    keys = jax.random.split(jax.random.key(0), 4)
    assert example_keys(keys, 4) is keys


def test_wrong_keys_are_told_at_the_door():
    with pytest.raises(ValueError, match=r"jax\.random\.key"):
        example_keys(jnp.zeros(2, jnp.uint32), 2)
    with pytest.raises(ValueError, match=r"one key or 5 keys.*\(4,\)"):
        example_keys(jax.random.split(jax.random.key(0), 4), 5)
