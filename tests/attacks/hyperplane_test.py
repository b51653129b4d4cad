"""The projection of FAB, against a slow solution by sorting and by its own conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm.attacks import hyperplane
from rfm.threat import l2, linf

THREATS = {"linf": linf(1.0), "l2": l2(1.0)}
project = jax.jit(hyperplane.project, static_argnums=0)
PIXELS = st.floats(0, 1, width=32, allow_subnormal=False)
WEIGHTS = st.floats(-5, 5, width=32, allow_subnormal=False).map(
    lambda w: w if abs(w) > 1e-3 else 0.0
)


def slowly(norm: str, x: np.ndarray, w: np.ndarray, rise: float) -> np.ndarray:
    """One example: go along the breakpoints, sorted, until the hyperplane is reached."""
    w = w if rise >= 0 else -w
    rise = abs(rise)
    speed = np.sign(w) if norm == "linf" else w
    room = np.where(speed > 0, 1 - x, x)
    moves = speed != 0
    ends = np.where(moves, room / np.where(moves, np.abs(speed), 1), 0.0)
    time, reached = 0.0, 0.0
    for end in np.unique(ends):
        slope = np.sum(np.abs(w * speed)[moves & (ends > time)])
        if slope and reached + slope * (end - time) >= rise:
            time += (rise - reached) / slope
            break
        reached, time = reached + slope * (end - time), end
    return speed * np.minimum(time, ends)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=hnp.arrays(np.float64, (2, 2, 3, 1), elements=PIXELS),
    w=hnp.arrays(np.float64, (2, 2, 3, 1), elements=WEIGHTS),
    offset=hnp.arrays(np.float64, 2, elements=st.floats(-4, 4, width=32)),
)
def test_agrees_with_sorting(x64, norm, x, w, offset):
    found = project(THREATS[norm], jnp.array(x), jnp.array(w), jnp.array(offset))
    for ours, point, normal, rise in zip(found, x, w, offset, strict=True):
        expected = slowly(norm, point.ravel(), normal.ravel(), rise).reshape(point.shape)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=hnp.arrays(np.float64, (1, 2, 3, 1), elements=PIXELS),
    w=hnp.arrays(np.float64, (1, 2, 3, 1), elements=WEIGHTS),
    z=hnp.arrays(np.float64, (1, 2, 3, 1), elements=PIXELS),
)
def test_no_point_of_the_hyperplane_is_nearer(x64, norm, x, w, z):
    """`z` is some point of the box, and the hyperplane the one through it."""
    threat, offset = THREATS[norm], ((z - x) * w).sum((1, 2, 3))
    d = hyperplane.project(threat, jnp.array(x), jnp.array(w), jnp.array(offset))
    assert (x + d >= -1e-12).all()
    assert (x + d <= 1 + 1e-12).all()
    np.testing.assert_allclose((np.asarray(d) * w).sum((1, 2, 3)), offset, atol=1e-5)
    assert threat.norm(d)[0] <= threat.norm(jnp.array(z - x))[0] + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_hyperplane_out_of_reach_is_approached(norm):
    x, w = jnp.array([0.2, 0.9]).reshape(1, 1, 2, 1), jnp.array([1.0, -2.0]).reshape(1, 1, 2, 1)
    d = project(THREATS[norm], x, w, jnp.array([100.0]))
    np.testing.assert_allclose(np.ravel(x + d), [1.0, 0.0], atol=1e-6)


def test_without_a_slope_nothing_moves():
    x = jnp.full((1, 1, 2, 1), 0.5)
    d = project(THREATS["l2"], x, jnp.zeros_like(x), jnp.array([1.0]))
    np.testing.assert_array_equal(d, 0)
