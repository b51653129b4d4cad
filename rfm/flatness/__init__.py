"""Flatness: what happens to the (robust) loss around the weights.

`average_case` (Eq. (3) of the supplement) draws weight perturbations at random,
`worst_case` (Eq. (5)) searches for them together with the adversarial examples. Both
subtract a `reference`, the loss at the weights themselves, and both measure the clean
loss when they are given no attack or no threat. Balls are relative, see
`rfm.perturb`, so that rescaling a network changes nothing.
"""

from rfm.flatness.average import average_case as average_case
from rfm.flatness.reference import reference as reference
from rfm.flatness.result import Flatness as Flatness
from rfm.flatness.worst import worst_case as worst_case
