"""Robust Flat Minima: train, attack and measure adversarially robust models in JAX.

The pure functions are here: `rfm.losses`, `rfm.threat`, `rfm.perturb`,
`rfm.attacks`, `rfm.flatness`. They know nothing of configs, files or devices, take any
JAX model as a function, and importing them changes no global setting. `rfm.models`,
`rfm.data`, `rfm.training`, `rfm.evaluation` and `rfm.reporting` are imported by name.
"""

from rfm import attacks as attacks
from rfm import flatness as flatness
from rfm import losses as losses
from rfm import perturb as perturb
from rfm import threat as threat
from rfm.version import __version__ as __version__
