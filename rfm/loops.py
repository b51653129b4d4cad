"""Loops that are compiled where that is fast.

An attack is a loop around a network. On GPU and TPU the whole loop belongs into one
compiled program. On CPU, XLA brings convolutions into the form that its fast kernels
want only outside of loops: the backward convolutions of an ordinary Flax network run
about ten times slower inside ``fori_loop`` than outside. `rfm.models` writes its
convolutions in that form and may loop anywhere; for everybody else's networks the
loop is driven step by step from Python, each step compiled.

`runs_fast_in_loops` finds out which case it is by looking at the network's gradient,
and `repeat` and `map_over` take the answer.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, PyTree

from rfm.types import LogitsFn, as_partial

Carry = TypeVar("Carry")

# What XLA's CPU back end calls canonical: NHWC inputs and outputs, HWIO kernels.
_CANONICAL = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_CANONICAL_TEXT = "[b,0,1,f]x[0,1,i,o]->[b,0,1,f]"
_CONVOLUTION = re.compile(r"dim_numbers = (\[[^]]*0, 1[^]]*\]x\[[^]]*\]->\[[^]]*\])")


def repeat(
    body: Callable[[Carry], Carry],
    steps: int,
    carry: Carry,
    *,
    compiled: bool,
    done: Callable[[Carry], Array] | None = None,
) -> Carry:
    """``carry = body(carry)``, `steps` times; a single compiled loop if `compiled`.

    Once `done` is true of the carry, which `body` must then leave as it is, the rest may be
    left out.
    """
    if compiled:
        if done is None:
            return lax.fori_loop(0, steps, lambda _, c: body(c), carry)

        def goes_on(counted: tuple[Array, Carry]) -> Array:
            return (counted[0] < steps) & ~done(counted[1])

        start = jax.numpy.int32(0), carry
        return lax.while_loop(goes_on, lambda c: (c[0] + 1, body(c[1])), start)[1]
    for i in range(steps):
        # Asking waits for the device, so it is not done at every step.
        if done is not None and i % 10 == 0 and bool(done(carry)):
            break
        carry = body(carry)
    return carry


def map_over(function: Callable[..., PyTree], xs: PyTree, *, compiled: bool) -> PyTree:
    """`function` of every leading index of `xs`, one after the other, stacked."""
    if compiled:
        return lax.map(function, xs)
    length = jax.tree.leaves(xs)[0].shape[0]
    results = [function(jax.tree.map(lambda leaf, i=i: leaf[i], xs)) for i in range(length)]
    return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *results)


def runs_fast_in_loops(
    logits_fn: LogitsFn, x: Array | np.ndarray, *, gradient: bool = True
) -> bool:
    """May `logits_fn` at inputs like `x`, and its gradient, be put into a compiled loop?

    Always on GPU and TPU. On CPU, if every convolution is in canonical form, of the
    forward pass and, with `gradient`, of the backward pass. Traces it, once per function
    and shape.
    """
    if jax.default_backend() != "cpu":
        return True
    leaves, structure = jax.tree.flatten((as_partial(logits_fn), x))
    signature = tuple((jax.numpy.shape(v), jax.numpy.result_type(v)) for v in leaves)
    return _is_canonical(structure, signature, gradient)


@functools.lru_cache(maxsize=64)
def _is_canonical(
    structure: Any, signature: tuple[tuple[tuple[int, ...], Any], ...], gradient: bool
) -> bool:
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in signature]
    logits_fn, x = jax.tree.unflatten(structure, leaves)
    constants, treedef = jax.tree.flatten(logits_fn)

    def total(x: Array, constants: list[Array]) -> Array:
        return jax.tree.unflatten(treedef, constants)(x).sum()

    jaxpr = jax.make_jaxpr(jax.grad(total) if gradient else total)(x, constants)
    return all(map(_may_loop, _equations(jaxpr.jaxpr)))


def _may_loop(eqn: Any) -> bool:
    """Is the equation fast in a loop on CPU?"""
    if eqn.primitive.name == "call_exported":  # of `jax.export`: the program is text
        found = _CONVOLUTION.findall(eqn.params["exported"].mlir_module())
        return all("".join(form.split()) == _CANONICAL_TEXT for form in found)
    if eqn.primitive.name == "conv_general_dilated" and len(eqn.outvars[0].aval.shape) == 4:
        return tuple(eqn.params["dimension_numbers"]) == _CANONICAL
    return True


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """All equations, those of inner programs included, that would run on CPU."""
    for eqn in jaxpr.eqns:
        yield eqn
        inner = dict(eqn.params)
        if platforms := inner.pop("branches_platforms", None):
            chosen = next(i for i, names in enumerate(platforms) if names is None or "cpu" in names)
            inner["branches"] = inner["branches"][chosen]
        for value in jax.tree.leaves(
            list(inner.values()), is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(value, ClosedJaxpr):
                yield from _equations(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from _equations(value)
