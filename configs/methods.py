"""What distinguishes each row of Tables D and E from the baseline.

A method is a function that changes a few fields of a config. Its docstring says in
words what it is, which row it is, and what the paper got for it.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from rfm.errors import choose


def at(config: ConfigDict) -> None:
    """Adversarial training with PGD-7, the baseline.

    Table D, "AT (baseline)": Err 20.2, RErr 61.0 (PGD) and 62.8 (AutoAttack), average-case
    flatness of RLoss 1.22, worst-case 6.49. Table E: RLoss 3.91.
    """


def plain(config: ConfigDict) -> None:
    """Training without an adversary. Not a row of the paper; the non-robust reference."""
    config.adversary.name = "none"


METHODS: dict[str, Callable[[ConfigDict], None]] = {"at": at, "plain": plain}


def apply(config: ConfigDict, name: str) -> ConfigDict:
    """`config` with the overrides of the method called `name` (default "at").

    Raises:
      UserError: there is no such method.
    """
    name = name or "at"
    choose("method", name, METHODS)(config)
    config.name = name
    return config
