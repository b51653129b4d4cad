"""The same computations in plain eager PyTorch, as one would write them with care.

Channels last throughout; weights require no gradient while inputs are attacked; nothing
waits for the device inside a loop; the many small tensors of weight perturbations are
updated by ``foreach`` operations, the weights in training by a fused one. Worst iterates,
projections, whitening and padding are rfm's. Where restarts may go through the network
together or one after the other, the faster is found out first. The peer is eager; only
`benchmarks.scale` has a step with ``torch.compile`` beside it.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import workload as given
from benchmarks.harness import Job, cores
from benchmarks.torch_attacks import LAYOUT, PGD, ascend, climb, draw, start
from benchmarks.torch_resnet import ResNet, load, perturbed
from benchmarks.workload import Workload


def run(workload: dict[str, Any]) -> Job:
    """The `Job` of a `Workload`, given as its fields."""
    asked = Workload(**workload)
    torch.set_num_threads(cores())
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = not asked.full_precision
    torch.backends.cuda.matmul.allow_tf32 = not asked.full_precision
    jobs = {
        "at_step": at_step,
        "pgd": evaluation,
        "average_case": average_case,
        "worst_case": worst_case,
        "landscape": landscape,
        "hessian": hessian,
    }
    about = {
        "device": f"CPU, {torch.get_num_threads()} threads",
        "versions": f"torch {torch.__version__}",
    }
    call = jobs[asked.kind](asked, about)
    on_device = asked.device != "cpu"
    if on_device:
        about["device"] = torch.cuda.get_device_name()

    def call_and_wait() -> float:
        with autocast(asked):
            return call().item()  # waits for the device

    return Job(
        call_and_wait,
        units=asked.units,
        about=about,
        device_peak=torch.cuda.max_memory_allocated if on_device else None,
    )


def autocast(asked: Workload) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where the workload says so."""
    if asked.dtype != "bfloat16":
        return contextlib.nullcontext()
    # Without the cache: it outlives weights that are changed in place.
    return torch.autocast(asked.device, torch.bfloat16, cache_enabled=False)


def network(asked: Workload) -> ResNet:
    """ResNet-18 in evaluation mode, weights not differentiated."""
    model = load(ResNet(asked.width)).to(asked.device, memory_format=LAYOUT)
    model = model.double() if asked.dtype == "float64" else model
    return model.eval().requires_grad_(False)


def inputs(asked: Workload) -> tuple[Tensor, Tensor]:
    """A batch on the device, channels last, in [0, 1]."""
    pixels, labels = given.images(asked, asked.batch)
    x = torch.from_numpy(pixels).to(asked.device).permute(0, 3, 1, 2).float().div_(255)
    x = x.double() if asked.dtype == "float64" else x
    return x, torch.from_numpy(labels).long().to(asked.device)


def evaluation(asked: Workload, about: dict[str, str]) -> Callable[[], Tensor]:
    """RLoss of one batch by PGD with `asked.times` restarts."""
    model, (x, y), restarts = network(asked), inputs(asked), asked.times
    together = restarts > 1 and _is_faster_together(asked, model, x, y)
    if restarts > 1:
        about["restarts"] = "in one batch" if together else "one after the other"
    attack = PGD(asked.steps)
    run = attack.together if together else attack.one_by_one
    return lambda: run(model, x, y, restarts).loss.mean()


