"""Are the two sides the same computation? Compares their numbers in one process.

What is random is fixed on both sides: attacks start at the input, weight perturbations at
``radius * w``, a point of the ball's surface. Everything else is what is timed.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
import torch
from jaxtyping import Array, Key

import rfm
from benchmarks import rfm_side, torch_side
from benchmarks import workload as given
from benchmarks.torch_attacks import PGD
from benchmarks.torch_resnet import flax_path, from_flax
from benchmarks.workload import Workload
from rfm import models
from rfm.types import Params, bind, leaf_name

LIMIT = 1e-4  # relative, of the Euclidean norm


class FixedBall(rfm.perturb.RelativeBall):
    """A ball that always draws the perturbation ``radius * w``."""

    def sample(self, key: Key[Array, ""], params: Params) -> Params:
        """Always the same perturbation."""
        return jax.tree.map(lambda w: self.radius * w, self.normalise(params, params))


class FixedThreat(rfm.threat.Linf):
    """A ball around inputs that always draws its centre."""

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Always no perturbation."""
        return jax.numpy.zeros(shape)


def differences(width: int, batch: int) -> Iterator[tuple[str, float]]:
    """What is compared, and the relative difference of the two sides there."""
    jax.config.update("jax_enable_x64", True)
    # Signs of gradients that are almost 0 differ between any two implementations, and the
    # trajectories after them: many steps are compared in float64, a single one in float32.
    for dtype, steps in (("float32", 1), ("float64", given.TRAIN_STEPS)):
        asked = Workload("pgd", width, 1, batch=batch, steps=steps, dtype=dtype)
        clean = dataclasses.replace(asked, robust=False)
        for name, difference in (*_attacks(asked), *_flatness(asked), *_flatness(clean)):
            yield f"{dtype}, {name}", difference
    asked = Workload("at_step", width, 1, batch=batch, dtype="float64")
    yield "float64, update of an AT step", _training(asked)


def _attacks(asked: Workload) -> Iterator[tuple[str, float]]:
    model, params, stats = rfm_side.network(asked)
    logits_fn = bind(models.apply_fn(model, stats), params)
    x, y = rfm_side.inputs(asked)
    peer, (peer_x, peer_y) = torch_side.network(asked), torch_side.inputs(asked)
    with torch.no_grad():
        yield "logits", _relative(jax.jit(logits_fn)(x), peer(peer_x))

    attack = rfm_side.attack(asked, steps=asked.steps, random_start=False)
    found = attack(logits_fn, x, y, jax.random.key(0))
    peer_attack = PGD(asked.steps, random=False)
    for name in ("together", "one_by_one"):
        peer_found = getattr(peer_attack, name)(peer, peer_x, peer_y, 2)
        yield f"losses after PGD-{asked.steps} ({name})", _relative(found.loss, peer_found.loss)


def _flatness(asked: Workload) -> Iterator[tuple[str, float]]:
    attack = rfm_side.attack(asked, steps=asked.steps, random_start=False)
    ours = rfm_side.average_case(
        asked, ball=FixedBall(given.AVERAGE_RADIUS), attack=attack if asked.robust else None
    )
    theirs = torch_side.average_case(asked, {}, random=False)
    what = f"PGD-{asked.steps}" if asked.robust else "no attack"
    yield f"mean loss at other weights, {what}", _relative(ours(), theirs())
    threat = FixedThreat(given.EPSILON) if asked.robust else None
    ours = rfm_side.worst_case(asked, ball=FixedBall(given.WORST_RADIUS), threat=threat)
    theirs = torch_side.worst_case(asked, {}, random=False)
    what = "joint steps" if asked.robust else "steps of the weights"
    yield f"mean loss after {asked.steps} {what}", _relative(ours(), theirs())


def _training(asked: Workload) -> float:
    state, _ = rfm_side.training(asked, random=False)()
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    updated = {leaf_name(p): leaf for p, leaf in leaves}
    step, trained = torch_side.training(asked, random=False)
    step()
    moved, peer_moved = [], []
    start = torch_side.network(asked).parameters()
    for (name, parameter), before in zip(trained.named_parameters(), start, strict=True):
        path = flax_path(name)
        after = from_flax(path, torch.from_numpy(np.array(updated[path])))
        moved.append((after - before).flatten())
        peer_moved.append((parameter.detach() - before).flatten())
    return _relative(torch.cat(moved), torch.cat(peer_moved))


def _relative(ours: Array | torch.Tensor | float, theirs: torch.Tensor) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
