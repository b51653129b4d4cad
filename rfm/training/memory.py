"""How much memory a compiled step needs, known before it runs."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Memory(NamedTuple):
    """Bytes on each device.

    Attributes:
      arguments: of the state, and of the data where they live on the device.
      outputs: that do not take the place of arguments.
      temporary: activations above all; what smaller batches, micro-batches and
        rematerialisation (``config.model.remat``) make smaller.
      program: the machine code.
      limit: what the device has, None if it does not say.
    """

    arguments: int
    outputs: int
    temporary: int
    program: int
    limit: int | None

    @property
    def total(self) -> int:
        """All together."""
        return self.arguments + self.outputs + self.temporary + self.program

    def __str__(self) -> str:
        of = "" if self.limit is None else f" of {_size(self.limit)}"
        return (
            f"memory of the compiled step, on each device: {_size(self.total)}{of}"
            f" ({_size(self.arguments)} state and data, {_size(self.temporary)} temporary,"
            f" {_size(self.outputs)} results, {_size(self.program)} program)"
        )


def memory_of(dispatch: functools.partial[Any], *arguments: Any) -> Memory | None:
    """Of what `rfm.training.dispatch.make_dispatch` made; compiles it, runs nothing.

    Args:
      dispatch: the dispatch.
      *arguments: state, data and key, as for a call.

    Returns:
      None where the back end does not say.
    """
    lowered = dispatch.func.lower(*dispatch.args, *arguments, jnp.int32(1))  # type: ignore[attr-defined]
    found = lowered.compile().memory_analysis()
    if found is None:
        return None
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return Memory(
        arguments=found.argument_size_in_bytes,
        outputs=max(found.output_size_in_bytes - found.alias_size_in_bytes, 0),
        temporary=found.temp_size_in_bytes,
        program=found.generated_code_size_in_bytes,
        limit=limit,
    )


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}"
