"""Flatness: what happens to the (robust) loss around the weights.

`average_case` (Eq. (3) of the supplement) draws weight perturbations at random,
`worst_case` (Eq. (5)) searches for them together with the adversarial examples. Both
subtract a `reference`, the loss at the weights themselves, and both measure the clean
loss when they are given no attack or no threat. Balls are relative, see
`rfm.perturb`, so that rescaling a network changes nothing.

`interval` and `difference` say how exact a measure is and whether one model is flatter than
another; `landscape` and `surface` follow the loss along directions, and
`extreme_eigenvalues` and `spectral_density` look at the Hessian.
"""

from rfm.flatness.average import average_case as average_case
from rfm.flatness.curvature import Eigenpair as Eigenpair
from rfm.flatness.curvature import Eigenvalues as Eigenvalues
from rfm.flatness.curvature import SpectralDensity as SpectralDensity
from rfm.flatness.curvature import extreme_eigenvalues as extreme_eigenvalues
from rfm.flatness.curvature import spectral_density as spectral_density
from rfm.flatness.landscape import Landscape as Landscape
from rfm.flatness.landscape import landscape as landscape
from rfm.flatness.landscape import surface as surface
from rfm.flatness.reference import reference as reference
from rfm.flatness.result import Flatness as Flatness
from rfm.flatness.uncertainty import Interval as Interval
from rfm.flatness.uncertainty import difference as difference
from rfm.flatness.uncertainty import interval as interval
from rfm.flatness.worst import adversarial_directions as adversarial_directions
from rfm.flatness.worst import worst_case as worst_case
