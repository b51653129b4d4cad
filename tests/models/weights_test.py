"""Files of weights, whole, damaged and malicious."""

import builtins
import collections
import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from rfm.errors import UserError
from rfm.models import weights

ARRAYS = {
    "conv1.weight": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
    "bn1.num_batches_tracked": np.array(7, np.int64),
    "half": np.array([1.5, -2], np.float16),
    "double": np.array([0.1, 0.2]),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip(
        "torch", reason="writes PyTorch's files: pip install 'robust-flat-minima[torch]'"
    )


def same(found):
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert type(found[name]) is np.ndarray and found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def told(path, match):
    with pytest.raises(UserError, match=match) as caught:
        weights.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def of_torch(torch, arrays=ARRAYS):
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def test_npz(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    same(weights.read(tmp_path / "w.npz"))


def test_safetensors(tmp_path):
    weights.write_safetensors(tmp_path / "w.safetensors", ARRAYS, {"model": {"name": "wrn28"}})
    same(weights.read(tmp_path / "w.safetensors"))
    checksum = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    about = {"model": {"name": "wrn28"}, "sha256": checksum}
    assert json.loads((tmp_path / "w.json").read_text()) == about


def test_safetensors_of_arrays_that_lie_otherwise_in_memory(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4)
    weights.write_safetensors(tmp_path / "w.safetensors", {"a": array.T, "b": array[:, ::2]}, {})
    found = weights.read(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found["a"], array.T)
    np.testing.assert_array_equal(found["b"], array[:, ::2])


def test_safetensors_in_bfloat16(tmp_path):
    import ml_dtypes

    array = np.array([1.5, -0.25], ml_dtypes.bfloat16)
    save_file({"a": array}, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(weights.read(tmp_path / "w.safetensors")["a"], array)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.pth.tar"])
def test_pytorch(tmp_path, torch, name, legacy):
    state = collections.OrderedDict(of_torch(torch))
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    same(weights.read(tmp_path / name))


@pytest.mark.parametrize(
    "nest",
    [
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: s["double"]}}},
        lambda s: {"model": s, "best": 0.5},
        lambda s: {"net": s, "acc": 91.0},
        lambda s: {"model_state_dict": s},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"best_accuracy": s["double"], "state_dict": s},
        lambda s: {**s, "epoch": 3},
    ],
)
def test_checkpoints_of_pytorch(tmp_path, torch, nest):
    torch.save(nest(of_torch(torch)), tmp_path / "w.pt")
    same(weights.read(tmp_path / "w.pt"))


def test_pytorch_in_bfloat16_and_with_gradients(tmp_path, torch):
    state = {"a": torch.tensor([1.5], dtype=torch.bfloat16), "b": torch.nn.Parameter(torch.ones(2))}
    torch.save(state, tmp_path / "w.pt")
    found = weights.read(tmp_path / "w.pt")
    assert found["a"].dtype == np.float32 and found["a"] == 1.5
    np.testing.assert_array_equal(found["b"], [1, 1])


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pickled_objects_are_not_loaded(tmp_path, torch, legacy):
    trap = tmp_path / "trap"
    torch.save(
        {"state_dict": of_torch(torch), "extra": Malicious(trap)},
        tmp_path / "w.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    told(tmp_path / "w.pt", "holds pickled Python objects, .* save its state_dict alone")
    assert not trap.exists()


def test_a_whole_module_is_not_loaded(tmp_path, torch):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    told(tmp_path / "w.pt", "holds pickled Python objects")


def test_pickled_objects_in_npz_are_not_loaded(tmp_path):
    trap = tmp_path / "trap"
    np.savez(tmp_path / "w.npz", a=np.array([Malicious(trap)], object))
    told(tmp_path / "w.npz", "pickled Python objects")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors", "w.npz"])
def test_damage_is_told_in_one_line(tmp_path, name, request):
    path = tmp_path / name
    if name.startswith("w.pt"):
        torch = request.getfixturevalue("torch")
        torch.save(of_torch(torch), path)
    elif name == "w.npz":
        np.savez(path, **ARRAYS)
    else:
        save_file(ARRAYS, path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"no weights",
        whole[: len(whole) // 2],
        whole[:40] + whole[60:],
        b"\0" * 99,
    ):
        path.write_bytes(content)
        told(path, "damaged|not an .npz")


def test_damaged_legacy_files_of_pytorch(tmp_path, torch):
    path = tmp_path / "w.pt"
    torch.save(of_torch(torch), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for cut in (10, 200, len(whole) - 20):
        path.write_bytes(whole[:cut])
        told(path, "damaged")


def test_files_that_are_not_there_or_something_else(tmp_path, torch):
    told(tmp_path / "none.pt", "there is no such file")
    told(tmp_path / "none.npz", "there is no such file")
    (tmp_path / "folder.pt").mkdir()
    told(tmp_path / "folder.pt", "is no file")
    (tmp_path / "w.onnx").write_bytes(b"")
    told(tmp_path / "w.onnx", r"weights are \.pt, \.pth, \.pth\.tar, \.safetensors or \.npz")
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    told(tmp_path / "w.pt", "holds no weights")
    torch.save([torch.ones(2)], tmp_path / "w.pt")
    told(tmp_path / "w.pt", "holds no weights")


def test_without_pytorch_its_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without)
    told(tmp_path / "w.pt", r"needs PyTorch.*pip install 'robust-flat-minima\[torch\]'")


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        weights.write_safetensors(tmp_path / "w.npz", ARRAYS, {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        weights.write_safetensors(tmp_path / "file" / "w.safetensors", ARRAYS, {})
