"""Loading a checkpoint into a model: which file, which keys, and what does not fit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ampconvert.errors import UserError
from ampconvert.frontends.run_source import first_line

Weights = Mapping[str, torch.Tensor]
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "params", "weights")
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "backbone.")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the checkpoint at `path` into `model`, in place; every key must fit.

    Reads safetensors (one file, or a Hugging Face `*.safetensors.index.json` with its shards) and
    what torch.save wrote, with weights_only=True: nothing in the file is run. A dict that holds the
    weights under "state_dict", "model_state_dict" or "model" is unwrapped; a prefix such as
    "module." (DistributedDataParallel), "model." (Lightning) or "_orig_mod." (torch.compile) that
    stands before all keys is dropped when the keys fit without it. Raises UserError for a file that
    is missing or damaged, and for missing, unexpected or differently shaped tensors.
    """
    found = _read(path)
    own = model.state_dict()
    given = max(_spellings(found), key=lambda keys: len(own.keys() & keys.keys()))
    missing = sorted(own.keys() - given.keys() - _needless(own, given))
    unexpected = sorted(given.keys() - own.keys())
    shapes = [
        f"{key} {list(given[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in own.items()
        if key in given and _shaped(tensor) and tensor.shape != given[key].shape
    ]
    problems = [
        *_listed("missing from the file", missing),
        *_listed("unknown to the model", unexpected),
        *_listed("of another shape", shapes),
    ]
    if problems:
        raise UserError(
            f"{path}: the weights do not fit {type(model).__name__} "
            f"({len(own)} tensors in the model, {len(given)} in the file)\n  "
            + "\n  ".join(problems)
            + "\nBuild the model with the arguments it was trained with, or load the file yourself "
            "in `def build_model()`."
        )
    try:
        model.load_state_dict(dict(given), strict=False)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: loading the weights failed: {first_line(error)}") from error


def _read(path: Path) -> Weights:
    if not path.exists():
        raise UserError(f"{path}: there is no such weights file")
    if path.is_dir():
        raise UserError(f"{path}: this is a folder; name the weights file in it")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the weights file is empty")
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise UserError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` first")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in SUFFIXES:
        return _unwrap(_read_torch(path), path)
    raise UserError(f"{path}: not a weights file by its name; use one of {', '.join(SUFFIXES)}")


def _read_shards(index: Path) -> Weights:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index}: not a safetensors index (it has no weight_map)") from None
    for shard in shards:  # a name from a file leads nowhere but to its own folder
        plain = isinstance(shard, str) and Path(shard).name == shard and "\\" not in shard
        if not plain or not shard.endswith(SUFFIXES):
            raise UserError(f"{index}: {shard!r} in its weight_map is no weights file beside it")
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(shards):
        weights.update(_read(index.parent / shard))
    return weights


def _read_safetensors(path: Path) -> Weights:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"{path}: reading it needs safetensors: pip install 'ampconvert[torch]'"
        ) from None
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged safetensors file: {first_line(error)}") from None
    return weights


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Unsupported global" not in text and "GLOBAL" not in text:
            raise UserError(f"{path}: not a file that torch.save wrote, or damaged") from None
        raise UserError(
            f"{path}: it holds pickled Python objects besides tensors, and reading those runs code."
            " If you trust the file, write the tensors alone and use that file: "
            "torch.save(torch.load(old, weights_only=False).state_dict(), 'weights.pt')"
        ) from None
    except Exception as error:  # a damaged file makes torch raise almost anything
        if "TorchScript" in str(error):
            raise UserError(
                f"{path}: a TorchScript archive, not weights; save `model.state_dict()` instead"
            ) from None
        raise UserError(f"{path}: damaged weights file: {first_line(error)}") from None


def _unwrap(content: object, path: Path) -> Weights:
    """The mapping of names to tensors in what a training script saved."""
    found = content
    while isinstance(found, Mapping):
        tensors = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)}
        inner = next((found[k] for k in _WRAPPERS if isinstance(found.get(k), Mapping)), None)
        if inner is None:
            if not tensors:
                break
            return {str(key): value for key, value in tensors.items()}
        found = inner
    keys = f" with the keys {', '.join(map(str, list(content)[:5]))}" if isinstance(
        content, Mapping) else ""  # fmt: skip
    raise UserError(
        f"{path}: no weights found in it: it holds a {type(content).__name__}{keys}; "
        "save `model.state_dict()`"
    )


def _spellings(weights: Weights) -> Iterator[dict[str, Any]]:
    """The weights under their own keys, then without the prefixes that all keys share."""
    keys = dict(weights)
    yield keys
    while keys:
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in keys)), None)
        if prefix is None:
            break
        keys = {key.removeprefix(prefix): value for key, value in keys.items()}
        yield keys
    if any("_orig_mod." in key for key in weights):  # a compiled part inside the model
        yield {key.replace("_orig_mod.", ""): value for key, value in weights.items()}


def _needless(own: Weights, given: Weights) -> set[str]:
    """Keys a file may leave out: counters, and names of a tensor that it holds under another."""
    held = {_place(own[key]) for key in given.keys() & own.keys()}
    return {
        key
        for key, tensor in own.items()
        if key.endswith("num_batches_tracked") or (tensor.numel() and _place(tensor) in held)
    }


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    if not _shaped(tensor) or tensor.is_meta:
        return (id(tensor),)
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _shaped(tensor: torch.Tensor) -> bool:
    return not isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{len(names)} {what}: {', '.join(names[:5])}{more}"]
