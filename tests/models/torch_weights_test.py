"""Published weights: the same function here, and every tensor accounted for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import losses, models
from rfm.errors import UserError
from rfm.models import resnet
from rfm.models.blocks import Bottleneck, DeepMindBlock
from rfm.models.published import leaves

torch = pytest.importorskip(
    "torch", reason="compares with PyTorch: pip install 'robust-flat-minima[torch]'"
)
import torch_reference as reference  # noqa: E402
from published_cases import (  # noqa: E402
    CASES,
    FAMILIES,
    PLAIN,
    SLOW,
    WHITE,
    kuangliu,
    renamed,
    small,
    tensors,
    wide,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    "name", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES]
)
def test_logits_and_input_gradients_are_those_of_pytorch(name, crops):
    model, module = small(name)
    x, y = crops(3, 32)
    y = y % model.classes
    # Copied into PyTorch's own layout: its gradients for the other one can crash (2.13 on CPU).
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    expected = module(images)
    torch.nn.functional.cross_entropy(expected, torch.from_numpy(y).long()).backward()
    params, stats = models.from_torch(module.state_dict(), model)

    @jax.jit
    def values(params, stats, x):
        def loss(x):
            logits = models.apply_fn(model, stats)(params, x)
            return losses.cross_entropy(logits, y).mean(), logits

        (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        return logits, gradient

    logits, gradient = values(params, stats, x)
    expected_gradient = images.grad.numpy().transpose(0, 2, 3, 1)
    for found, wanted in ((logits, expected.detach().numpy()), (gradient, expected_gradient)):
        assert np.linalg.norm(wanted) > 0
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(name):
    """To the bit, but for scales below a half, which an offset from one rounds; once."""
    model, module = small(name)
    given = tensors(module)
    variables = models.from_torch(given, model)
    found = models.to_torch(*variables, model)
    known = {key for key in given if "num_batches" in key or key.startswith("sub_block1.")}
    assert set(given) - known == {key for key in found if "num_batches" not in key}
    for key in set(given) - known:
        assert found[key].dtype == given[key].dtype and found[key].shape == given[key].shape
        is_scale = given[key].ndim == 1 and key.endswith("weight")
        exact = given[key] >= 0.5 if is_scale else np.full(given[key].shape, True)
        np.testing.assert_array_equal(found[key][exact], given[key][exact])
        np.testing.assert_allclose(found[key], given[key], rtol=0, atol=6e-8)
    again = models.from_torch(found, model)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    twice = models.to_torch(*again, model)
    assert all(np.array_equal(twice[key], found[key]) for key in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_exported_tensors_are_all_that_pytorch_asks_for(name):
    model, module = small(name)
    shapes = jax.eval_shape(lambda key: models.initialise(model, key, (8, 8, 3)), jax.random.key(0))
    rng = np.random.default_rng(0)
    params, stats = jax.tree.map(
        lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(np.float32), shapes
    )
    stats = jax.tree.map(np.abs, stats)
    found = models.to_torch(params, stats, model)
    if hasattr(module, "sub_block1"):
        del module.sub_block1
    module.load_state_dict({k: torch.from_numpy(v) for k, v in found.items()}, strict=True)
    assert set(found) == set(module.state_dict())
    again = models.from_torch(module.state_dict(), model)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=6e-8), again, (params, stats)
    )


def test_architectures_by_name_are_those_that_are_compared_here():
    def settings(name):
        model = models.create(name, classes=10, width=16, **PLAIN)
        return model.block, model.stages, model.stem_norm, model.final_norm, model.stem_width

    for name, case in {
        "resnet18": "resnet18",
        "resnet50": "resnet50",
        "preact_resnet18": "preact_resnet18",
        "wrn28": "wrn28-1",
        "wrn34": "wrn34-1",
        "dm_wrn28": "dm_wrn28-1",
        "dm_wrn34": "dm_wrn34-1",
    }.items():
        model, _ = CASES[case]()
        assert settings(name) == (
            model.block, model.stages, model.stem_norm, model.final_norm, model.stem_width
        )  # fmt: skip
    assert settings("dm_wrn70")[:2] == (DeepMindBlock, (11, 11, 11))


@pytest.mark.parametrize(
    ("name", "width", "theirs"),
    [
        ("resnet18", 64, lambda: reference.ResNet(reference.BasicBlock, (2, 2, 2, 2))),
        ("resnet50", 64, lambda: reference.ResNet(reference.Bottleneck, (3, 4, 6, 3))),
        ("preact_resnet18", 64, lambda: reference.ResNet(reference.PreActBlock, (2, 2, 2, 2))),
        ("wrn28", 160, lambda: reference.WideResNet(28, 10)),
        ("wrn34", 320, lambda: reference.WideResNet(34, 20)),
        ("dm_wrn34", 320, lambda: reference.DeepMindWideResNet(34, 20)),
        ("dm_wrn70", 256, lambda: reference.DeepMindWideResNet(70, 16)),
    ],
)
def test_networks_of_full_size_have_the_same_tensors(name, width, theirs):
    with torch.device("meta"):  # shapes alone
        state = theirs().state_dict()
    model = models.create(name, classes=10, width=width, **PLAIN)
    found = {leaf.name: leaf.shape_there for leaf in leaves(model)}
    buffers = ("num_batches_tracked", "mean", "std")
    assert found == {
        key: tuple(value.shape)
        for key, value in state.items()
        if key.rpartition(".")[-1] not in buffers
    }


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "module.model.", "1.", "_orig_mod.", "a.b."]
)
@pytest.mark.parametrize("name", ["wrn10-1", "dm_wrn10-2", "preact_resnet18"])
def test_wrappers_are_understood(name, prefix):
    model, module = small(name)
    given = renamed(tensors(module), prefix)
    expected = models.from_torch(module.state_dict(), model)
    found = models.from_torch(given, model)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_network_inside_of_madrylabs_attacker():
    """Its names come twice, with whitening beside both."""
    model, module = kuangliu(Bottleneck, 4, (1, 1), WHITE)
    state = tensors(reference.randomise(module))
    white = {"mean": state.pop("mu").reshape(3, 1, 1), "std": state.pop("sigma").reshape(3, 1, 1)}
    given = renamed(state, "module.model.") | renamed(state, "module.attacker.model.")
    for where in ("normalizer", "attacker.normalize"):
        given |= {f"module.{where}.new_{name}": value for name, value in white.items()}
    found = models.from_torch(given, model)
    jax.tree.map(np.testing.assert_array_equal, found, models.from_torch(state, model))
    given["module.attacker.model.linear.bias"] = given["module.attacker.model.linear.bias"] + 1
    with pytest.raises(UserError, match="linear.bias: differs from module.model.linear.bias"):
        models.from_torch(given, model)


def test_what_files_may_lack():
    """Counters of old versions, whitening that a wrapper does, the stage that nobody calls."""
    model, module = small("wrn16-2-cosine")
    given = tensors(module)
    assert any(name.startswith("sub_block1.") for name in given)
    expected = models.from_torch(given, model)
    for name in list(given):
        if "num_batches" in name or name.startswith("sub_block1.") or name in ("mu", "sigma"):
            del given[name]
    jax.tree.map(np.testing.assert_array_equal, models.from_torch(given, model), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32(dtype):
    model, module = small("dm_wrn10-2")
    given = module.to(dtype).state_dict()
    params, stats = models.from_torch(
        {k: v for k, v in given.items() if k not in ("mean", "std")}, model
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["head"]["bias"], given["logits.bias"].float().numpy())
    scale = given["batchnorm.weight"].double().numpy() - 1
    np.testing.assert_allclose(params["final_norm"]["scale"], scale, rtol=1e-6, atol=1e-7)


def broken(name, change):
    model, module = small(name)
    given = tensors(module)
    change(given)
    with pytest.raises(UserError) as told:
        models.from_torch(given, model)
    return str(told.value).splitlines()


MISTAKES = {
    "missing": (
        lambda g: g.pop("block2.layer.0.conv1.weight"),
        "block2.layer.0.conv1.weight: missing",
    ),
    "unexpected": (lambda g: g.update({"bn2.weight": np.ones(3)}), "bn2.weight: unexpected"),
    "twice": (lambda g: g.update({"module.fc.bias": g["fc.bias"]}), "module.fc.bias: unexpected"),
    "shape": (
        lambda g: g.update({"fc.weight": np.zeros((10, 63))}),
        "fc.weight: has shape (10, 63), not (100, 64)",
    ),
    "not finite": (
        lambda g: g["block1.layer.0.bn1.bias"].fill(np.nan),
        "block1.layer.0.bn1.bias: not finite",
    ),
    "too large": (lambda g: g.update({"bn1.bias": np.full(64, 1e300)}), "bn1.bias: not finite"),
    "integers": (
        lambda g: g.update({"bn1.weight": np.ones(64, np.int64)}),
        "bn1.weight: is int64, not floating-point",
    ),
    "variance": (
        lambda g: g["bn1.running_var"].fill(-1),
        "bn1.running_var: has negative variances",
    ),
    "mean": (
        lambda g: g["mu"].fill(0.5),
        "mu: whitens with (0.5, 0.5, 0.5), model.mean is (0.4914, 0.4822, 0.4465)",
    ),
    "std": (
        lambda g: g.update({"sigma": np.ones((1, 1, 1, 1))}),
        "sigma: whitens with (1), model.std is (0.2471, 0.2435, 0.2616)",
    ),
    "counter": (
        lambda g: g.update({"bn7.num_batches_tracked": np.int64(1)}),
        "bn7.num_batches_tracked: unexpected",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_told(mistake):
    change, line = MISTAKES[mistake]
    first, *lines = broken("wrn10-1", change)
    assert first == "the weights do not fit a WideResNet of 39 tensors:"
    assert [told.strip() for told in lines] == [line]


def test_all_mistakes_are_told_at_once():
    def all_of_them(given):
        for change, _ in MISTAKES.values():
            change(given)

    _, *lines = broken("wrn10-1", all_of_them)
    names = {line.split(": ")[0].strip() for line in lines}
    assert names == {line.split(": ")[0] for _, line in MISTAKES.values()}


def test_a_mistake_under_a_prefix_has_the_name_of_the_file():
    model, module = small()
    given = renamed(tensors(module), "module.")
    del given["module.fc.weight"]
    with pytest.raises(UserError, match=r"\n  module\.fc\.weight: missing$"):
        models.from_torch(given, model)


@pytest.mark.parametrize(
    ("file", "model", "told"),
    [
        ("dm_wrn10-2", "wrn10-1", r"a WideResNet of 39 tensors \(they have names of a DeepMind"),
        ("wrn16-2", "resnet50", r"bottlenecks of \d+ tensors \(they have names of a WideResNet\):"),
        ("resnet18", "dm_wrn10-2", r"\(they have names of a ResNet of two-layer blocks or"),
        ("preact_resnet18", "wrn28-1", r"PreActResNet\):\n  bn1.weight: missing"),
        ("wrn16-2", "wrn28-1", r"a WideResNet of \d+ tensors:"),
        ("wrn28-1", "wrn16-2", r"a WideResNet of \d+ tensors:"),
        ("resnet18", "preact_resnet18", r"a PreActResNet of \d+ tensors:"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_told(file, model, told):
    _, module = small(file)
    with pytest.raises(UserError, match=told):
        models.from_torch(tensors(module), CASES[model]()[0])


def test_a_published_whitening_where_there_should_be_none():
    """Carmon's network is not whitened, Pang's is: the wrong one is not taken."""
    _, module = wide(10, 1, WHITE)
    model, _ = wide(10, 1, PLAIN)
    with pytest.raises(UserError, match=r"mu: whitens with .*\n  sigma: whitens with"):
        models.from_torch(tensors(reference.randomise(module)), model)


def test_networks_without_published_names():
    import flax.linen as nn

    with pytest.raises(TypeError, match="no published names are known for Dense"):
        models.from_torch({}, nn.Dense(3))
    model = models.create("resnet8", classes=10, width=4, rotation_head=True, **PLAIN)
    variables = models.initialise(model, jax.random.key(0), (8, 8, 3))
    with pytest.raises(UserError, match="rotation_head"):
        models.to_torch(*variables, model)


def test_trees_of_another_network_are_told():
    model = resnet.resnet8(classes=10, width=4, activation="relu", **PLAIN)
    params, stats = models.initialise(model, jax.random.key(0), (8, 8, 3))
    with pytest.raises(ValueError, match="not those of the architecture"):
        models.to_torch({"stem": params["stem"]}, stats, model)
