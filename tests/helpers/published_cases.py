"""Networks of `rfm.models`, each with its counterpart in PyTorch."""

import torch_reference as reference

from rfm.models.blocks import Bottleneck, DeepMindBlock, PreActBlock, WideBlock
from rfm.models.resnet import ResNet

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
WHITE = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
WIDE = {"stem_norm": False, "stem_width": 16, "final_norm": True}


def ours(width, stages, white, classes=10, activation="relu", **settings):
    return ResNet(classes, stages, width, activation, **white, **settings)


def kuangliu(block, width, stages, white=PLAIN, **settings):
    theirs = {None: reference.BasicBlock, Bottleneck: reference.Bottleneck}
    theirs |= {PreActBlock: reference.PreActBlock}
    module = reference.ResNet(theirs[block], stages, width, **white, **settings)
    if block is not None:
        settings |= {"block": block, "stem_norm": block is not PreActBlock}
    return ours(width, stages, white, **settings), module


def wide(depth, factor, white=PLAIN, cosine=False, sub_block1=False, **settings):
    module = reference.WideResNet(
        depth, factor, **white, cosine=cosine, sub_block1=sub_block1, **settings
    )
    settings |= {"block": WideBlock, "cosine_scale": float(cosine), **WIDE}
    return ours(16 * factor, ((depth - 4) // 6,) * 3, white, **settings), module


def deepmind(depth, factor, white=WHITE, activation="silu", **settings):
    module = reference.DeepMindWideResNet(depth, factor, activation=activation, **white, **settings)
    settings |= {"block": DeepMindBlock, "activation": activation, **WIDE}
    return ours(16 * factor, ((depth - 4) // 6,) * 3, white, **settings), module


CASES = {
    "resnet18": lambda: kuangliu(None, 8, (2, 2, 2, 2)),
    "resnet34": lambda: kuangliu(None, 4, (3, 4, 6, 3), WHITE, classes=7),
    "resnet50": lambda: kuangliu(Bottleneck, 4, (3, 4, 6, 3), WHITE),
    "resnet26": lambda: kuangliu(Bottleneck, 8, (2, 2, 2, 2)),
    "preact_resnet18": lambda: kuangliu(PreActBlock, 8, (2, 2, 2, 2), WHITE),
    "preact_resnet34": lambda: kuangliu(PreActBlock, 4, (3, 4, 6, 3)),
    "wrn10-1": lambda: wide(10, 1, WHITE, classes=100),
    "wrn16-2": lambda: wide(16, 2, sub_block1=True),
    "wrn28-1": lambda: wide(28, 1),
    "wrn34-1": lambda: wide(34, 1),
    "wrn16-2-cosine": lambda: wide(16, 2, WHITE, cosine=True, sub_block1=True),
    "dm_wrn10-2": lambda: deepmind(10, 2, activation="relu"),
    "dm_wrn16-3": lambda: deepmind(16, 3, PLAIN),
    "dm_wrn28-1": lambda: deepmind(28, 1),
    "dm_wrn34-1": lambda: deepmind(34, 1, classes=4),
}


# The same code at more depths; their programs take long to compile.
SLOW = ("resnet34", "resnet26", "preact_resnet34", "wrn34-1", "dm_wrn34-1")

FAMILIES = ("resnet18", "resnet26", "preact_resnet18", "wrn16-2", "wrn16-2-cosine", "dm_wrn10-2")


def small(name="wrn10-1"):
    model, module = CASES[name]()
    return model, reference.randomise(module)


def tensors(module):
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def renamed(state, prefix):
    return {prefix + name: value for name, value in state.items()}
