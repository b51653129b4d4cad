"""One process of a job, started by the tests beside it: `worker.py TASK FOLDER NUMBER COUNT PORT`.

Process 0 writes what all have found to ``FOLDER/found.npz``.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rfm import attacks, devices, flatness, losses, models, perturb, processes, threat
from rfm.attacks.ensembles import Stage
from rfm.errors import UserError
from rfm.training import optimiser as optimisers
from rfm.training.adversary import NoAdversary
from rfm.training.dispatch import make_dispatch
from rfm.training.objective import CrossEntropy
from rfm.training.schedule import multi_step
from rfm.training.state import create_train_state
from rfm.training.step import Method, Network, TrainBatch
from rfm.types import bind

FIXTURE = Path(__file__).parents[1] / "fixtures" / "cifar10_small.npz"
BATCH = 32


class Tanh:
    """A network with batch normalisation, small enough to be compiled in a second."""

    def __init__(self, dtype: Any) -> None:
        rng = np.random.default_rng(0)
        self.params = {
            "in": jnp.asarray(rng.normal(size=(192, 12)) / 14, dtype),
            "norm": {"scale": jnp.ones(12, dtype)},
            "out": jnp.asarray(rng.normal(size=(12, 10)) / 3, dtype),
        }
        self.stats = {"mean": jnp.zeros(12, dtype), "var": jnp.ones(12, dtype)}

    @staticmethod
    def evaluate(stats, params, x):
        hidden = x[:, ::4, ::4].reshape(len(x), -1) @ params["in"]
        hidden = (hidden - stats["mean"]) * jax.lax.rsqrt(stats["var"] + 1e-5)
        return jnp.tanh(hidden * params["norm"]["scale"]) @ params["out"]

    @staticmethod
    def train(variables, x, rngs):
        params = variables["params"]
        hidden = x[:, ::4, ::4].reshape(len(x), -1) @ params["in"]
        mean = jax.lax.pmean(hidden.mean(0), devices.AXIS)
        var = jax.lax.pmean(((hidden - mean) ** 2).mean(0), devices.AXIS)
        hidden = (hidden - mean) * jax.lax.rsqrt(var + 1e-5)
        stats = {"mean": mean, "var": var}
        new = optax.tree.add_scale(optax.tree.scale(0.9, variables["batch_stats"]), 0.1, stats)
        return jnp.tanh(hidden * params["norm"]["scale"]) @ params["out"], new


class Brighten:
    """Fixed adversarial inputs."""

    def __call__(self, logits_fn, x, y, key):
        return jnp.clip(x + 0.05, 0.0, 1.0)


def examples() -> tuple[np.ndarray, np.ndarray]:
    with np.load(FIXTURE) as data:
        return data["x_train"][:96], data["y_train"][:96].astype(np.int32)


def trained(method: Method, network: Any, params, stats, steps: int) -> Any:
    mesh = devices.make_mesh(BATCH)
    images, labels = examples()
    data = (TrainBatch(*devices.replicate((images, labels), mesh)),)
    state = create_train_state(params, stats, method.optimiser.init(params))
    dispatch = make_dispatch(method, network, mesh, batch_size=BATCH, longest=3)
    state, key = devices.replicate((state, jax.random.key(0)), mesh)
    metrics = None
    for _ in range(steps // 3 or 1):
        state, metrics = dispatch(state, data, key, jnp.int32(min(steps, 3)))
    return devices.fetch({"params": state.params, "stats": state.batch_stats, "metrics": metrics})


def sgd() -> Any:
    schedule = multi_step(0.05, (), 0.1, 1)
    return optimisers.sgd(schedule, momentum=0.9, nesterov=True, weight_decay=0.0005)


def layouts() -> dict[str, Any]:
    """What must not depend on how many processes and devices there are."""
    model = models.create(
        "resnet8", classes=10, width=4, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)
    )
    params, stats = models.initialise(model, jax.random.key(0), (32, 32, 3))
    network = Network(models.EvaluationMode(model), models.train_fn(model, axis_name=devices.AXIS))
    method = Method(None, Brighten(), CrossEntropy(), sgd())
    found: dict[str, Any] = {"update": trained(method, network, params, stats, 1)}
    with jax.enable_x64(True):
        small = Tanh(jnp.float64)
        plain = Method(None, NoAdversary(), CrossEntropy(), sgd())
        net = Network(small.evaluate, small.train)
        found["float64"] = trained(plain, net, small.params, small.stats, 30)
    found |= measured()
    return found


def measured() -> dict[str, Any]:
    small, mesh, key = Tanh(jnp.float32), devices.make_mesh(BATCH), jax.random.key(1)
    images, y = examples()
    x = images[:50].astype(np.float32) / np.float32(255)
    y = y[:50]
    apply_fn = jax.tree_util.Partial(Tanh.evaluate, small.stats)
    small_steps = functools.partial(attacks.PGD, threat.linf(8 / 255), 5, 0.01)
    options: dict[str, Any] = {"batch_size": BATCH, "mesh": mesh}
    model = apply_fn, small.params
    reference = flatness.reference(*model, x, y, key, attack=small_steps(restarts=2), **options)
    ball = perturb.RelativeBall(0.5)
    average = flatness.average_case(
        *model,
        x,
        y,
        key,
        ball=ball,
        samples=3,
        attack=small_steps(),
        reference=reference,
        **options,
    )
    worst = flatness.worst_case(
        *model,
        x,
        y,
        key,
        ball=perturb.RelativeBall(0.01),
        threat=threat.linf(8 / 255),
        steps=4,
        restarts=3,
        reference=reference,
        **options,
    )
    linf, dlr = threat.linf(0.06), losses.targeted_difference_of_logits_ratio
    stages = (
        Stage("square", attacks.Square(linf, queries=5)),
        Stage("apgd", attacks.APGD(linf, steps=1)),
        Stage("fab", attacks.FAB(linf, steps=4)),
        Stage("targeted", attacks.APGD(linf, steps=4, loss=dlr), targeted=True, passes=2),
    )
    named = np.asarray(bind(*model)(x).argmax(-1), np.int32)  # all stand at first
    broken = attacks.autoattack(
        bind(*model), x, named, key, threat=linf, version=stages, batch_size=(16, 32), mesh=mesh
    )
    eigen = flatness.extreme_eigenvalues(*model, x, y, key, products=8, **options)
    path = flatness.landscape(
        *model,
        ball.random_direction(key, small.params),
        x,
        y,
        key,
        attack=None,
        steps=(0, 1),
        **options,
    )
    return {
        "reference": reference,
        "average": average.samples,
        "worst": worst.samples,
        "broken_by": broken.broken_by.astype("U"),
        "autoattack": broken.loss,
        "lambda": [eigen.largest.value, eigen.smallest.value],
        "bent": eigen.largest.examples,
        "landscape": path.losses,
    }


def exchange() -> dict[str, Any]:
    """Everything of `rfm.processes` and `rfm.devices`, each process with values of its own."""
    me, mesh = processes.number(), devices.make_mesh(8)

    def fails(error: Exception) -> str:
        def function() -> None:
            raise error

        try:
            processes.by_first(function)
        except UserError as caught:
            return f"{caught} {caught.told}"
        except OSError as caught:
            return f"{caught.errno} {caught.filename}"
        return "nothing"

    odd = np.array([-0.0, np.nan, np.inf, 1e-40], np.float32)
    mine = odd if me == 0 else np.ones_like(odd)
    told = processes.from_first([mine, np.arange(6).reshape(2, 3) + me, np.array(me == 0)])
    long = bytes(range(256)) * 3000
    keys = jax.random.split(jax.random.key(3), 8)
    tree = {"key": keys, "double": np.arange(8.0), "byte": np.arange(8, dtype=np.uint8)}
    cut = devices.shard(tree, mesh)
    whole = devices.replicate({**tree, "scalar": np.float32(3)}, mesh)
    found = {
        "value": processes.by_first(lambda: {"who": me, "list": [1, "zwei", None]})
        == {"who": 0, "list": [1, "zwei", None]},
        "none": processes.bytes_by_first(lambda: None) is None,
        "empty": processes.bytes_by_first(lambda: b"") == b"",
        "bytes": processes.bytes_by_first(lambda: long if me == 0 else None) == long,
        "user": fails(UserError(f"of {me}")) == f"of 0 {processes.count() > 1}",
        "system": fails(OSError(28, "no space", f"file{me}")) == "28 file0",
        "largest": processes.largest(me * 3) == 3 * (processes.count() - 1),
        "bits": told[0].tobytes() == odd.tobytes(),
        "integers": told[1].tolist() == [[0, 1, 2], [3, 4, 5]],
        "bool": bool(told[2]),
        "double": devices.fetch(cut["double"] * 2).tolist() == (np.arange(8.0) * 2).tolist(),
        "keys": np.array_equal(
            devices.fetch(jax.random.key_data(cut["key"])), jax.random.key_data(keys)
        ),
        "key": bool(
            (devices.fetch(jax.random.key_data(whole["key"])) == jax.random.key_data(keys)).all()
        ),
        "scalar": float(devices.fetch(whole["scalar"])) == 3.0,
        "again": devices.fetch(devices.shard(whole["byte"], mesh)).tolist() == list(range(8)),
    }
    wrong = [name for name, right in found.items() if not right]
    assert not wrong, f"process {me}: {wrong}"
    return {}


def main() -> None:
    task, folder, number, count, port = sys.argv[1:]
    if int(count) > 1:
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            f"127.0.0.1:{port}", int(count), int(number), cluster_detection_method="deactivate"
        )
    found = {"layouts": layouts, "exchange": exchange}[task]()
    leaves, _ = jax.tree_util.tree_flatten_with_path(found)
    if processes.is_first():
        arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
        np.savez(Path(folder) / "found.npz", **arrays)


if __name__ == "__main__":
    main()
