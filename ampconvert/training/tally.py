"""Exponents of a gradient, counted on its device without waiting for it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ampconvert.ranges.loss_scale import ExponentHistogram

_BINS = 256  # values of float32's exponent field
_CHUNK = 2**24  # elements counted at once: what it needs besides the gradient stays bounded
_LANES = 1024  # tables that are counted into side by side, since all elements hit a few bins

# What follows the bins.
NONZERO, FLUSHED, OVERFLOWED, LARGEST, SCALE = range(_BINS, _BINS + 5)

Row = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def tally(gradient: Tensor, factor: Tensor | float, low: torch.dtype | None = None) -> Tensor:
    """The figures of a gradient, int64 [261] on its device: how many elements have which exponent
    field in float32, and what follows the bins. `factor` is the loss scale.

    `low`: the gradient is a true one in float32, about to be scaled and rounded to this type, and
    what that flushes or makes infinite is counted. Otherwise it is scaled already.
    """
    full = gradient.detach().to(torch.float32).reshape(-1)
    size = full.numel()
    scale = torch.as_tensor(factor, dtype=torch.float32, device=full.device).reshape(-1)[:1]
    finite = full.isfinite()
    nonzero = full.count_nonzero()
    largest = torch.where(finite, full.abs(), 0.0).amax().reshape(1) if size else scale.new_zeros(1)
    scaled = (full * scale).to(low) if low is not None else None
    flushed = nonzero - scaled.count_nonzero() if scaled is not None else nonzero.new_zeros(())
    overflowed = size - (finite if scaled is None else scaled.isfinite()).count_nonzero()
    counts = torch.stack([nonzero, flushed, overflowed])
    return torch.cat([fields(full), counts, bits(torch.cat([largest, scale]))])


def bits(x: Tensor) -> Tensor:
    """float32 numbers as integers, to lie with others in one tensor."""
    return x.view(torch.int32).to(torch.int64)


def number(bits: int) -> float:
    """What `bits` was given."""
    return float(np.int64(bits).astype(np.int32).view(np.float32))


def fields(full: Tensor) -> Tensor:
    """How many elements of a flat float32 tensor have which exponent field, int64 [256]."""
    field = (full.view(torch.int32) >> 23).to(torch.uint8)  # the sign is the bit that falls off
    if full.device.type == "cpu":
        return torch.bincount(field, minlength=_BINS)
    return spread(field, _LANES)


def spread(field: Tensor, lanes: int) -> Tensor:
    """The same as torch.bincount, which would wait for a GPU to find the largest value."""
    table = torch.zeros(_BINS * lanes, dtype=torch.int64, device=field.device)
    one = table.new_ones(())
    for part in torch.split(field, _CHUNK):
        lane = torch.arange(part.numel(), dtype=torch.int32, device=field.device) % lanes
        table.index_add_(0, lane * _BINS + part, one.expand(part.numel()))
    return table.view(lanes, _BINS).sum(0)


def histogram(row: Row, *, scaled: bool) -> ExponentHistogram:
    """That of the true gradient, from `tally`'s figures on the host; `scaled` if they were counted
    after scaling. float32's own subnormal numbers count as just below the normal ones.
    """
    scale = number(row[SCALE]) if scaled else 1.0
    shift = round(math.log2(scale))
    counts = {e - 126 - shift: int(row[e]) for e in range(1, 255) if row[e]}
    size = int(row[:_BINS].sum())
    zeros = size - int(row[NONZERO])
    if tiny := int(row[0]) - zeros:
        counts[-126 - shift] = tiny
    return ExponentHistogram(counts, zeros, int(row[255]), number(row[LARGEST]) / scale)
