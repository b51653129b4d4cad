"""CIFAR-10 at the study's full size: ``--config configs/cifar10.py:METHOD``.

ResNet-18, 150 epochs, protocol of Section F. The cost and the numbers at this size are
unmeasured: it takes a GPU, and none has been at hand. The paper's numbers for each method are in
`configs/paper.csv`; ``rfm methods`` prints them.
"""

from ml_collections import ConfigDict
from rfm.configs import base, methods


def get_config(method: str = "at") -> ConfigDict:
    """The full-size run of `method`."""
    return methods.apply(base.get_config(), method)
