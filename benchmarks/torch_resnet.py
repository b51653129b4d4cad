"""The networks of `rfm.models.resnet` in PyTorch, and its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from benchmarks import workload as given


class Block(nn.Module):
    """Two 3x3 convolutions and a skip connection, a 1x1 convolution if shapes change."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        if stride != 1 or inputs != features:
            self.conv_skip = nn.Conv2d(inputs, features, 1, stride, bias=False)
            self.norm_skip = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """(n, i, h, w) to (n, o, p, q)."""
        y = relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.norm_skip(self.conv_skip(x)) if hasattr(self, "conv_skip") else x
        return relu(y, inplace=True)


class ResNet(nn.Module):
    """A residual network for inputs in [0, 1], ResNet-18; modules are named as in Flax."""

    def __init__(
        self,
        width: int,
        stages: Sequence[int] = (2, 2, 2, 2),
        mean: Sequence[float] = given.MEAN,
        std: Sequence[float] = given.STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        features, self.blocks = width, []
        for stage, blocks in enumerate(stages):
            for block in range(blocks):
                name = f"stage{stage + 1}_block{block + 1}"
                made = Block(features, width * 2**stage, 2 if stage > 0 and block == 0 else 1)
                self.add_module(name, made)
                self.blocks.append(name)
                features = width * 2**stage
        self.head = nn.Linear(features, given.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, classes)."""
        x = (x - self.mean) / self.std
        x = relu(self.stem_norm(self.stem(x)), inplace=True)
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        if x.dtype == self.head.weight.dtype:
            return self.head(x.mean((2, 3)))
        with torch.autocast(x.device.type, enabled=False):  # as rfm: the head in float32
            return self.head(x.to(self.head.weight.dtype).mean((2, 3)))


def flax_path(name: str) -> str:
    """Where Flax keeps what PyTorch calls `name` ("stage1_block1.conv1.weight")."""
    *modules, leaf = name.split(".")
    if leaf == "weight":
        norm = "norm" in modules[-1]
        leaf = "scale" if norm else "kernel"
        modules += [] if norm or modules == ["head"] else ["conv"]
    return "/".join([*modules, leaf])


def from_flax(path: str, leaf: Tensor) -> Tensor:
    """A Flax parameter as PyTorch keeps it: o i h w, o i, and scales not offset by one."""
    if path.endswith("/scale"):
        return 1 + leaf
    return leaf.permute(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T if leaf.ndim == 2 else leaf


@torch.no_grad()
def load(model: ResNet) -> ResNet:
    """Gives the network the weights that both sides start from."""
    for name, parameter in model.named_parameters():
        path, shape = flax_path(name), tuple(parameter.shape)
        if len(shape) == 4:
            shape = (*shape[2:], shape[1], shape[0])
        leaf = torch.from_numpy(given.weight(path, shape[::-1] if len(shape) == 2 else shape))
        parameter.copy_(from_flax(path, leaf))
    return model


@torch.no_grad()
def load_trained(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ResNet:
    """The network of a finished training, from its Flax parameters and statistics by path."""
    model = ResNet(about["width"], about["stages"], about["mean"], about["std"])
    for name, parameter in model.named_parameters():
        path = flax_path(name)
        parameter.copy_(from_flax(path, torch.from_numpy(np.array(arrays[path]))))
    for name, buffer in model.named_buffers():
        module, _, kind = name.rpartition(".")
        if kind in ("running_mean", "running_var"):
            path = f"{module.replace('.', '/')}/{kind.removeprefix('running_')}"
            buffer.copy_(torch.from_numpy(np.array(arrays[path])))
    return model


def perturbed(model: ResNet) -> list[Tensor]:
    """Every weight tensor and bias except those of normalisation."""
    return [p for name, p in model.named_parameters() if "norm" not in name]
