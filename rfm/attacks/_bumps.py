"""The patterns of the Square attack in L2: bumps of opposite sign, side by side."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


def tiles(key: Key[Array, ""], *, shape: tuple[int, ...]) -> Float[Array, "h w c"]:
    """About five by five pairs of bumps with random signs, the start in L2."""
    height, width, channels = shape
    size = max(min(height, width) // 5, 1)
    down, across = height // size, width // size
    signs, turn = jax.random.split(key)
    sign = jax.random.rademacher(signs, (down, across, channels), jnp.float32)
    bump = jnp.asarray(pair_of_bumps(size))
    bumps = jnp.where(jax.random.bernoulli(turn, shape=(down, across, 1, 1)), bump.T, bump)
    tiled = bumps[..., None] * sign[:, :, None, None]
    tiled = tiled.transpose(0, 2, 1, 3, 4).reshape(down * size, across * size, channels)
    top, left = (height - down * size) // 2, (width - across * size) // 2
    bottom, right = height - down * size - top, width - across * size - left
    return jnp.pad(tiled, ((top, bottom), (left, right), (0, 0)))


def pair_of_bumps(size: int) -> Float[np.ndarray, "size size"]:
    """The pattern of the L2 attack (Eq. (2) of the paper), norm 1.

    The upper part is a bump that falls off around its middle, the lower one a negative
    bump. A bump of a by b pixels adds ``1 / (k + 1)^2`` on squares of half-width k around
    the middle.
    """
    upper = size // 2
    pattern = np.zeros((size, size))
    pattern[:upper] = _bump(upper, size)
    pattern[upper:] = -_bump(size - upper, size)
    norm = np.linalg.norm(pattern)
    return (pattern / (norm or 1.0)).astype(np.float32)


def _bump(height: int, width: int) -> Float[np.ndarray, "a b"]:
    if not height:
        return np.zeros((0, width))
    reach = max(height // 2, width // 2) + 1
    rows = np.abs(np.arange(height) - height // 2)
    columns = np.abs(np.arange(width) - width // 2)
    from_middle = np.maximum(rows[:, None], columns[None])
    # Sums of 1 / (k + 1)^2 over the squares k = from_middle, ..., reach - 1.
    sums = np.append(np.cumsum(1.0 / np.arange(reach, 0, -1) ** 2)[::-1], 0.0)
    bump: np.ndarray = sums[from_middle]
    return bump / np.linalg.norm(bump)
