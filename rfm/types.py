"""The contracts that everything rests on.

A model is a function. Attacks see a ``LogitsFn`` of inputs alone, flatness sees an
``ApplyFn`` of parameters and inputs, and only ``rfm.training`` ever sees a
``TrainFn``. Whitening, batch statistics and casts are inside the function, so any
JAX model fits in one line::

    logits_fn = jax.tree_util.Partial(model.apply, variables)      # Flax linen
    apply_fn = lambda params, x: model.apply({"params": params}, x)

A fresh lambda compiles again; a ``jax.tree_util.Partial`` is a pytree whose arrays
are traced, so all checkpoints of a run share one compilation. Functions of this
library accept both: ``as_partial`` makes the second out of the first.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

Images = Float[Array, "n h w c"]
"""Inputs in [0, 1], channels last."""

Labels = Int[Array, " n"]
Logits = Float[Array, "n k"]
PerExample = Float[Array, " n"]
Params: TypeAlias = PyTree[Float[Array, "..."]]
Targets = Int[Array, " n"] | Float[Array, "n k"]
"""What a loss may need beside the labels: classes to push to, or logits to move away from."""
Keys = Key[Array, ""] | Key[Array, " n"]
"""One key for the whole batch, or one per example (then results do not depend on
how examples are batched)."""

LogitsFn = Callable[[Images], Logits]
ApplyFn = Callable[[Params, Images], Logits]
TrainFn = Callable[[PyTree, Images, dict[str, Array]], tuple[Logits, PyTree]]
LossFn = Callable[[Logits, Labels], PerExample]
"""Per-example loss of logits; what an attack ascends."""


class Threat(Protocol):
    """A set of allowed input perturbations; see `rfm.threat`."""

    @property
    def epsilon(self) -> float: ...

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array: ...

    def project(self, delta: Images) -> Images: ...

    def steepest_ascent(self, gradient: Images) -> Images: ...

    def norm(self, delta: Images) -> PerExample: ...


def as_partial(function: Callable[..., Any]) -> jax.tree_util.Partial:
    """`function` as a pytree that can be passed through ``jax.jit``."""
    if isinstance(function, jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def bind(function: Callable[..., Any], *arguments: Any) -> jax.tree_util.Partial:
    """`function` with its first arguments given, as one pytree.

    ``bind(apply_fn, params)`` is the ``LogitsFn`` of an ``ApplyFn``. (Nesting
    ``Partial`` in ``Partial`` would hide the inner arrays from JAX.)
    """
    partial = as_partial(function)
    return jax.tree_util.Partial(partial.func, *partial.args, *arguments, **partial.keywords)


def leaf_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf of a pytree in words: ``stage1_block1/conv1/conv/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def example_keys(key: Keys, n: int) -> Key[Array, " n"]:
    """One key per example: `key` itself if it is already that.

    Raises:
      ValueError: `key` is neither one key nor `n` keys, or is not a typed key
        (``jax.random.key``).
    """
    if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError("key must be a typed key; make one with jax.random.key(seed)")
    if key.shape == ():
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jax.numpy.arange(n))
    if key.shape == (n,):
        return key
    raise ValueError(f"key must be one key or {n} keys, one per example; got shape {key.shape}")
