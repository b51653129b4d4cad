"""What published PyTorch networks call their tensors, and how these lie in memory.

One table, by block of `rfm.models.blocks`; `rfm.models.torch_weights` reads it in both
directions. Layouts differ: kernels of convolutions are OIHW there and HWIO here, those of
linear layers are transposed, and the scale of a normalisation is stored as an offset from
one here.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import unfreeze

from rfm.models import blocks
from rfm.models.resnet import ResNet

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Published:
    """What the modules of a published network are called.

    Attributes:
      network: in words.
      modules: by their names here; those inside of a block without the block.
      block: name of a block, by its `stage` and `block` from 0 or its `number` of a stage from 1.
      whitening: buffers of the mean and the standard deviation.
      whitening_axes: how many axes of length 1 they have in front of and behind the channels.
      always_whitens: the buffers are there even if the mean is 0 and the standard deviation 1.
      uncalled: a module that the network has and never calls.
    """

    network: str
    modules: Mapping[str, str]
    block: str
    whitening: tuple[str, str] = ("mu", "sigma")
    whitening_axes: tuple[int, int] = (1, 2)
    always_whitens: bool = False
    uncalled: str = ""

    def module(self, path: Path) -> str:
        """The name of the module at `path`."""
        inside = re.fullmatch(r"stage(\d+)_block(\d+)", path[0])
        if not inside:
            return self.modules[path[0]]
        number, block = map(int, inside.groups())
        prefix = self.block.format(number=number, stage=number - 1, block=block - 1)
        return f"{prefix}.{self.modules[path[1]]}"


_NUMBERED = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)} | {f"norm{i}": f"bn{i}" for i in (1, 2, 3)}
_NAMES = {"stem": "conv1", "head": "linear", "conv_skip": "shortcut.0", **_NUMBERED}
_LAYERS = "layer{number}.{block}"
_RESNET = _NAMES | {"stem_norm": "bn1", "norm_skip": "shortcut.1"}

# Names as of kuangliu/pytorch-cifar (ResNets, which Engstrom et al. and Wong et al. took from
# there), yaodongyu/TRADES (wide ones) and deepmind-research, adversarial_robustness/pytorch;
# those of the whitening as of RobustBench's model zoo, where it is inside of the network.
PUBLISHED: dict[type[blocks.ResidualBlock], Published] = {
    blocks.Block: Published("a ResNet of two-layer blocks", _RESNET, _LAYERS),
    blocks.Bottleneck: Published("a ResNet of bottlenecks", _RESNET, _LAYERS),
    blocks.PreActBlock: Published("a PreActResNet", _NAMES, _LAYERS),
    blocks.WideBlock: Published(
        "a WideResNet",
        _NAMES | {"head": "fc", "conv_skip": "convShortcut", "final_norm": "bn1"},
        "block{number}.layer.{block}",
        uncalled="sub_block1",  # a second first stage
    ),
    blocks.DeepMindBlock: Published(
        "a DeepMind WideResNet",
        {
            "stem": "init_conv",
            "norm1": "batchnorm_0",
            "conv1": "conv_0",
            "norm2": "batchnorm_1",
            "conv2": "conv_1",
            "conv_skip": "shortcut",
            "final_norm": "batchnorm",
            "head": "logits",
        },
        "layer.{stage}.block.{block}",
        whitening=("mean", "std"),
        whitening_axes=(0, 2),
        always_whitens=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of leaf: what PyTorch calls it, and its values there and here."""

    name: str
    here: Callable[[np.ndarray], np.ndarray] = lambda there: there
    there: Callable[[np.ndarray], np.ndarray] = lambda here: here


# In the order in which PyTorch lists the tensors of a module.
_KINDS = {
    "conv/kernel": Kind("weight", lambda w: w.transpose(2, 3, 1, 0), lambda k: k.transpose(3, 2, 0, 1)),  # noqa: E501
    "head/kernel": Kind("weight", np.transpose, np.transpose),
    "scale": Kind("weight", lambda w: w - np.ones_like(w), lambda s: s + np.ones_like(s)),
    "bias": Kind("bias"),
    "mean": Kind("running_mean"),
    "var": Kind("running_var"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the variables and its tensor.

    Attributes:
      path: in ``{"params": ..., "batch_stats": ...}``.
      shape: here.
      module: of the tensor, in PyTorch.
      kind: of the leaf.
    """

    path: Path
    shape: tuple[int, ...]
    module: str
    kind: Kind

    @property
    def name(self) -> str:
        """Of the tensor."""
        return f"{self.module}.{self.kind.name}"

    @property
    def shape_there(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.kind.there(np.broadcast_to(np.float32(0), self.shape)).shape


def leaves(network: ResNet) -> Iterator[Leaf]:
    """All leaves of a network, module by module."""
    image = jax.ShapeDtypeStruct((1, 32, 32, len(network.mean)), jnp.float32)
    variables = unfreeze(jax.eval_shape(network.init, jax.random.key(0), image))
    flat = traverse_util.flatten_dict(variables)
    kinds = list(_KINDS)

    def key(path: Path) -> str:
        return path[-1] if path[-1] in _KINDS else "/".join(path[-2:])

    def position(path: Path) -> tuple[Path, int]:
        return path[1:-1], kinds.index(key(path))

    for path in sorted(flat, key=position):
        module = PUBLISHED[network.block].module(path[1:])
        yield Leaf(path, flat[path].shape, module, _KINDS[key(path)])