def _is_faster_together(asked: Workload, model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Tries one step of all restarts in both ways, twice, in turns."""
    probe = PGD(steps=1)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(3):
        for together, run in ((True, probe.together), (False, probe.one_by_one)):
            begin = time.perf_counter()
            with autocast(asked):
                run(model, x, y, asked.times).loss.sum().item()
            seconds[together].append(time.perf_counter() - begin)
    return min(seconds[True][1:]) < min(seconds[False][1:])


def at_step(asked: Workload, about: dict[str, str]) -> Callable[[], Tensor]:
    """Steps of adversarial training, `asked.times` per call; the loss of the last."""
    step, _ = training(asked)

    def steps() -> Tensor:
        for _ in range(asked.times):
            loss = step()
        return loss

    return steps


def training(asked: Workload, *, random: bool = True) -> tuple[Callable[[], Tensor], ResNet]:
    """A function that does one step, and the network that it trains.

    Without `random` there is no augmentation and attacks start at the input.
    """
    model = network(asked)
    # Parameters and modes are set on the network itself, which the compiled one calls.
    logits_fn = torch.compile(model) if asked.compiled else model
    attack = PGD(given.TRAIN_STEPS, random=random)
    scales = {id(m.weight) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    parameters = list(model.parameters())
    optimiser = torch.optim.SGD(
        [
            # rfm decays the offset of the scale from one: here, the scale is let be.
            {"params": [p for p in parameters if id(p) not in scales]},
            {"params": [p for p in parameters if id(p) in scales], "weight_decay": 0.0},
        ],
        lr=given.LEARNING_RATE,
        momentum=given.MOMENTUM,
        nesterov=True,
        weight_decay=given.WEIGHT_DECAY,
        fused=True,
    )
    pixels, labels = given.training_set(asked, augment=random)
    images = torch.from_numpy(pixels).to(asked.device)
    classes = torch.from_numpy(labels).long().to(asked.device)
    batches: list[Tensor] = []

    def step() -> Tensor:
        if not batches:
            order = torch.randperm(len(classes), device=asked.device)
            batches.extend(order.split(asked.batch))
        rows = batches.pop()
        x = (flip_and_crop(images[rows]) if random else images[rows]).permute(0, 3, 1, 2)
        x, y = x.float().div_(255), classes[rows]
        model.eval().requires_grad_(False)
        x = attack.rows(logits_fn, x, y).x
        model.train().requires_grad_(True)
        logits = logits_fn(x)
        loss = functional.cross_entropy(logits, y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step, model


def flip_and_crop(images: Tensor, crop: int = given.CROP) -> Tensor:
    """Random flips and padded crops of uint8 images (n, h, w, c), per example."""
    n, h, w, _ = images.shape
    device = images.device
    padded = functional.pad(images, (0, 0, crop, crop, crop, crop))
    row, column = torch.randint(2 * crop + 1, (2, n, 1), device=device)
    rows = row + torch.arange(h, device=device)
    columns = torch.arange(w, device=device).expand(n, w)
    columns = column + torch.where(torch.rand(n, 1, device=device) < 0.5, w - 1 - columns, columns)
    return padded[torch.arange(n, device=device).view(n, 1, 1), rows[:, :, None], columns[:, None]]


def average_case(
    asked: Workload, about: dict[str, str], *, random: bool = True
) -> Callable[[], Tensor]:
    """Mean RLoss of one batch under `asked.times` weight samples."""
    model, weights, original, loss_at = _perturbed_loss(asked, random=random)

    def call() -> Tensor:
        losses = []
        for _ in range(asked.times):
            torch._foreach_copy_(weights, original)
            torch._foreach_add_(weights, draw(original, given.AVERAGE_RADIUS, random=random))
            losses.append(loss_at(model))
        torch._foreach_copy_(weights, original)
        return torch.stack(losses).mean()

    return call


def landscape(asked: Workload, about: dict[str, str]) -> Callable[[], Tensor]:
    """Mean RLoss of one batch at `asked.times` points along a random direction."""
    model, weights, original, loss_at = _perturbed_loss(asked, random=True)

    def call() -> Tensor:
        direction, losses = draw(original, given.AVERAGE_RADIUS, random=True), []
        for point in torch.linspace(-1, 1, asked.times).tolist():
            torch._foreach_copy_(weights, original)
            torch._foreach_add_(weights, direction, alpha=point)
            losses.append(loss_at(model))
        torch._foreach_copy_(weights, original)
        return torch.stack(losses).mean()

    return call


def _perturbed_loss(
    asked: Workload, *, random: bool
) -> tuple[ResNet, list[Tensor], list[Tensor], Callable[[nn.Module], Tensor]]:
    """A network, its weights to be perturbed, what they were, and the losses of a batch."""
    model, (x, y), attack = network(asked), inputs(asked), PGD(asked.steps, random)
    weights = perturbed(model)

    def loss_at(model: nn.Module) -> Tensor:
        if asked.robust:
            return attack.rows(model, x, y).loss
        with torch.no_grad():
            return functional.cross_entropy(model(x), y, reduction="none")

    return model, weights, [w.clone() for w in weights], loss_at


def worst_case(
    asked: Workload, about: dict[str, str], *, random: bool = True
) -> Callable[[], Tensor]:
    """Worst RLoss of one batch over `asked.times` restarts of the joint ascent."""
    model, (x, y) = network(asked), inputs(asked)
    weights = perturbed(model)
    original = [w.clone() for w in weights]
    norms = torch._foreach_norm(original)
    steps = torch._foreach_mul(norms, given.WEIGHT_STEP_SIZE)
    limits = torch._foreach_mul(norms, given.WORST_RADIUS)
    for w in weights:
        w.requires_grad_()

    def losses_of_restart() -> tuple[Tensor, Tensor]:
        nu = draw(original, given.WORST_RADIUS, random=random)
        delta = start(x, random=random) if asked.robust else torch.zeros_like(x)
        best_losses, best_mean = x.new_zeros(len(y)), x.new_full((), -torch.inf)
        for step in range(asked.steps + 1):
            with torch.no_grad():
                torch._foreach_copy_(weights, torch._foreach_add(original, nu))
            last = step == asked.steps
            with torch.set_grad_enabled(not last):
                point = (x + delta).requires_grad_(asked.robust and not last)
                loss = functional.cross_entropy(model(point), y, reduction="none")
                total = loss.sum()
            with torch.no_grad():
                mean = total / len(y)
                mean = torch.where(mean.isnan(), torch.inf, mean)
                better = mean > best_mean
                best_losses = torch.where(better, loss, best_losses)
                best_mean = torch.where(better, mean, best_mean)
            if not last:
                inputs_too = [point] if asked.robust else []
                gradients = torch.autograd.grad(total, [*weights, *inputs_too])
                with torch.no_grad():
                    nu = climb(nu, list(gradients[: len(weights)]), steps, limits)
                    delta = ascend(x, delta, gradients[-1]) if asked.robust else delta
        return best_losses, best_mean

    def call() -> Tensor:
        found, means = zip(*(losses_of_restart() for _ in range(asked.times)), strict=True)
        return torch.stack(found)[torch.stack(means).argmax()].mean()

    return call


def hessian(asked: Workload, about: dict[str, str]) -> Callable[[], Tensor]:
    """lambda_max of Loss on one batch by Lanczos' method, re-orthogonalised.

    The gradient's graph is made anew for each product, as it must be where batches are
    streamed.
    """
    model, (x, y) = network(asked), inputs(asked)
    weights = list(model.requires_grad_(True).parameters())
    sizes = [w.numel() for w in weights]

    def product(vector: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(x), y)
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        parts = [v.view_as(w) for v, w in zip(vector.split(sizes), weights, strict=True)]
        slope = sum((g * v).sum() for g, v in zip(gradient, parts, strict=True))
        return torch.cat([h.flatten() for h in torch.autograd.grad(slope, weights)])

    def call() -> Tensor:
        signs = torch.randint(2, (sum(sizes),), device=x.device)
        vector = (2 * signs - 1).to(x.dtype)
        basis, matrix = [], torch.zeros(asked.times, asked.times, dtype=torch.float64)
        for column in range(asked.times):
            basis.append(vector / vector.norm())
            vector = product(basis[-1])
            known = torch.stack(basis)
            along = known @ vector
            matrix[: column + 1, column] = along.double()
            matrix[column, : column + 1] = along.double()
            vector = vector - along @ known
            vector = vector - (known @ vector) @ known
        return torch.linalg.eigvalsh(matrix)[-1]

    return call
