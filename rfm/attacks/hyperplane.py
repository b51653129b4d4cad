"""The nearest point of a hyperplane inside the box [0, 1], the projection of FAB.

Croce & Hein (2020b, Eq. (4)) need, for a hyperplane ``<w, z> = b`` and a norm,

    argmin_d ||d||   such that   <w, x + d> = b,  0 <= x + d <= 1.

For L-infinity and L2 the solution goes from x along the ball's steepest ascent v of the
linear function, each pixel until it meets the box::

    d(s) = clip(s * v, -x, 1 - x)        with <w, d(s)> = b - <w, x>

The left side is a concave, piecewise linear function of s >= 0, so Newton's iteration
from s = 0 never overshoots and ends exactly, after about as many steps as pieces matter
(sorting all of the breakpoints, as usual, costs more). If no point of the box is on the
hyperplane, d ends where the box is closest to it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rfm.attacks._common import as_column
from rfm.types import Images, PerExample, Threat

_MOST_ITERATIONS = 100
_TOLERANCE = 1e-6  # relative change of s at which it ends

_Carry = tuple[PerExample, PerExample, Int[Array, ""]]


def project(threat: Threat, x: Images, w: Images, offset: PerExample) -> Images:
    """The smallest step from `x` to the hyperplane, in the norm of `threat`.

    Args:
      threat: says the norm, by its steepest ascent.
      x: points in [0, 1], shape (n, h, w, c).
      w: normals, like `x`.
      offset: ``b - <w, x>``, shape (n,): how far the linear function has to rise.

    Returns:
      The steps d, like `x`.
    """
    axes = tuple(range(1, x.ndim))
    w = w * as_column(jnp.where(offset < 0, -1.0, 1.0), x)
    v, rise = threat.steepest_ascent(w), jnp.abs(offset)

    def newton(carry: _Carry) -> _Carry:
        s, _, i = carry
        ahead = as_column(s, x) * v
        d = jnp.clip(ahead, -x, 1.0 - x)
        # Which pixels have room ahead of them: one that starts at the box may leave inwards.
        free = jnp.where(v > 0, ahead < 1.0 - x, ahead > -x)
        slope = jnp.sum(jnp.where(free, w * v, 0.0), axes)
        missing = rise - jnp.sum(w * d, axes)
        more = jnp.where((slope > 0) & (missing > 0), missing / jnp.where(slope > 0, slope, 1), 0)
        return s + more, more, i + 1

    def goes_on(carry: _Carry) -> Array:
        s, more, i = carry
        return (i < _MOST_ITERATIONS) & jnp.any(more > _TOLERANCE * s)

    start = jnp.zeros_like(rise)
    s, _, _ = jax.lax.while_loop(goes_on, newton, newton((start, start, jnp.int32(0))))
    return jnp.clip(as_column(s, x) * v, -x, 1.0 - x)
