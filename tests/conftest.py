"""What tests share: simulated devices, real images, float64, a slow reference in NumPy."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from rfm.devices import shard

# Several devices on one CPU. By config, not by XLA_FLAGS: the environment would reach the
# subprocesses in which the command line arranges its devices itself.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", 4)


def pytest_configure(config: pytest.Config) -> None:
    """Programs are compiled once for all workers and modules, and for the next time."""
    assert config.cache is not None
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


hypothesis.settings.register_profile(
    "rfm", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("rfm")

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "cifar10_small.npz"


@pytest.fixture(scope="session")
def cifar10() -> dict[str, np.ndarray]:
    """The first images of CIFAR-10, see fixtures/README.md."""
    with np.load(FIXTURE) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def crops(cifar10) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`crops(n, size, channels)`: centres of real test images in [0, 1], and labels."""

    def make(n: int, size: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
        start = (32 - size) // 2
        images = cifar10["x_test"][:n, start : start + size, start : start + size, :channels]
        return images.astype(np.float32) / np.float32(255), cifar10["y_test"][:n].astype(np.int32)

    return make


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, so that a reference can be matched number by number."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs() -> Iterator[None]:
    """Each is mapped into memory piece by piece, and a process may have only so many pieces."""
    yield
    jax.clear_caches()


@pytest.fixture
def quick_compilation() -> Iterator[None]:
    """A third of the compile time, for tests of what is computed and not of how fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def four_devices() -> Mesh:
    """A mesh of them."""
    if len(jax.devices()) < 4:
        pytest.skip("needs 4 devices; on CPU: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    return Mesh(np.array(jax.devices()[:4]), ("data",))


@pytest.fixture
def spread(four_devices) -> Callable[[Any], Any]:
    """Puts a batch onto four devices, cut along the first axis of each array."""
    return lambda batch: shard(batch, four_devices)


class TanhNetwork:
    """One hidden layer and something like a normalisation, differentiated by hand.

    In JAX it is ``logits(params, x)``; the NumPy side shares no code with it.
    """

    def __init__(self, inputs: int, hidden: int = 7, classes: int = 4, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.params = {
            "hidden": {
                "kernel": rng.normal(size=(inputs, hidden)) * 3 / np.sqrt(inputs),
                "bias": rng.normal(size=hidden) * 0.3,
            },
            "norm": {"scale": rng.uniform(0.5, 1.5, size=hidden)},
            "out": {
                "kernel": rng.normal(size=(hidden, classes)) * 2 / np.sqrt(hidden),
                "bias": rng.normal(size=classes) * 0.3,
            },
        }

    @staticmethod
    def logits(params: Any, x: jax.Array) -> jax.Array:
        hidden = x.reshape(x.shape[0], -1) @ params["hidden"]["kernel"] + params["hidden"]["bias"]
        hidden = jnp.tanh(hidden) * params["norm"]["scale"]
        return hidden @ params["out"]["kernel"] + params["out"]["bias"]

    @staticmethod
    def differentiate(params: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """Losses (n,), gradients of their sum for weights and inputs, predictions (n,)."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        tanh = np.tanh(flat @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        scaled = tanh * params["norm"]["scale"]
        logits = scaled @ params["out"]["kernel"] + params["out"]["bias"]
        shifted = logits - logits.max(1, keepdims=True)
        log_softmax = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        losses = -log_softmax[np.arange(len(y)), y]
        of_logits = np.exp(log_softmax)
        of_logits[np.arange(len(y)), y] -= 1
        of_scaled = of_logits @ params["out"]["kernel"].T
        of_hidden = of_scaled * params["norm"]["scale"] * (1 - tanh**2)
        of_params = {
            "hidden": {"kernel": flat.T @ of_hidden, "bias": of_hidden.sum(0)},
            "norm": {"scale": (of_scaled * tanh).sum(0)},
            "out": {"kernel": scaled.T @ of_logits, "bias": of_logits.sum(0)},
        }
        of_x = (of_hidden @ params["hidden"]["kernel"].T).reshape(x.shape)
        return losses, of_params, of_x, logits.argmax(1)

    @classmethod
    def pgd(
        cls,
        params: Any,
        x: np.ndarray,
        y: np.ndarray,
        starts: np.ndarray,
        *,
        norm: str,
        epsilon: float,
        steps: int,
        step_size: float,
        momentum: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Worst inputs, their losses, and success; `starts` are (restarts, n, h, w, c).

        One example and one restart after the other.
        """
        worst_x, worst_loss = np.array(x, np.float64), np.full(len(x), -np.inf)
        success = np.zeros(len(x), bool)
        for start in np.asarray(starts, np.float64):
            for i in range(len(x)):
                adversarial, velocity = np.clip(x[i] + start[i], 0, 1), 0.0
                for step in range(steps + 1):
                    (loss,), _, (gradient,), (prediction,) = cls.differentiate(
                        params, adversarial[None], y[i : i + 1]
                    )
                    success[i] |= prediction != y[i]
                    if loss > worst_loss[i]:
                        worst_x[i], worst_loss[i] = adversarial, loss
                    if step == steps:
                        break
                    if momentum:
                        gradient = gradient / np.abs(gradient).sum()
                        velocity = momentum * velocity + (1 - momentum) * gradient
                        gradient = velocity
                    if norm == "linf":
                        delta = adversarial - x[i] + step_size * np.sign(gradient)
                        delta = np.minimum(np.maximum(delta, -epsilon), epsilon)
                    else:
                        length = np.sqrt((gradient**2).sum())
                        delta = adversarial - x[i] + step_size * gradient / length
                        delta = delta * min(1.0, epsilon / np.sqrt((delta**2).sum()))
                    adversarial = np.clip(x[i] + delta, 0, 1)
        return worst_x, worst_loss, success


@pytest.fixture(scope="session")
def tanh_network() -> type[TanhNetwork]:
    return TanhNetwork


@pytest.fixture(scope="session")
def trained_network(
    cifar10, tmp_path_factory
) -> Callable[[str], tuple[Any, Any, np.ndarray, np.ndarray]]:
    """`trained_network(adversary)`: a small network that fits 128 training images, and 32 of these.

    Returns its ``apply_fn``, parameters, images and labels. The middle of the images, 16 by
    16 pixels, for the sake of time.
    """
    from rfm.configs import base

    from rfm.training import build, loop
    from rfm.training.checkpoint import Checkpoints

    data = tmp_path_factory.mktemp("data") / "middle.npz"
    middle = {k: v[:128, 8:24, 8:24] if k[0] == "x" else v[:128] for k, v in cifar10.items()}
    np.savez(data, **middle)

    @functools.cache
    def train(adversary: str):
        config = base.get_config()
        config.data.update(source=str(data), flip=False, crop=0)
        config.model.update(name="resnet8", width=8)
        config.adversary.update(name=adversary, steps=3, step_size=0.015)
        config.optimiser.milestones = (50,)
        config.train.update(epochs=60, batch_size=64, snapshot_every=60, steps_per_dispatch=120)
        config.validation.update(examples=16, steps=1, restarts=1)
        run, workdir = build.build(config), tmp_path_factory.mktemp(adversary)
        loop.train(run, workdir)
        with Checkpoints(workdir / "checkpoints", snapshot_steps=120, read_only=True) as stored:
            state = stored.restore(run.total_steps, run.initial_state())
        state = jax.device_get(state)
        x = run.dataset.train_images[:32].astype(np.float32) / 255
        y = np.asarray(run.dataset.train_labels[:32])
        return run.apply_fn(state.batch_stats), state.params, x, y

    return train
