"""Loading checkpoints: every kind of file, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ampconvert.frontends.entry import Entry
from tests.model_files import NET, load, message


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.full((2, 3), 7.0), "fc.bias": torch.zeros(2)}


def assert_loaded(entry: Entry) -> None:
    assert torch.equal(entry.model.fc.weight, torch.full((2, 3), 7.0))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
def test_weights_of_each_kind(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    assert_loaded(load(tmp_path, NET, weights=file))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "model._orig_mod."])
def test_wrapped_and_prefixed_weights(
    tmp_path: Path, state: dict[str, torch.Tensor], key: str, prefix: str
) -> None:
    inner = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, key: inner, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert_loaded(load(tmp_path, NET, weights=tmp_path / "w.pt"))


def test_a_prefix_that_the_model_has_itself_stays(tmp_path: Path) -> None:
    text = NET.replace("fc", "model")
    tensors = {"model.weight": torch.full((2, 3), 7.0), "model.bias": torch.zeros(2)}
    torch.save(tensors, tmp_path / "w.pt")
    entry = load(tmp_path, text, weights=tmp_path / "w.pt")
    assert torch.equal(entry.model.model.weight, tensors["model.weight"])


def test_shards(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    for i, (name, tensor) in enumerate(state.items()):
        save_file({name: tensor}, tmp_path / f"{i}.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"fc.weight": "0.safetensors", "fc.bias": "1.safetensors"}}')
    assert_loaded(load(tmp_path, NET, weights=index))


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    extra = {f"old.{i}": torch.zeros(1) for i in range(8)}
    torch.save({"fc.weight": torch.zeros(2, 9), **extra}, tmp_path / "w.pt")
    said = message(load, tmp_path, NET, weights=tmp_path / "w.pt")
    assert "1 missing from the file: fc.bias" in said
    assert "8 unknown to the model: old.0, old.1, old.2, old.3, old.4, and 3 more" in said
    assert "fc.weight [2, 9] instead of [2, 3]" in said


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    text = """
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight
        def forward(self, ids):
            return self.head(self.embed(ids))
    """
    save_file({"embed.weight": torch.ones(5, 4)}, tmp_path / "w.safetensors")
    entry = load(tmp_path, text, weights=tmp_path / "w.safetensors")
    assert torch.equal(entry.model.head.weight, torch.ones(5, 4))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("data", [b"", b"junk" * 20, b"version https://git-lfs.github.com/spec/v1"])
def test_damaged_weights(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    said = message(load, tmp_path, NET, weights=tmp_path / name)
    assert str(tmp_path / name) in said
    assert any(word in said for word in ("empty", "damaged", "git lfs pull"))


def test_weights_that_are_none(tmp_path: Path) -> None:
    assert "no such weights" in message(load, tmp_path, NET, weights=tmp_path / "none.pt")
    assert "folder" in message(load, tmp_path, NET, weights=tmp_path)
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    assert "no weights found" in message(load, tmp_path, NET, weights=tmp_path / "w.pt")
    torch.save(nn.Linear(3, 2), tmp_path / "w.pt")
    assert "runs code" in message(load, tmp_path, NET, weights=tmp_path / "w.pt")
    torch.jit.save(torch.jit.script(nn.Linear(3, 2)), tmp_path / "w.pt")
    assert "TorchScript" in message(load, tmp_path, NET, weights=tmp_path / "w.pt")
    (tmp_path / "w.txt").write_text("x")
    assert "not a weights file" in message(load, tmp_path, NET, weights=tmp_path / "w.txt")
