"""Many steps in one dispatch, over a data set that lives on the device, or a stream.

Examples of an epoch come in the order of a permutation that depends on the seed and
the epoch. The last, partial batch is dropped: 50,000 examples in batches of 128 are
390 steps an epoch, and the 80 that are left out change with the permutation. A dispatch
never crosses the end of an epoch, and its number of steps is a traced number, so that
all dispatches are one compilation.

A training set too large for the devices comes as the batches of the steps of a dispatch, in the
same order (`rows_of_step`), from `rfm.data.stream`: training is the same, number by number.
"""

import functools
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from rfm.devices import AXIS
from rfm.training.state import TrainState
from rfm.training.step import Method, Network, TrainBatch, train_step

Metrics = dict[str, Float[Array, " steps"]]
Dispatch = functools.partial[tuple[TrainState, Metrics]]


def steps_per_epoch(examples: int, batch_size: int, batches_per_step: int = 1) -> int:
    """Whole steps that fit into an epoch.

    Raises:
      ValueError: there are fewer examples than one step takes.
    """
    steps = examples // (batch_size * batches_per_step)
    if steps == 0:
        raise ValueError(f"{examples} examples are too few for one batch of {batch_size}")
    return steps


def make_dispatch(
    method: Method, network: Network, mesh: Mesh, *, batch_size: int, longest: int
) -> Dispatch:
    """A compiled ``(state, data, key, steps) -> state, metrics``; donates the state.

    Args:
      method: the training method.
      network: the network.
      mesh: the devices.
      batch_size: examples per batch, a multiple of the mesh.
      longest: the largest number of steps per dispatch.

    Returns:
      A function of the state, the data, the run's key and the number of steps (at most
      `longest`, and not beyond the end of the epoch). The data are on the devices: all
      training examples, and perhaps others, of which then half of every batch is drawn, with
      replacement (every second example). Metrics have `longest` entries, NaN beyond the
      steps done.
    """
    return functools.partial(_dispatch, method, network, mesh, batch_size, longest)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=5)
def _dispatch(
    method: Method,
    network: Network,
    mesh: Mesh,
    batch_size: int,
    longest: int,
    state: TrainState,
    data: tuple[TrainBatch, ...],
    key: Key[Array, ""],
    steps: Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    per_step = method.optimiser.batches
    layout = NamedSharding(mesh, PartitionSpec(AXIS))
    examples = data[0].labels.shape[0]
    in_epoch = steps_per_epoch(examples, batch_size, per_step)
    order_key, step_key, others_key = jax.random.split(key, 3)
    order = _order(order_key, state.step // in_epoch, examples)

    def batch(position: Int[Array, ""], number: Int[Array, ""]) -> TrainBatch:
        if len(data) == 1:
            rows = jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))
            rows = jax.lax.with_sharding_constraint(rows, layout)
            return jax.tree.map(lambda v: v[rows], data[0])
        half = batch_size // 2
        rows = jax.lax.dynamic_slice(order, (position * half,), (half,))
        drawn = jax.random.fold_in(others_key, number)
        others = jax.random.randint(drawn, (half,), 0, data[1].labels.shape[0])
        mixed = jax.tree.map(
            lambda v, w: jnp.stack([v[rows], w[others]], axis=1).reshape(batch_size, *v.shape[1:]),
            *data,
        )
        return jax.lax.with_sharding_constraint(mixed, layout)

    def draw(i: Int[Array, ""], step: Int[Array, ""]) -> tuple[TrainBatch, ...]:
        position, number = (step % in_epoch) * per_step, step * per_step
        return tuple(batch(position + j, number + j) for j in range(per_step))

    return _steps(method, network, mesh, longest, draw, state, step_key, steps)


def make_stream_dispatch(method: Method, network: Network, mesh: Mesh, *, longest: int) -> Dispatch:
    """As `make_dispatch`, of a stream: the data are the batches of the steps themselves.

    Returns:
      A function of the state, the batches, the run's key and the number of steps. Arrays of the
      batches have the shape (`longest`, batches per step, batch size, ...), cut over the mesh
      along the third axis; steps beyond the number given may hold anything.
    """
    return functools.partial(_dispatch_stream, method, network, mesh, longest)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _dispatch_stream(
    method: Method,
    network: Network,
    mesh: Mesh,
    longest: int,
    state: TrainState,
    batches: TrainBatch,
    key: Key[Array, ""],
    steps: Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    def draw(i: Int[Array, ""], step: Int[Array, ""]) -> tuple[TrainBatch, ...]:
        return tuple(
            jax.tree.map(lambda v, j=j: v[i, j], batches) for j in range(method.optimiser.batches)
        )

    step_key = jax.random.split(key, 3)[1]
    return _steps(method, network, mesh, longest, draw, state, step_key, steps)


def rows_of_step(
    key: Key[Array, ""], examples: int, batch_size: int, batches_per_step: int
) -> Callable[[int], Int[np.ndarray, " rows"]]:
    """Which examples `make_dispatch`'s function takes for a step, batch after batch.

    Args:
      key: the run's key.
      examples: in the training set.
      batch_size: examples per batch.
      batches_per_step: see `rfm.training.optimiser`.

    Returns:
      A function of the step, for any thread. It keeps the orders of two epochs.
    """
    in_epoch = steps_per_epoch(examples, batch_size, batches_per_step)
    order_key, rows = jax.random.split(key, 3)[0], batch_size * batches_per_step

    orders: dict[int, Int[np.ndarray, " examples"]] = {}
    lock, device = threading.Lock(), _host_device()

    def order(epoch: int) -> Int[np.ndarray, " examples"]:
        with lock:
            if epoch not in orders:
                for old in sorted(orders)[:-1]:
                    del orders[old]
                with jax.default_device(device):
                    orders[epoch] = np.asarray(_order(order_key, epoch, examples))
            return orders[epoch]

    def of(step: int) -> Int[np.ndarray, " rows"]:
        epoch, position = divmod(step, in_epoch)
        return order(epoch)[position * rows : (position + 1) * rows]

    return of


def _host_device() -> jax.Device:
    """The host's, so that the others are left alone; JAX_PLATFORMS may have excluded it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _order(key: Key[Array, ""], epoch: int | Array, examples: int) -> Int[Array, " examples"]:
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)


def _steps(
    method: Method,
    network: Network,
    mesh: Mesh,
    longest: int,
    draw: Callable[[Array, Array], tuple[TrainBatch, ...]],
    state: TrainState,
    step_key: Key[Array, ""],
    steps: Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    """`draw` makes the batches of the i-th step of a dispatch, of the run's step."""

    def body(i: Int[Array, ""], carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, metrics = carry
        of_step, drawn = jax.random.fold_in(step_key, state.step), draw(i, state.step)
        state, values = train_step(method, network, mesh, state, drawn, of_step)
        values = {name: value.astype(jnp.float32) for name, value in values.items()}
        return state, {name: metrics[name].at[i].set(values[name]) for name in metrics}

    empty = jnp.full(longest, jnp.nan, jnp.float32)
    return jax.lax.fori_loop(0, steps, body, (state, {"loss": empty, "error": empty}))
