"""The outcome of a flatness measure, with its uncertainty.

Two things are random in a measure: which weights were drawn and which examples were
looked at. For one batch the losses form a table, weight draws by examples, and both
margins contribute to the variance of the overall mean::

    Var(mean) ~ Var over draws of the row means / draws
              + Var over examples of the column means / examples

(the interaction is counted in both, which errs on the safe side). Batches are
independent: each has its own draws and examples.
"""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, eq=False)
class Flatness:
    """Losses around the weights minus the loss at the weights.

    Attributes:
      samples: per-example losses at perturbed weights, shape (draws, n), float64. Draw s
        of one batch has nothing to do with draw s of another. In the worst case there is
        one draw, the worst.
      reference_losses: per-example losses at the weights, shape (n,), float64.
      batch_size: how many consecutive examples share a draw.

    Example:
      >>> import numpy as np, rfm
      >>> losses = np.array([[1.0, 3.0], [2.0, 4.0]])
      >>> flat = rfm.flatness.Flatness(losses, reference_losses=np.array([1.0, 2.0]), batch_size=2)
      >>> flat.perturbed, flat.reference, flat.value
      (2.5, 1.5, 1.0)
    """

    samples: Float[np.ndarray, "draws n"]
    reference_losses: Float[np.ndarray, " n"]
    batch_size: int

    @property
    def perturbed(self) -> float:
        """Mean loss at perturbed weights, the first term of Eq. (3) or (5)."""
        return float(self.samples.mean())

    @property
    def reference(self) -> float:
        """Mean loss at the weights, the second term."""
        return float(self.reference_losses.mean())

    @property
    def value(self) -> float:
        """The measure: `perturbed` minus `reference`."""
        return self.perturbed - self.reference

    @property
    def std(self) -> float:
        """Standard deviation of the measure over weight draws (Fig. D, left).

        Of the mean over a batch, pooled over batches; NaN with a single draw.
        """
        return float(np.sqrt(np.mean([_variance(b.mean(1)) for b, _ in self.batches()])))

    @property
    def standard_error(self) -> float:
        """Standard error of `value` over weight draws and examples, see the module.

        In the worst case over examples only, given the weights found. NaN where there
        is too little to estimate it from.
        """
        return float(np.sqrt(sum(self.variances)))

    @property
    def variances(self) -> tuple[float, float]:
        """Variance of `value` that comes from weight draws, and that from examples.

        Their sum is the square of `standard_error`. 0 from draws in the worst case.
        """
        total = self.reference_losses.size
        shares, of_examples, of_draws = [], [], []
        for samples, reference in self.batches():
            draws, n = samples.shape
            shares.append(n / total)
            of_examples.append(_variance((samples - reference).mean(0)))
            of_draws.append(_variance(samples.mean(1)) / draws if draws > 1 else 0.0)
        share, examples = np.array(shares), np.array(of_examples)
        # A last batch of a single example takes its variance from the others.
        if not np.isnan(examples).all():
            examples = np.where(np.isnan(examples), np.nanmean(examples), examples)
        from_draws, from_examples = share**2 * of_draws, share * examples / total
        return float(from_draws.sum()), float(from_examples.sum())

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """`samples` (draws, m) and `reference_losses` (m,) of the examples that share draws."""
        starts = range(0, self.reference_losses.size, self.batch_size)
        ends = [slice(start, start + self.batch_size) for start in starts]
        return [(self.samples[:, cut], self.reference_losses[cut]) for cut in ends]


def _variance(values: np.ndarray) -> float:
    return float(np.var(values, ddof=1)) if values.size > 1 else float("nan")
