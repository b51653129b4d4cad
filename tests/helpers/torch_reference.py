"""The published networks in PyTorch: an independent reference for those in `rfm.models`.

Written from what the publications and their code do, with the names of the published
tensors, and with nothing of `rfm`. Each takes images (n, c, h, w) in [0, 1].
"""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

ACTIVATIONS = {"relu": F.relu, "silu": F.silu}


def conv(inputs: int, outputs: int, size: int, stride: int = 1, padding: int | None = None):
    padding = size // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)


class Whitened(nn.Module):
    """Buffers `mu` and `sigma`, if there is anything to do."""

    def whiten_with(self, mean, std):
        self.whitens = any(mean) or any(value != 1 for value in std)
        if self.whitens:
            self.register_buffer("mu", torch.tensor(mean).view(1, -1, 1, 1))
            self.register_buffer("sigma", torch.tensor(std).view(1, -1, 1, 1))

    def whitened(self, x):
        return (x - self.mu) / self.sigma if self.whitens else x


# kuangliu's ResNets, and the pre-activation network of Wong et al. (2020)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.shortcut = shortcut(inputs, planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.shortcut = shortcut(inputs, 4 * planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def shortcut(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class PreActBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, planes, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), conv(planes, planes, 3)
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(conv(inputs, planes, 1, stride))

    def forward(self, x):
        past = self.shortcut(x) if hasattr(self, "shortcut") else x
        y = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(y))) + past


class ResNet(Whitened):
    def __init__(self, block, blocks, width=64, classes=10, mean=(0.0,) * 3, std=(1.0,) * 3):
        super().__init__()
        self.whiten_with(mean, std)
        self.conv1 = conv(len(mean), width, 3)
        if block is not PreActBlock:
            self.bn1 = nn.BatchNorm2d(width)
        channels, self.stages = width, len(blocks)
        for stage, count in enumerate(blocks):
            planes, layers = width * 2**stage, []
            for i in range(count):
                layers.append(block(channels, planes, 2 if stage and not i else 1))
                channels = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(channels, classes)

    def forward(self, x):
        y = self.conv1(self.whitened(x))
        if hasattr(self, "bn1"):
            y = F.relu(self.bn1(y))
        for stage in range(self.stages):
            y = getattr(self, f"layer{stage + 1}")(y)
        return self.linear(F.avg_pool2d(y, y.shape[-1]).flatten(1))


# The WideResNet of TRADES, whose copies Carmon, Wang, Wu, Zhang and Pang et al. published


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.convShortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x):
        first = F.relu(self.bn1(x))
        past = x if self.convShortcut is None else self.convShortcut(first)
        return past + self.conv2(F.relu(self.bn2(self.conv1(first))))


class WideStage(nn.Module):
    def __init__(self, count, inputs, outputs, stride):
        super().__init__()
        first, rest = (inputs, outputs, stride), (outputs, outputs, 1)
        self.layer = nn.Sequential(*(WideBlock(*(rest if i else first)) for i in range(count)))

    def forward(self, x):
        return self.layer(x)


class WideResNet(Whitened):
    """With `cosine` the last layer is that of Pang et al. (2020)."""

    def __init__(
        self, depth=28, factor=10, classes=10, mean=(0.0,) * 3, std=(1.0,) * 3,
        sub_block1=False, cosine=False,
    ):  # fmt: skip
        super().__init__()
        self.whiten_with(mean, std)
        count, a, b, c = (depth - 4) // 6, 16 * factor, 32 * factor, 64 * factor
        self.conv1 = conv(len(mean), 16, 3)
        self.block1 = WideStage(count, 16, a, 1)
        if sub_block1:
            self.sub_block1 = WideStage(count, 16, a, 1)  # never called
        self.block2, self.block3 = WideStage(count, a, b, 2), WideStage(count, b, c, 2)
        self.bn1 = nn.BatchNorm2d(c)
        self.fc = nn.Linear(c, classes, bias=not cosine)
        self.cosine = cosine

    def forward(self, x):
        y = self.block3(self.block2(self.block1(self.conv1(self.whitened(x)))))
        y = F.avg_pool2d(F.relu(self.bn1(y)), 8).flatten(1)
        if self.cosine:
            return F.linear(F.normalize(y), F.normalize(self.fc.weight))
        return self.fc(y)


# DeepMind's WideResNet (Gowal et al., 2020; Rebuffi et al., 2021)


class DeepMindBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, activation):
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = conv(inputs, outputs, 3, stride, padding=0)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.pads, self.activation = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1), activation

    def forward(self, x):
        first = self.activation(self.batchnorm_0(x))
        y = self.activation(self.batchnorm_1(self.conv_0(F.pad(first, self.pads))))
        return self.conv_1(y) + (x if self.shortcut is None else self.shortcut(first))


class DeepMindStage(nn.Module):
    def __init__(self, count, inputs, outputs, stride, activation):
        super().__init__()
        first, rest = (inputs, outputs, stride, activation), (outputs, outputs, 1, activation)
        self.block = nn.Sequential(*(DeepMindBlock(*(rest if i else first)) for i in range(count)))

    def forward(self, x):
        return self.block(x)


class DeepMindWideResNet(nn.Module):
    def __init__(
        self, depth=28, factor=10, classes=10, activation="silu",
        mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616),
    ):  # fmt: skip
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        count, a, b, c = (depth - 4) // 6, 16 * factor, 32 * factor, 64 * factor
        act = ACTIVATIONS[activation]
        self.init_conv = conv(len(mean), 16, 3)
        self.layer = nn.Sequential(
            DeepMindStage(count, 16, a, 1, act),
            DeepMindStage(count, a, b, 2, act),
            DeepMindStage(count, b, c, 2, act),
        )
        self.batchnorm, self.logits = nn.BatchNorm2d(c), nn.Linear(c, classes)
        self.activation = act

    def forward(self, x):
        y = self.layer(self.init_conv((x - self.mean) / self.std))
        return self.logits(F.avg_pool2d(self.activation(self.batchnorm(y)), 8).flatten(1))


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and running statistics, as different from fresh ones as trained ones are."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        normal = torch.randn(tensor.shape, generator=draw)
        if name.endswith("num_batches_tracked"):
            tensor.fill_(1234)
        elif tensor.ndim > 1 and name.endswith("weight"):
            tensor.copy_(normal * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + normal**2)
        elif name.endswith("weight"):
            tensor.copy_(0.7 + 0.3 * normal)  # some below a half, some negative
        elif name not in ("mu", "sigma", "mean", "std"):
            tensor.copy_(0.3 * normal)
    return module.eval()
