"""Per-example losses on logits.

Attacks ascend them, objectives average them, and evaluation reports them; nobody
reduces them here. All are computed in float32 or wider whatever the dtype of the
logits, because a cross-entropy in bfloat16 has three digits.
"""

import jax
import jax.numpy as jnp
import optax

from rfm.types import Labels, Logits, PerExample


def _at_least_float32(logits: Logits) -> Logits:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """``-log softmax(logits)[label]`` in nats, shape (n,).

    This is Loss on clean inputs and RLoss on adversarial ones.

    Example:
      >>> import jax.numpy as jnp, rfm
      >>> losses = rfm.losses.cross_entropy(jnp.zeros((2, 10)), jnp.array([3, 7]))
      >>> print(losses.shape, f"{losses.mean():.3f}")  # log(10)
      (2,) 2.303
    """
    return optax.softmax_cross_entropy_with_integer_labels(_at_least_float32(logits), labels)


def margin(logits: Logits, labels: Labels) -> PerExample:
    """``max_{j != y} z_j - z_y``, shape (n,): positive where misclassified.

    The objective of Carlini & Wagner (2017) without its confidence term.

    Example:
      >>> import jax.numpy as jnp, rfm
      >>> print(rfm.losses.margin(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([1])))
      [1.]
    """
    logits = _at_least_float32(logits)
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(true, -jnp.inf, logits).max(-1)
    return others - jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def difference_of_logits_ratio(logits: Logits, labels: Labels) -> PerExample:
    """DLR of Croce & Hein (2020), Eq. (6), shape (n,): positive where misclassified.

    ``-(z_y - max_{j != y} z_j) / (z_1 - z_3)`` with z_1 >= z_2 >= ... the sorted logits:
    the margin, made invariant to shifts and scales of the logits. With fewer than three
    classes there is no z_3; then it is the margin itself.

    Example:
      >>> import jax.numpy as jnp, rfm
      >>> logits, labels = jnp.array([[4.0, 1.0, 0.0]]), jnp.array([0])
      >>> print(rfm.losses.difference_of_logits_ratio(logits, labels))
      [-0.75]
    """
    if logits.shape[-1] < 3:
        return margin(logits, labels)
    ordered = _descending(logits)
    return margin(logits, labels) / _positive(ordered[:, 0] - ordered[:, 2])


def targeted_difference_of_logits_ratio(
    logits: Logits, labels: Labels, targets: Labels
) -> PerExample:
    """Targeted DLR of Croce & Hein (2020), Eq. (7), shape (n,): positive where t beats y.

    ``-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)``. With three classes z_4 is z_3, and with two
    the denominator is left out.
    """
    rise = targeted_margin(logits, labels, targets)
    classes = logits.shape[-1]
    if classes < 3:
        return rise
    ordered = _descending(logits)
    return rise / _positive(ordered[:, 0] - (ordered[:, 2] + ordered[:, min(3, classes - 1)]) / 2)


def targeted_margin(logits: Logits, labels: Labels, targets: Labels) -> PerExample:
    """``z_t - z_y``, shape (n,): positive where the target beats the label."""
    logits = _at_least_float32(logits)
    chosen = jnp.take_along_axis(logits, jnp.stack([targets, labels], axis=1), axis=-1)
    return chosen[:, 0] - chosen[:, 1]


def targeted_cross_entropy(logits: Logits, labels: Labels, targets: Labels) -> PerExample:
    """``log softmax(logits)[target]`` in nats, shape (n,): highest at the target."""
    return -cross_entropy(logits, targets)


def _descending(logits: Logits) -> Logits:
    return -jnp.sort(-_at_least_float32(logits), axis=-1)


def _positive(denominator: PerExample) -> PerExample:
    """Keeps equal logits from dividing 0 by 0."""
    return denominator + 1e-12


def kl_divergence(reference_logits: Logits, logits: Logits) -> PerExample:
    """``KL(softmax(reference) || softmax(logits))`` in nats, shape (n,).

    The term that TRADES maximises over inputs (Eq. (13) of the supplement).
    """
    reference = jax.nn.log_softmax(_at_least_float32(reference_logits))
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(_at_least_float32(logits)), reference
    )


def smoothed_cross_entropy(logits: Logits, labels: Labels, smoothing: float) -> PerExample:
    """Cross-entropy with smoothed labels (Szegedy et al., 2016), shape (n,).

    The target distribution has ``1 - smoothing`` on the label and ``smoothing / (k - 1)`` on
    each of the k - 1 other classes (Section G of the supplement; common library functions
    spread it over all k classes).
    """
    log_probabilities = jax.nn.log_softmax(_at_least_float32(logits))
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    targets = jnp.where(true, 1 - smoothing, smoothing / (logits.shape[-1] - 1))
    return -(targets.astype(log_probabilities.dtype) * log_probabilities).sum(-1)


def boosted_cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """``-log p_y - log(1 - max_{j != y} p_j)``, shape (n,): Eq. (14) of the supplement (MART)."""
    log_probabilities = jax.nn.log_softmax(_at_least_float32(logits))
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    strongest = jnp.argmax(jnp.where(true, -jnp.inf, log_probabilities), axis=-1)
    # log(1 - p_j) as the log of the sum of all others: exact also where p_j is almost 1.
    other = jax.nn.one_hot(strongest, logits.shape[-1], dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(other, -jnp.inf, log_probabilities), axis=-1)
    return cross_entropy(logits, labels) - rest


def kl_divergence_from(logits: Logits, labels: Labels, reference_logits: Logits) -> PerExample:
    """`kl_divergence` as a loss to ascend: from logits that are held fixed, labels unused.

    The adversary of TRADES is ``PGD(threat, ..., loss=kl_divergence_from)``, called with the
    clean logits as `targets`.
    """
    del labels
    return kl_divergence(jax.lax.stop_gradient(reference_logits), logits)


def is_misclassified(logits: Logits, labels: Labels) -> jax.Array:
    """True where another class has the highest logit, shape (n,), bool.

    A model whose logits are not finite is not right: infinite ones and NaN count as
    misclassified.
    """
    finite = jnp.isfinite(logits).all(-1)
    return (jnp.argmax(logits, axis=-1) != labels) | ~finite
