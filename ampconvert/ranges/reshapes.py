"""Reshape: which old axes became which new ones, and what stays true of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ampconvert.graph import Dim
from ampconvert.ranges.domain import (
    MOST_ELEMENTS,
    Abstract,
    Array,
    Dims,
    Image,
    Norm,
    build,
    same_dim,
    size_of,
)
from ampconvert.ranges.rounding import frobenius, spectral, sqrt_up


@dataclass(frozen=True)
class Group:
    """Old axes [a, b) whose elements, in row-major order, are those of the new axes [c, d)."""

    old: tuple[int, int]
    new: tuple[int, int]


def reshape(x: Abstract, dims: Dims) -> Abstract:
    """`x` in the shape `dims`, with what stays true: exact for merged, split and kept axes."""
    groups = None if x.dims is None or dims is None else group_axes(x.dims, dims)
    if groups is None:
        return build(dims, *x.worst, hidden=x.hidden, whole=x.whole)
    assert x.dims is not None and dims is not None
    shape = tuple(d if isinstance(d, int) else -1 for d in dims)
    data = x.data
    exact = data is not None and shape.count(-1) <= 1
    heads = _heads(x, dims, groups)
    return build(
        dims,
        _reshaped(x.lo, x.dims, dims, groups, np.min),
        _reshaped(x.hi, x.dims, dims, groups, np.max),
        ball=heads or _norm(x.ball, x.dims, dims, groups, 2),
        mass=_norm(x.mass, x.dims, dims, groups, 1),
        image=x.image if _keeps_last(x.dims, dims, groups) else None,
        data=(lambda: data().reshape(shape)) if exact and data is not None else None,
        hidden=x.hidden,
        whole=x.whole,
    )


def group_axes(old: tuple[Dim, ...], new: tuple[Dim, ...]) -> list[Group] | None:
    """The finest grouping that holds whatever the dynamic sizes are; None where sizes disagree."""
    front = _matching(old, new)
    back = _matching(old[front:][::-1], new[front:][::-1])
    middle_old, middle_new = old[front : len(old) - back], new[front : len(new) - back]
    groups = [Group((i, i + 1), (i, i + 1)) for i in range(front)]
    inner = _static_groups(middle_old, middle_new)
    if inner is None:
        static = all(isinstance(d, int) for d in (*middle_old, *middle_new))
        if static:
            return None
        inner = [Group((0, len(middle_old)), (0, len(middle_new)))]
    groups += [Group((g.old[0] + front, g.old[1] + front), (g.new[0] + front, g.new[1] + front))
               for g in inner]  # fmt: skip
    groups += [
        Group((len(old) - i, len(old) - i + 1), (len(new) - i, len(new) - i + 1))
        for i in range(back, 0, -1)
    ]
    return groups


def _matching(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> int:
    """How many leading dimensions are equal."""
    length = 0
    while length < min(len(a), len(b)) and same_dim(a[length], b[length]):
        length += 1
    return length


def _static_groups(old: tuple[Dim, ...], new: tuple[Dim, ...]) -> list[Group] | None:
    """Groups of equal products; None where a size is dynamic or the products never meet."""
    if not all(isinstance(d, int) for d in (*old, *new)) or 0 in (*old, *new):
        return None
    groups: list[Group] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        a = b = 1
        if i < len(old):
            a, i = size_of(old[i]), i + 1
        if j < len(new):
            b, j = size_of(new[j]), j + 1
        while a != b:
            if a < b and i < len(old):
                a, i = a * size_of(old[i]), i + 1
            elif b < a and j < len(new):
                b, j = b * size_of(new[j]), j + 1
            else:
                return None
        groups.append(Group((first_i, i), (first_j, j)))
    return groups


def _reshaped(
    array: Array, old: tuple[Dim, ...], new: tuple[Dim, ...], groups: list[Group], reduce: Any
) -> Array:
    """Bounds in the new shape; a group that is not alike throughout is spread out first."""
    spread, shape = list(array.shape), []
    collapsed: list[int] = []
    for group in groups:
        axes = range(*group.old)
        fresh = new[slice(*group.new)]
        exact = all(isinstance(old[a], int) for a in axes) and all(
            isinstance(d, int) for d in fresh
        )
        size = math.prod(size_of(old[a]) for a in axes) if exact else 0
        alike = all(array.shape[a] == 1 for a in axes)
        if alike or not exact or size > MOST_ELEMENTS:
            collapsed += [a for a in axes if array.shape[a] > 1]
            for a in axes:
                spread[a] = 1
            shape += [1] * len(fresh)
        else:
            for a in axes:
                spread[a] = size_of(old[a])
            shape += [size_of(d) for d in fresh]
    if collapsed:
        array = reduce(array, axis=tuple(collapsed), keepdims=True)
    if math.prod(spread) > MOST_ELEMENTS:
        return np.asarray(reduce(array))
    return np.broadcast_to(array, spread).reshape(shape)


def _norm(
    norm: Norm | None, old: tuple[Dim, ...], new: tuple[Dim, ...], groups: list[Group], power: int
) -> Norm | None:
    """The norm of the vectors that lie along the axis afterwards; None where they are others."""
    if norm is None:
        return None
    axis = norm.axis % len(old)
    found = next((g for g in groups if g.old[0] <= axis < g.old[1]), None)
    if found is None:
        return None
    olds = [a for a in range(*found.old) if old[a] != 1]
    news = [a for a in range(*found.new) if new[a] != 1]
    if old[axis] == 1 or not news or axis != olds[-1]:
        return None
    places = len(new)
    if len(olds) == 1:  # the axis was split or kept: a part of a vector has at most its norm
        before = (*old[:axis], 1, *old[axis + 1 :])
        after = tuple(1 if found.new[0] <= i < found.new[1] else d for i, d in enumerate(new))

        def kept() -> Array:
            radius = norm.radius
            full = radius.reshape((1,) * (len(old) - radius.ndim) + radius.shape)
            return _reshaped(full, before, after, groups, np.max)

        return Norm(news[-1] - places, kept)
    if len(news) > 1:
        return None
    copies = math.prod(size_of(old[a]) for a in olds[:-1])

    def merged() -> Array:
        """Several vectors become one: their norms add up, squared for L2."""
        radius = norm.radius
        full = radius.reshape((1,) * (len(old) - radius.ndim) + radius.shape)
        apart = olds[:-1] if all(isinstance(old[a], int) for a in olds) else []
        if power == 2 and apart and any(full.shape[a] > 1 for a in apart):
            wide = np.broadcast_to(
                full, [size_of(old[a]) if a in apart else s for a, s in enumerate(full.shape)]
            )
            return np.asarray(sqrt_up(np.square(wide).sum(axis=tuple(apart))).max())
        return np.asarray(radius.max() * copies ** (1 / power) * (1 + 1e-12))

    return Norm(news[-1] - places, merged)


def _heads(x: Abstract, dims: tuple[Dim, ...], groups: list[Group]) -> Norm | None:
    """A norm per head where an image's axis is split into heads: each has its own rows of G."""
    image = x.image
    if image is None or x.dims is None or not groups or not isinstance(x.dims[-1], int):
        return None
    last = groups[-1]
    if last.old != (len(x.dims) - 1, len(x.dims)) or last.new[1] - last.new[0] != 2:
        return None
    heads, size = dims[last.new[0]], dims[last.new[0] + 1]
    if not isinstance(heads, int) or not isinstance(size, int) or last.new[1] != len(dims):
        return None
    return Norm(-1, lambda: head_norms(image, heads, size))


def head_norms(image: Image, heads: int, size: int) -> Array:
    """The L2 norm of each of `heads` parts of an image, as an array [heads, 1]."""
    rows = image.rows().reshape(heads, size, -1)
    centers = np.sqrt(np.square(image.center.reshape(heads, size)).sum(axis=1))
    spread = np.array([min(spectral(part), frobenius(part)) for part in rows])
    found = centers * (1 + 1e-12) + image.radius * spread + image.fuzz
    return np.asarray(found.reshape(heads, 1))


def _keeps_last(old: tuple[Dim, ...], new: tuple[Dim, ...], groups: list[Group]) -> bool:
    """Whether the vectors along the last axis stay what they were."""
    if not old or not new or not groups:
        return False
    last = groups[-1]
    return last.old == (len(old) - 1, len(old)) and last.new == (len(new) - 1, len(new))
