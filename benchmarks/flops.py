"""How many floating-point operations a step of adversarial training needs, and a device can do.

A step of PGD-k differentiates the inputs k times, goes forward once more to look at the last
iterate, and differentiates the weights once (`of_step`). XLA counts the operations of each of
these three programs. It cannot count them in the compiled step: of a loop it counts the body
once, and on GPUs it does not look into the library's convolutions at all. Operations on the
zeros around an image are not counted.

`forward` counts the products of a network by hand, as a check, and on request with the zeros:
that is the number that papers give.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.harness import in_turns
from rfm import models
from rfm.models import EvaluationMode, TrainingMode

_CHAIN = 16  # products in one call: what a single one takes is near the cost of calling


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A square convolution as in PyTorch, padded by half of its kernel, of `size` x `size`."""

    size: int
    inputs: int
    features: int
    kernel: int = 3
    stride: int = 1

    @property
    def outputs(self) -> int:
        """Height and width of what comes out."""
        return (self.size - 1) // self.stride + 1

    def flops(self, *, zeros: bool) -> int:
        """Two per product of an input and a weight, for one example; with those by zeros?"""
        pad, reached = self.kernel // 2, range(self.size)
        taps = [
            i * self.stride - pad + k in reached
            for i in range(self.outputs)
            for k in range(self.kernel)
        ]
        along = len(taps) if zeros else sum(taps)
        return 2 * along**2 * self.inputs * self.features


def convolutions(
    stages: tuple[int, ...], width: int, *, stem: int = 0, size: int = 32, channels: int = 3
) -> Iterator[Convolution]:
    """Those of an `rfm.models.resnet.ResNet` of blocks of two, in order; `stem` 0: `width`."""
    inputs = stem or width
    yield Convolution(size, channels, inputs)
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            features, stride = width * 2**stage, 2 if stage > 0 and block == 0 else 1
            first = Convolution(size, inputs, features, stride=stride)
            yield first
            yield Convolution(first.outputs, features, features)
            if stride != 1 or inputs != features:
                yield Convolution(size, inputs, features, kernel=1, stride=stride)
            size, inputs = first.outputs, features


def forward(
    stages: tuple[int, ...],
    width: int,
    *,
    stem: int = 0,
    classes: int = 10,
    size: int = 32,
    zeros: bool = False,
) -> int:
    """Operations in the products of a ResNet's forward pass, for one example."""
    of_all = convolutions(stages, width, stem=stem, size=size)
    products = sum(c.flops(zeros=zeros) for c in of_all)
    return products + 2 * width * 2 ** (len(stages) - 1) * classes


def of_step(forward: float, input_gradient: float, gradient: float, steps: int) -> float:
    """Operations of a step of adversarial training by PGD with so many steps."""
    return steps * input_gradient + forward + gradient


def counted(model: nn.Module, *, size: int = 32, channels: int = 3, batch: int = 8) -> dict:
    """What XLA counts for one example.

    Returns:
      `forward`, `input_gradient` (evaluation mode) and `gradient` (training mode, of the
      weights). Lowered, not compiled: this works on any machine.
    """
    image = (size, size, channels)
    params, stats = jax.eval_shape(lambda: models.initialise(model, jax.random.key(0), image))
    x = jax.ShapeDtypeStruct((batch, *image), jnp.float32)
    evaluate, train = EvaluationMode(model), TrainingMode(model)

    def loss(params: Any, stats: Any, x: Any) -> Any:
        return train({"params": params, "batch_stats": stats}, x, {})[0].sum()

    programs: dict[str, Callable[..., Any]] = {
        "forward": evaluate,
        "input_gradient": jax.grad(lambda *given: evaluate(*given).sum(), argnums=2),
        "gradient": lambda stats, params, x: jax.grad(loss)(params, stats, x),
    }
    found = {}
    for name, program in programs.items():
        # As for a GPU: the kernel gradients for CPUs are loops, whose bodies count once.
        lowered = jax.jit(program).trace(stats, params, x).lower(lowering_platforms=("cuda",))
        found[name] = lowered.cost_analysis()["flops"] / batch
    return found


def peak(dtype: str, sizes: tuple[int, ...], repeats: int) -> dict[str, dict[str, Any]]:
    """Operations per second in products of square matrices, by size; all seconds, too."""

    @jax.jit
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, _CHAIN, lambda _, x: x @ w, x)

    def call(x: jax.Array, w: jax.Array) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(chain(x, w))

    calls = {}
    for size in sizes:
        # Noise: zeros take less power, and GPUs are then faster than they are in earnest. Of
        # this length products neither grow nor vanish.
        x, w = jax.random.normal(jax.random.key(0), (2, size, size), jnp.dtype(dtype))
        calls[str(size)] = call(x, w / jnp.asarray(size**0.5, w.dtype))
    seconds = in_turns(calls, repeats)
    return {
        size: {"flops_per_second": _CHAIN * 2 * int(size) ** 3 / min(spent), "seconds": spent}
        for size, spent in seconds.items()
    }
