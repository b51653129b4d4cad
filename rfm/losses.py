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
    """
    return optax.softmax_cross_entropy_with_integer_labels(_at_least_float32(logits), labels)


def margin(logits: Logits, labels: Labels) -> PerExample:
    """``max_{j != y} z_j - z_y``, shape (n,): positive where misclassified.

    The objective of Carlini & Wagner (2017) without its confidence term.
    """
    logits = _at_least_float32(logits)
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(true, -jnp.inf, logits).max(-1)
    return others - jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def kl_divergence(reference_logits: Logits, logits: Logits) -> PerExample:
    """``KL(softmax(reference) || softmax(logits))`` in nats, shape (n,).

    The term that TRADES maximises over inputs (Eq. (13) of the supplement).
    """
    reference = jax.nn.log_softmax(_at_least_float32(reference_logits))
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(_at_least_float32(logits)), reference
    )


def is_misclassified(logits: Logits, labels: Labels) -> jax.Array:
    """True where another class has the highest logit, shape (n,), bool.

    A model whose logits are not numbers is not right: NaN counts as misclassified.
    """
    finite = jnp.isfinite(logits).all(-1)
    return (jnp.argmax(logits, axis=-1) != labels) | ~finite
