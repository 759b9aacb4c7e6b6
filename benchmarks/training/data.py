"""Data of the training benchmark: scikit-learn's digits, Python's own texts, and generated sets."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Data:
    """Examples to train on and others to judge by. Targets are class numbers."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches of `size` rows in an order that `seed` alone decides."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.train_x), generator=generator)
            for rows in order.split(size):
                if len(rows) == size:  # a smaller last batch would be another shape to compile
                    yield self.train_x[rows], self.train_y[rows]


def rings(count: int = 2000) -> Data:
    """Points in three dimensions, the class being the shell that they lie in; noisy borders."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator)
    radius = x.norm(dim=1) + 0.1 * torch.randn(count, generator=generator)
    return _split(x, (radius > 1.2).long() + (radius > 1.8).long(), count // 4)


@cache
def digits(shape: tuple[int, ...] = (64,)) -> Data:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, scaled to 0..1, each as `shape`."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(found.data, dtype=torch.float32)[order] / 16
    return _split(x.reshape(-1, *shape), torch.tensor(found.target)[order], 400)


@cache
def text(context: int = 24, held_out: int = 64) -> tuple[Data, int]:
    """Windows of text and the same one character later; with them the number of characters.

    The text ships with Python: the Zen, and what the docstrings of some modules say.
    """
    letters = _letters()
    known = sorted(set(letters))
    ids = torch.tensor([known.index(c) for c in letters])
    x = ids[:-1].unfold(0, context, context).contiguous()
    y = ids[1:].unfold(0, context, context).contiguous()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return _split(x[order], y[order], held_out), len(known)


def _letters() -> str:
    import argparse
    import datetime
    import decimal
    import json
    import pickle
    import random
    import statistics
    import threading

    with contextlib.redirect_stdout(io.StringIO()) as zen:
        import this
    described = [
        getattr(module, name).__doc__ or ""
        for module in (argparse, datetime, decimal, json, pickle, random, statistics, threading)
        for name in sorted(dir(module))
        if callable(getattr(module, name))
    ]
    plain = (zen.getvalue() or this.s) + "\n".join(dict.fromkeys(described))
    lines = (" ".join(line.split()) for line in plain.lower().splitlines())
    return "".join(c for c in "\n".join(filter(None, lines)) if c.isascii())[:60_000]


def shapes(count: int = 400, side: int = 16) -> Data:
    """Noisy images with a disc and a square; the class of a pixel is ground, disc or square."""
    generator = torch.Generator().manual_seed(0)
    middle = 4 + (side - 8) * torch.rand(2, count, 2, 1, 1, generator=generator)
    size = 2 + 2 * torch.rand(2, count, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    away = torch.stack([rows, columns]) - middle  # [shape, image, axis, row, column]
    disc = away[0].square().sum(1).sqrt() < size[0]
    square = away[1].abs().amax(1) < size[1]
    label = torch.where(square, 2, disc.long())
    x = 0.5 * label + 0.3 * torch.randn(count, side, side, generator=generator)
    return _split(x[:, None], label, count // 4)


def interactions(users: int = 200, items: int = 100, count: int = 16_000) -> Data:
    """Pairs of a user and an item: liked where their hidden tastes agree, and some by chance."""
    generator = torch.Generator().manual_seed(0)
    tastes = torch.randn(users, 3, generator=generator), torch.randn(items, 3, generator=generator)
    pair = torch.stack([torch.randint(n, (count,), generator=generator) for n in (users, items)], 1)
    agreement = (tastes[0][pair[:, 0]] * tastes[1][pair[:, 1]]).sum(1)
    noise = 0.3 * torch.randn(count, generator=generator)
    return _split(pair, (agreement + noise > 0).long(), count // 4)


def _split(x: Tensor, y: Tensor, held_out: int) -> Data:
    return Data(x[held_out:], y[held_out:], x[:held_out], y[:held_out])
