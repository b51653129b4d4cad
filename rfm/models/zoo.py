"""Published robust networks by name: what they are, and where their weights are.

The names are RobustBench's (Croce et al., 2021). `ZOO` has the eight networks of Tables B and C
of the supplement first, then DeepMind's, which came later. Weights do not come with `rfm`: who
wants a network downloads its file once, and gives it::

    entry = zoo.find("Carmon2019Unlabeled")
    module = rfm.models.create(classes=10, **entry.arguments)
    params, batch_stats = rfm.models.from_torch(rfm.models.weights.read(entry.file), module)

Architectures, whitening and numbers are those of RobustBench's ``model_zoo/cifar10.py`` and
``model_info/cifar10/Linf``, as of 2024.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rfm.errors import UserError, did_you_mean

_DRIVE = "https://drive.google.com/file/d/"
_DEEPMIND = "https://storage.googleapis.com/dm-adversarial-robustness/"
# The statistics of CIFAR-10's training images, rounded, as most of the originals have them.
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
_ZEROS, _ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # of networks that take pixels as they are


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published network for CIFAR-10.

    Attributes:
      name: RobustBench's.
      architecture: in words.
      model: its name in `rfm.models.ARCHITECTURES`.
      width: channels of the first stage.
      url: where its weights can be downloaded.
      authors: the authors' page.
      paper: who, what and where.
      clean: published accuracy on the test set, in percent.
      robust: published accuracy under AutoAttack, L-infinity, epsilon 8/255, in percent.
      activation: a key of `rfm.models.layers.ACTIVATIONS`.
      mean: per channel, for whitening.
      std: likewise.
      cosine_scale: of the logits of a head with normalised features and weights; 0: linear.
      note: what else to know, or "".
    """

    name: str
    architecture: str
    model: str
    width: int
    url: str
    authors: str
    paper: str
    clean: float
    robust: float
    activation: str = "relu"
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    cosine_scale: float = 0.0
    note: str = ""

    @property
    def file(self) -> str:
        """The name of the file of weights: DeepMind's, or that under which RobustBench saves it."""
        return self.url.rpartition("/")[2] if self.url.endswith(".pt") else f"{self.name}.pt"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `rfm.models.create`, but for the number of classes (10)."""
        fields = ("width", "activation", "mean", "std", "cosine_scale")
        return {"name": self.model, **{field: getattr(self, field) for field in fields}}


_ENTRIES = (
    Entry(
        name="Carmon2019Unlabeled",
        architecture="WideResNet-28-10",
        model="wrn28",
        width=160,
        url=f"{_DRIVE}15tUx-gkZMYx7BfEOw1GY5OKC-jECIsPQ",
        authors="https://github.com/yaircarmon/semisup-adv",
        paper="Carmon et al., Unlabeled data improves adversarial robustness, NeurIPS 2019",
        clean=89.69,
        robust=59.53,
        mean=_ZEROS,
        std=_ONES,
    ),
    Entry(
        name="Engstrom2019Robustness",
        architecture="ResNet-50",
        model="resnet50",
        width=64,
        url=f"{_DRIVE}1etqmQsksNIWBvBQ4r8ZFk_3FJlLWr8Rr",
        authors="https://github.com/MadryLab/robustness",
        paper="Engstrom et al., Robustness (Python library), 2019",
        clean=87.03,
        robust=49.25,
        # Not CIFAR-10's deviations, but what that library divides by.
        std=(0.2023, 0.1994, 0.2010),
    ),
    Entry(
        name="Pang2020Boosting",
        architecture="WideResNet-34-20",
        model="wrn34",
        width=320,
        url=f"{_DRIVE}1iNWOj3MP7kGe8yTAS4XnDaDXDLt0mwqw",
        authors="https://github.com/ShawnXYang/AT_HE",
        paper="Pang et al., Boosting adversarial training with hypersphere embedding, NeurIPS 2020",
        clean=85.14,
        robust=53.74,
        # Trained with 15, evaluated with 1: then the logits are in [-1, 1], and the loss is at
        # least log(1 + 9 exp(-2)) = 0.80. Table C's Loss of 1.84 shows that the paper did, too.
        cosine_scale=1.0,
        note="features and weights of the last layer are normalised",
    ),
    Entry(
        name="Wang2020Improving",
        architecture="WideResNet-28-10",
        model="wrn28",
        width=160,
        url=f"{_DRIVE}1T939mU4kXYt5bbvM55aT4fLBvRhyzjiQ",
        authors="https://github.com/YisenWang/MART",
        paper="Wang et al., Improving adversarial robustness requires revisiting misclassified"
        " examples, ICLR 2020",
        clean=87.50,
        robust=56.29,
        mean=_ZEROS,
        std=_ONES,
    ),
    Entry(
        name="Wong2020Fast",
        architecture="PreActResNet-18",
        model="preact_resnet18",
        width=64,
        url=f"{_DRIVE}1Re--_lf3jCEw9bnQqGkjw3J7v2tSZKrv",
        authors="https://github.com/locuslab/fast_adversarial",
        paper="Wong et al., Fast is better than free, ICLR 2020",
        clean=83.34,
        robust=43.21,
    ),
    Entry(
        name="Wu2020Adversarial",
        architecture="WideResNet-34-10",
        model="wrn34",
        width=160,
        url=f"{_DRIVE}13LBcgNvhFppCFG22i1xATrahFPfMgXGf",
        authors="https://github.com/csdongxian/AWP",
        paper="Wu et al., Adversarial weight perturbation helps robust generalization,"
        " NeurIPS 2020",
        clean=85.36,
        robust=56.17,
        note="TRADES-AWP; not the network with extra data, which has 88.25 % clean accuracy",
        mean=_ZEROS,
        std=_ONES,
    ),
    Entry(
        name="Zhang2019Theoretically",
        architecture="WideResNet-34-10",
        model="wrn34",
        width=160,
        url=f"{_DRIVE}1hPz9QQwyM7QSuWu-ANG_uXR-29xtL8t_",
        authors="https://github.com/yaodongyu/TRADES",
        paper="Zhang et al., Theoretically principled trade-off between robustness and accuracy,"
        " ICML 2019",
        clean=84.92,
        robust=53.08,
        note="published with epsilon 0.031, a little less than 8/255",
        mean=_ZEROS,
        std=_ONES,
    ),
    Entry(
        name="Zhang2020Attacks",
        architecture="WideResNet-34-10",
        model="wrn34",
        width=160,
        url=f"{_DRIVE}1lBVvLG6JLXJgQP2gbsTxNHl6s3YAopqk",
        authors="https://github.com/zjfheart/Friendly-Adversarial-Training",
        paper="Zhang et al., Attacks which do not kill training make adversarial learning"
        " stronger, ICML 2020",
        clean=84.52,
        robust=53.51,
        mean=_ZEROS,
        std=_ONES,
    ),
)


def _deepmind(
    name: str, depth: int, factor: int, file: str, *, clean: float, robust: float
) -> Entry:
    year = 2020 if name.startswith("Gowal") else 2021
    return Entry(
        name=name,
        architecture=f"WideResNet-{depth}-{factor}, SiLU",
        model=f"dm_wrn{depth}",
        width=16 * factor,
        url=f"{_DEEPMIND}{file}.pt",
        authors="https://github.com/google-deepmind/deepmind-research/tree/master/"
        "adversarial_robustness",
        paper="Gowal et al., Uncovering the limits of adversarial training against norm-bounded"
        " adversarial examples, arXiv 2010.03593"
        if year == 2020
        else "Rebuffi et al., Fixing data augmentation to improve adversarial robustness,"
        " arXiv 2103.01946",
        clean=clean,
        robust=robust,
        activation="silu",
    )


# AutoAttack's numbers as DeepMind's README has them; RobustBench shows those of their papers,
# by a stronger attack, which are up to 0.06 lower.
_LATER = (
    _deepmind(
        "Gowal2020Uncovering_28_10_extra",
        28,
        10,
        "cifar10_linf_wrn28-10_with",
        clean=89.48,
        robust=62.80,
    ),
    _deepmind(
        "Gowal2020Uncovering_34_20",
        34,
        20,
        "cifar10_linf_wrn34-20_without",
        clean=85.64,
        robust=56.86,
    ),
    _deepmind(
        "Gowal2020Uncovering_70_16",
        70,
        16,
        "cifar10_linf_wrn70-16_without",
        clean=85.29,
        robust=57.20,
    ),
    _deepmind(
        "Gowal2020Uncovering_70_16_extra",
        70,
        16,
        "cifar10_linf_wrn70-16_with",
        clean=91.10,
        robust=65.88,
    ),
    _deepmind(
        "Rebuffi2021Fixing_28_10_cutmix_ddpm",
        28,
        10,
        "cifar10_linf_wrn28-10_cutmix_ddpm_v2",
        clean=87.33,
        robust=60.75,
    ),
    _deepmind(
        "Rebuffi2021Fixing_70_16_cutmix_ddpm",
        70,
        16,
        "cifar10_linf_wrn70-16_cutmix_ddpm_v2",
        clean=88.54,
        robust=64.25,
    ),
    _deepmind(
        "Rebuffi2021Fixing_70_16_cutmix_extra",
        70,
        16,
        "cifar10_linf_wrn70-16_cutmix_external",
        clean=92.23,
        robust=66.58,
    ),
)

ZOO: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in (*_ENTRIES, *_LATER)})
"""All networks by name, those of Tables B and C first."""

IN_PAPER = tuple(entry.name for entry in _ENTRIES)
"""The names of the eight networks of Tables B and C."""


def find(name: str) -> Entry:
    """The network called `name`.

    Raises:
      UserError: there is none; suggests one.
    """
    if name not in ZOO:
        hint = did_you_mean(name, ZOO, "zoo:")
        raise UserError(f"no network zoo:{name}{hint}; rfm zoo lists them")
    return ZOO[name]
