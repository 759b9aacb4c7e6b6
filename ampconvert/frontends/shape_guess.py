"""Shapes worth trying for one input, from the layer it meets first, its name and the config."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ampconvert.frontends.first_layers import Layer, linear_width
from ampconvert.frontends.forward import Parameter
from ampconvert.frontends.random_data import Recipe

IMAGE_SIZES = (224, 64, 32, 28, 256, 128, 512, 384, 299, 96, 84, 48, 16)
LENGTHS = (16, 32, 64, 128, 10, 8, 100, 256, 512, 1024, 16000)
NODES = 16  # of the example graph, for models over graphs
_IDS = ("ids", "tokens", "token", "idx", "indices", "index", "labels")
_TIMES = ("t", "time", "times", "timestep", "timesteps", "sigma", "noise_level")


@dataclass(frozen=True)
class Setting:
    """The sizes that one try gives to the dimensions no layer fixes."""

    batch: int
    image: tuple[int, int]
    length: int


@dataclass(frozen=True)
class Facts:
    """What the model as a whole tells about its inputs."""

    dtype: str  # of its parameters: what its floating point inputs are
    vocabulary: int | None  # size of its first embedding
    config: Any  # a Hugging Face style configuration, or None
    names: tuple[str, ...]  # all parameters of forward
    images: tuple[tuple[int, int], ...]  # sizes that the model names itself
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, names: tuple[str, ...]) -> Facts:
        """Read them from the module tree."""
        floating = (p.dtype for p in model.parameters() if p.is_floating_point())
        dtype = str(next(floating, torch.float32)).removeprefix("torch.")
        tables = (m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
        table = next(tables, None)
        config = getattr(model, "config", None)
        # A learned position for each place, (1, length, width) or (length, width), says how long.
        own = [*model.named_parameters(), *model.named_buffers()]
        places = [
            p.shape[-2]
            for name, p in own
            if "pos" in name.lower() and p.ndim in (2, 3) and p.shape[0] in (1, p.shape[-2])
        ]
        return cls(
            dtype,
            None if table is None else table.num_embeddings,
            config,
            names,
            tuple(_named_sizes(model, config)),
            tuple(dict.fromkeys(n for n in places if 1 < n <= 4096)),
        )

    def settings(self) -> Iterator[Setting]:
        """The sizes to try, likeliest first: those the model names, then the common ones."""
        images = list(dict.fromkeys([*self.images, *((s, s) for s in IMAGE_SIZES)]))
        lengths = list(dict.fromkeys([LENGTHS[0], *self.lengths, *LENGTHS]))
        if self.lengths and LENGTHS[0] > min(self.lengths):
            lengths = list(dict.fromkeys([*self.lengths, *LENGTHS]))
        for batch in (2, 1):
            for i in range(max(len(images), len(lengths))):
                image, length = images[min(i, len(images) - 1)], lengths[min(i, len(lengths) - 1)]
                yield Setting(batch, image, length)

    def count(self, name: str) -> int | None:
        """A whole number from the config, e.g. vocab_size."""
        value = getattr(self.config, name, None)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def options(parameter: Parameter, layer: Layer | None, facts: Facts, s: Setting) -> list[Recipe]:
    """Recipes worth trying for one parameter under one setting, likeliest first."""
    name = parameter.name.lower()
    if parameter.plain is not None:
        value = parameter.default
        if type(value) not in (bool, int, float):
            value = parameter.plain(parameter.plain is not bool)
        return [Recipe((), plain=value)]
    found = [*_by_name(name, layer, facts, s)]
    if layer is not None:
        found += _by_layer(layer, facts, s)
    elif not found:
        width = facts.count("hidden_size") or 16
        found += [
            Recipe((s.batch, 3, *s.image), facts.dtype),
            Recipe((s.batch, s.length, width), facts.dtype),
            Recipe((s.batch, width), facts.dtype),
            Recipe((s.batch,), facts.dtype),
        ]
    return list(dict.fromkeys(found))


def _by_name(name: str, layer: Layer | None, facts: Facts, s: Setting) -> Iterator[Recipe]:
    words = name.split("_")
    flat = (s.batch, s.length)
    if "edge_index" in facts.names:
        yield from _graph(name, layer, facts)
    elif "mask" in name:
        yield from _mask(name, s)
    elif name in ("token_type_ids", "segment_ids"):
        yield Recipe(flat, "int64", fill="zeros")
    elif name in ("position_ids", "positions"):
        yield Recipe(flat, "int64", fill="arange")
    elif words[-1] in _IDS and not (layer is not None and isinstance(layer.module, nn.Linear)):
        size = _table_size(layer) or facts.count("vocab_size") or facts.vocabulary
        for shape in (flat, (s.batch,)):
            yield Recipe(shape, "int64", 0, (size or 2) - 1)
    elif name in ("pixel_values", "images", "image", "img", "imgs"):
        channels = _channels(layer) or facts.count("num_channels") or 3
        yield Recipe((s.batch, channels, *s.image), facts.dtype)
    elif name in ("input_values", "waveform", "waveforms", "audio", "wav"):
        yield from (Recipe(shape, facts.dtype) for shape in ((s.batch, 16000), (s.batch, 1, 16000)))
    elif name == "input_features":
        bins = facts.count("num_mel_bins") or 80
        frames = 2 * (facts.count("max_source_positions") or 1500)
        yield Recipe((s.batch, bins, frames), facts.dtype)
    elif name in _TIMES and (layer is None or not isinstance(layer.module, _ConvNd)):
        yield Recipe((s.batch,), "int64", 0, (_table_size(layer) or 1000) - 1)
        yield Recipe((s.batch,), facts.dtype, 0, 1)
    elif words[-1] in ("lengths", "length", "lens"):
        yield Recipe((s.batch,), "int64", s.length, s.length)


def _mask(name: str, s: Setting) -> Iterator[Recipe]:
    """Masks that hide nothing: ones, but zeros where True means "leave out"."""
    flat, square = (s.batch, s.length), (s.length, s.length)
    if "padding" in name:
        yield Recipe(flat, "bool", fill="zeros")
    yield Recipe(flat, "int64", fill="ones")
    yield Recipe(flat, "bool", fill="ones")
    yield Recipe(flat, "float32", fill="ones")
    yield Recipe(square, "bool", fill="zeros")
    yield Recipe((s.batch, 1, *square), "bool", fill="ones")
    for shape in ((s.batch, 1, *s.image), (s.batch, *s.image)):
        yield Recipe(shape, "float32", fill="ones")


def _graph(name: str, layer: Layer | None, facts: Facts) -> Iterator[Recipe]:
    """A graph of NODES nodes: forward(x, edge_index, ...), as in PyTorch Geometric."""
    edges, width = 4 * NODES, None if layer is None else linear_width(layer.module)
    if name == "edge_index":
        yield Recipe((2, edges), "int64", 0, NODES - 1)
    elif name in ("edge_weight", "edge_attr"):
        yield Recipe((edges,), facts.dtype, 0, 1)
        if width is not None:
            yield Recipe((edges, width), facts.dtype)
    elif name == "batch":
        yield Recipe((NODES,), "int64", fill="zeros")
    elif width is not None:
        yield Recipe((NODES, width), facts.dtype)


def _by_layer(layer: Layer, facts: Facts, s: Setting) -> list[Recipe]:
    module, low, high = layer.module, None, None
    dtype = facts.dtype
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        dtype, low, high = "int64", 0, module.num_embeddings - 1
    return [Recipe(shape, dtype, low, high) for shape in _shapes(layer, s)]


def _shapes(layer: Layer, s: Setting) -> list[tuple[int, ...]]:
    m, b, t = layer.module, s.batch, s.length
    if isinstance(m, _ConvNd):
        rank = len(m.kernel_size)
        return _spatial(b, m.in_channels, rank, s, isinstance(m, _ConvTransposeNd))
    if isinstance(m, nn.Embedding | nn.EmbeddingBag):
        return [(b, t), (b,)]
    width = linear_width(m)
    if width is not None:
        return _of_width(width, b, t)
    if isinstance(m, nn.Bilinear):
        return [(b, m.in2_features if layer.operand == "input2" else m.in1_features)]
    if isinstance(m, nn.RNNBase):
        if layer.operand == "hx":
            return [(m.num_layers * (1 + m.bidirectional), b, m.hidden_size)]
        rows, columns = (b, t) if m.batch_first else (t, b)
        size = m.input_size
        return [(rows, columns, size), (columns, rows, size), (b, t), (t, size)]
    if isinstance(m, nn.RNNCellBase):
        return [(b, m.hidden_size if layer.operand == "hx" else m.input_size)]
    if isinstance(m, nn.MultiheadAttention):
        rows, columns = (b, t) if m.batch_first else (t, b)
        return [(rows, columns, m.embed_dim), (columns, rows, m.embed_dim)]
    if isinstance(m, nn.BatchNorm1d):
        return [(b, m.num_features), (b, m.num_features, t)]
    if isinstance(m, _BatchNorm | _InstanceNorm):
        rank = 3 if "3d" in type(m).__name__ else 1 if "1d" in type(m).__name__ else 2
        return _spatial(b, m.num_features, rank, s, False)
    if isinstance(m, nn.GroupNorm):
        return [*_spatial(b, m.num_channels, 2, s, False), (b, m.num_channels, t)]
    if isinstance(m, nn.LayerNorm | nn.RMSNorm):
        shape = tuple(m.normalized_shape)
        return [(b, t, *shape), (b, *shape)] if len(shape) == 1 else [(b, *shape)]
    return []


def _spatial(
    batch: int, channels: int, rank: int, s: Setting, transposed: bool
) -> list[tuple[int, ...]]:
    if rank == 1:
        lengths = [16000, s.length] if channels == 1 else [s.length]
        # Conv1d often follows a transpose: the model itself takes (batch, time, channels).
        shapes: list[tuple[int, ...]] = [(batch, channels, n) for n in lengths]
        return [*shapes, (batch, s.length, channels)]
    if transposed:  # a generator: from one point, or from a small map; after a view, flat
        small = (1, 4, 8, max(s.image) // 8)
        return [(batch, channels, *[n] * rank) for n in small] + [(batch, channels)]
    if rank == 2:
        gray = [(batch, *s.image)] if channels == 1 else []
        return [(batch, channels, *s.image), (batch, *s.image, channels), *gray]
    sizes = (16, 112, 112), (32, 32, 32), (64, 64, 64), (16, 16, 16)
    return [(batch, channels, *size) for size in sizes]


def _of_width(width: int, batch: int, length: int) -> list[tuple[int, ...]]:
    """(batch, width), a sequence of such rows, or the image that flattens to this width."""
    shapes: list[tuple[int, ...]] = [(batch, width), (batch, length, width)]
    for channels in (1, 3):
        side = math.isqrt(width // channels)
        if side > 3 and channels * side * side == width:
            shapes += [(batch, channels, side, side), (batch, side, side)]
    return [*shapes, (width,)]


def _table_size(layer: Layer | None) -> int | None:
    if layer is not None and isinstance(layer.module, nn.Embedding | nn.EmbeddingBag):
        return layer.module.num_embeddings
    return None


def _channels(layer: Layer | None) -> int | None:
    if layer is not None and isinstance(layer.module, _ConvNd):
        return layer.module.in_channels
    return None


def _named_sizes(model: nn.Module, config: Any) -> Iterator[tuple[int, int]]:
    """Image sizes in `image_size` and the like, or in timm's pretrained_cfg["input_size"]."""
    for name in ("image_size", "img_size", "input_size", "sample_size"):
        yield from _size_pair(vars(model).get(name))  # getattr could wake deprecated aliases
        for owner in (config, getattr(config, "vision_config", None)):
            yield from _size_pair(getattr(owner, name, None))
    for name in ("pretrained_cfg", "default_cfg"):
        settings = getattr(model, name, None)
        size = settings.get("input_size") if isinstance(settings, dict) else None
        yield from _size_pair(size)
    for part in model.children():
        yield from _size_pair(getattr(part, "img_size", None))


def _size_pair(value: object) -> Iterator[tuple[int, int]]:
    if isinstance(value, int) and not isinstance(value, bool) and 4 <= value <= 2048:
        yield (value, value)
    elif isinstance(value, Sequence) and len(value) in (2, 3):
        height, width = value[-2:]
        if isinstance(height, int) and isinstance(width, int):
            yield (height, width)
