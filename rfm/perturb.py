"""Relative balls around weights, Eq. (4) of the supplement.

A network's loss does not change when a convolution in front of a normalisation is
scaled, so a ball of fixed size around the weights says nothing about flatness. The
ball used here is relative, layer by layer::

    B_xi(w) = {w + nu : ||nu^(l)||_2 <= xi * ||w^(l)||_2 for all layers l}

Every weight tensor and every bias is a layer of its own (`RelativeBall.per` says otherwise);
normalisation parameters are left alone. `RelativeBall` says which leaves those are and offers
the operations that flatness measures and adversarial weight perturbation need, each a
``tree.map`` over parameters of any model.

    >>> import jax, jax.numpy as jnp, rfm
    >>> ball = rfm.perturb.RelativeBall(radius=0.5)
    >>> params = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}
    >>> nu = ball.sample(jax.random.key(0), params)
    >>> bool(jnp.linalg.norm(nu["dense"]["kernel"]) <= 0.5 * 12**0.5)
    True
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from rfm.types import Params, leaf_name

KeyPath = tuple[Any, ...]
AxesOfLayer = Callable[[str, Array], tuple[int, ...] | None]
"""Which axes of the leaf at a path belong to one layer; None: all."""

_NORMALISATION = re.compile(r"(^|[^a-z])([a-z]*norm(ali[sz]ation)?|bn)(?![a-z])")


def is_normalisation(path: str) -> bool:
    """Does the leaf at `path` belong to a normalisation layer?

    `path` is like ``"block_0/BatchNorm_1/scale"``. Recognised are components that are
    called bn or end in norm or normalization, a number aside (``BatchNorm_0``,
    ``layer_norm``, ``norm2``, ``bn1``), which covers Flax, Equinox and Haiku.
    """
    return any(_NORMALISATION.search(part.lower()) for part in path.split("/"))


@dataclasses.dataclass(frozen=True)
class RelativeBall:
    """The set of weight perturbations ``nu`` with ``||nu_l|| <= radius * ||w_l||``.

    Attributes:
      radius: xi of Eq. (4), relative to the norm of each layer, no unit.
      per: what counts as a layer. "layer": each leaf (Eq. (2)). "filter": each slice of the
        last axis, the output channels of a Flax kernel (Eq. (1)); a leaf of one dimension
        counts as one filter. Or a function of a leaf's path and the leaf that returns the
        axes that belong to one layer, None for all: ``lambda path, leaf: (1, 2, 3)`` for
        filters whose output channels come first, ``tuple(range(1, leaf.ndim))`` for layers
        that are stacked along the first axis.
      exclude: predicate on leaf paths ("block_0/BatchNorm_1/scale"); leaves for which it
        is true are not perturbed.
      drawn: how `sample` draws. "ball": uniformly in the ball of each layer. "sphere":
        uniformly on its surface. "norm": a uniform direction, and a norm uniform in
        [0, radius * ||w_l||]. In high dimension nearly all of a ball is next to its
        surface: "ball" and "sphere" hardly differ for a layer of thousands of weights (the
        median norm in d dimensions is ``0.5**(1/d)`` of the radius), while "norm" draws
        half of all perturbations at less than half the radius and looks far flatter.

    Raises:
      ValueError: `radius` is negative or not finite, or `per` or `drawn` is something else.

    Example:
      >>> import jax.numpy as jnp, rfm
      >>> params = {"kernel": jnp.array([3.0, 4.0]), "norm": {"scale": jnp.ones(2)}}
      >>> nu = rfm.perturb.RelativeBall(radius=0.5).direction(params, params)
      >>> print(nu["kernel"], nu["norm"]["scale"])
      [1.5 2. ] [0. 0.]
    """

    radius: float
    per: Literal["layer", "filter"] | AxesOfLayer = "layer"
    exclude: Callable[[str], bool] = is_normalisation
    drawn: Literal["ball", "sphere", "norm"] = "ball"

    def __post_init__(self) -> None:
        if not 0 <= self.radius < float("inf"):
            raise ValueError(f"radius must be a finite number >= 0, got {self.radius!r}")
        if self.per not in ("layer", "filter") and not callable(self.per):
            raise ValueError(f"per must be 'layer', 'filter' or a function, got {self.per!r}")
        if self.drawn not in ("ball", "sphere", "norm"):
            raise ValueError(f"drawn must be 'ball', 'sphere' or 'norm', got {self.drawn!r}")

    def sample(self, key: Key[Array, ""], params: Params) -> Params:
        """A perturbation drawn from the ball, a tree like `params`.

        A uniform direction in each layer times a share of the radius: for `drawn` "ball"
        ``u**(1/d)``, u uniform in [0, 1], d the layer's dimension; 1 for "sphere"; u for
        "norm".
        """
        direction_key, radius_key = jax.random.split(key)
        direction = self.normalise(draw_like(direction_key, params, jax.random.normal), params)
        norms = jax.tree_util.tree_map_with_path(self._norm, params)
        uniform = draw_like(radius_key, norms, jax.random.uniform)

        def shrink(leaf: Array, uniform: Array) -> Array:
            exponents = {"ball": uniform.size / leaf.size, "sphere": 0.0, "norm": 1.0}
            return self.radius * uniform ** exponents[self.drawn] * leaf

        return jax.tree.map(shrink, direction, uniform)

    def direction(self, towards: Params, params: Params) -> Params:
        """`towards`, rescaled to the radius in every layer: ``radius * normalise(towards)``."""
        return jax.tree.map(lambda leaf: self.radius * leaf, self.normalise(towards, params))

    def random_direction(self, key: Key[Array, ""], params: Params) -> Params:
        """A random direction of the radius's length in every layer (Section C)."""
        return self.direction(draw_like(key, params, jax.random.normal), params)

    def project(self, perturbation: Params, params: Params) -> Params:
        """The nearest point of the ball, layer by layer; inside nothing moves."""

        def project(path: KeyPath, nu: Array, w: Array) -> Array:
            norm, limit = self._norm(path, nu), self.radius * self._norm(path, w)
            return jnp.where(norm > limit, nu * (limit / jnp.where(norm > 0, norm, 1.0)), nu)

        return self._map(project, perturbation, params)

    def normalise(self, direction: Params, params: Params) -> Params:
        """``direction_l / ||direction_l|| * ||w_l||``, Eq. (1) or (2).

        A layer whose direction is 0 stays 0.
        """

        def normalise(path: KeyPath, nu: Array, w: Array) -> Array:
            norm = self._norm(path, nu)
            return nu * (self._norm(path, w) / jnp.where(norm > 0, norm, 1.0))

        return self._map(normalise, direction, params)

    def _norm(self, path: KeyPath, leaf: Array) -> Array:
        axes = None
        if self.per == "filter" and leaf.ndim > 1:
            axes = tuple(range(leaf.ndim - 1))
        elif callable(self.per):
            axes = self.per(leaf_name(path), leaf)
        squared = jnp.sum(jnp.square(leaf), axis=axes, keepdims=True)
        return jnp.sqrt(squared)

    def _map(self, function: Callable[..., Array], tree: Params, params: Params) -> Params:
        def apply(path: KeyPath, nu: Array, w: Array) -> Array:
            excluded = self.exclude(leaf_name(path))
            return jnp.zeros_like(nu) if excluded else function(path, nu, w)

        return jax.tree_util.tree_map_with_path(apply, tree, params)


def draw_like(key: Key[Array, ""], like: Params, sampler: Callable[..., Array]) -> Params:
    """A tree like `like`, drawn in one call and then cut up.

    One call for each leaf of a ResNet-18 took seven times as long to compile.
    """
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    dtype = jnp.result_type(*leaves)
    flat = sampler(key, (int(ends[-1]),), dtype)
    parts = jnp.split(flat, ends[:-1])
    drawn = [
        part.reshape(leaf.shape).astype(leaf.dtype)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)
