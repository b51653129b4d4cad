"""PGD and weight perturbations in plain eager PyTorch; the peers of rfm's."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import workload as given

LAYOUT = torch.channels_last


class Attacked(NamedTuple):
    """As `rfm.attacks.AttackResult`."""

    x: Tensor
    loss: Tensor
    success: Tensor


class PGD(NamedTuple):
    """Settings; a method for one batch of rows, and one for restarts."""

    steps: int
    random: bool = True

    def rows(self, model: nn.Module, x: Tensor, y: Tensor) -> Attacked:
        """The worst iterate of one start per row."""
        delta = start(x, random=self.random)
        best = Attacked(
            delta,
            x.new_full(y.shape, -torch.inf),
            torch.zeros_like(y, dtype=torch.bool),
        )
        for _ in range(self.steps):
            point = (x + delta).requires_grad_()
            logits = model(point)
            loss = functional.cross_entropy(logits, y, reduction="none")
            (gradient,) = torch.autograd.grad(loss.sum(), point)
            with torch.no_grad():
                best = _worse(best, delta, loss, _is_misclassified(logits, y))
                delta = ascend(x, delta, gradient)
        with torch.no_grad():
            logits = model(x + delta)
            loss = functional.cross_entropy(logits, y, reduction="none")
            best = _worse(best, delta, loss, _is_misclassified(logits, y))
            return best._replace(x=(x + best.x).clamp_(0, 1))

    def together(self, model: nn.Module, x: Tensor, y: Tensor, restarts: int) -> Attacked:
        """All restarts of a batch as one batch."""
        rows = x.repeat_interleave(restarts, 0).contiguous(memory_format=LAYOUT)
        found = self.rows(model, rows, y.repeat_interleave(restarts))
        loss = found.loss.view(-1, restarts)
        worst = loss.argmax(1)
        picked = worst + restarts * torch.arange(len(y), device=y.device)
        success = found.success.view(-1, restarts).any(1)
        return Attacked(found.x[picked], found.loss[picked], success)

    def one_by_one(self, model: nn.Module, x: Tensor, y: Tensor, restarts: int) -> Attacked:
        """One restart after the other."""
        best = self.rows(model, x, y)
        for _ in range(restarts - 1):
            found = self.rows(model, x, y)
            better = found.loss > best.loss
            best = Attacked(
                torch.where(better.view(-1, 1, 1, 1), found.x, best.x),
                torch.where(better, found.loss, best.loss),
                best.success | found.success,
            )
        return best


def start(x: Tensor, *, random: bool) -> Tensor:
    """A random start in the ball, cut to the box; else no perturbation."""
    if not random:
        return torch.zeros_like(x)
    noise = torch.empty_like(x).uniform_(-given.EPSILON, given.EPSILON)
    return noise.add_(x).clamp_(0, 1).sub_(x)


def ascend(x: Tensor, delta: Tensor, gradient: Tensor) -> Tensor:
    """One signed step, projected onto the ball and the box."""
    delta = delta.add(gradient.sign_(), alpha=given.STEP_SIZE)
    return delta.clamp_(-given.EPSILON, given.EPSILON).add_(x).clamp_(0, 1).sub_(x)


def _is_misclassified(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) != y) | ~logits.isfinite().all(1)


def _worse(best: Attacked, delta: Tensor, loss: Tensor, wrong: Tensor) -> Attacked:
    loss = torch.where(loss.isnan(), torch.inf, loss.detach())
    better = loss > best.loss
    return Attacked(
        torch.where(better.view(-1, 1, 1, 1), delta, best.x),
        torch.where(better, loss, best.loss),
        best.success | wrong,
    )


def draw(original: list[Tensor], radius: float, *, random: bool) -> list[Tensor]:
    """Uniform in the ball of each layer, `radius` relative to its norm; else radius * w."""
    if not random:
        return list(torch._foreach_mul(original, radius))
    nu = [torch.randn_like(w) for w in original]
    uniform = torch.rand(len(nu), device=nu[0].device)
    dimensions = torch.tensor([w.numel() for w in nu], device=uniform.device)
    lengths = torch.stack(torch._foreach_norm(original)) * radius * uniform ** (1 / dimensions)
    torch._foreach_mul_(nu, list((lengths / torch.stack(torch._foreach_norm(nu))).unbind()))
    return nu


def climb(
    nu: list[Tensor], uphill: list[Tensor], steps: list[Tensor], limits: list[Tensor]
) -> list[Tensor]:
    """One normalised step of each layer, projected onto its ball."""
    torch._foreach_mul_(uphill, _quotient(steps, torch._foreach_norm(uphill)))
    nu = torch._foreach_add(nu, uphill)
    shrink = _quotient(limits, torch._foreach_norm(nu))
    torch._foreach_clamp_max_(shrink, 1.0)
    torch._foreach_mul_(nu, shrink)
    return nu


def _quotient(lengths: list[Tensor], norms: list[Tensor]) -> list[Tensor]:
    torch._foreach_clamp_min_(norms, 1e-30)  # a layer of zeros stays one
    return torch._foreach_div(lengths, norms)
