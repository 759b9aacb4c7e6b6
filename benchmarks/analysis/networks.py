"""Networks for the minimum cut: small random ones, and large ones of several shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ampconvert.cut import FULL, LOW, Network, Wire

LAUNCH, BANDWIDTH = 2e-6, 3.35e12  # of a GPU: seconds, bytes per second


def small(rng: np.random.Generator) -> Network:
    """2 to 12 nodes that read earlier ones or the outside: random costs over six decades, pins,
    ties, values also read in float32.
    """
    names = [f"n{i}" for i in range(rng.integers(2, 13))]
    network = Network()
    for name in names:
        network.low[name], network.full[name] = _cost(rng), _cost(rng)
        if rng.random() < 0.3:
            network.fixed[name] = LOW if rng.random() < 0.5 else FULL
    for i, producer in enumerate([None, None, *names]):
        later = names[max(0, i - 1) :]
        count = int(rng.integers(0, min(4, len(later)) + 1))
        readers = tuple(str(n) for n in rng.choice(later, count, replace=False)) if later else ()
        network.wires.append(
            Wire(producer, readers, _cost(rng), _cost(rng), bool(rng.random() < 0.3))
        )
    free = [name for name in names if name not in network.fixed]
    if len(free) > 1 and rng.random() < 0.3:
        network.ties.append(tuple(str(n) for n in rng.choice(free, 2, replace=False)))
    return network


def cheapest(network: Network) -> float:
    """The least price, by trying every choice."""
    names = list(network.low)
    return min(
        network.price(dict(zip(names, bits, strict=True)))
        for bits in itertools.product([True, False], repeat=len(names))
    )


def transformer(count: int, rng: np.random.Generator) -> Network:
    """Chains of 12 nodes with a residual around each half, and one mask that every block reads:
    elements of 4 M, products pinned low, norms pinned float32 or free with an error's price.
    """
    network, names = Network(), [f"n{i}" for i in range(count)]
    for i, name in enumerate(names):
        _time(network, name, rng, elements=4e6)
        if i % 12 in (1, 4, 7, 9):
            network.fixed[name] = LOW
        elif i % 12 in (0, 6):
            network.low[name] += float(10 ** rng.uniform(-9, -3))
        elif i % 12 == 3:
            network.fixed[name] = FULL
    for i, name in enumerate(names):
        ahead = [i + 1, i + 6] if i % 6 == 5 else [i + 1]
        _wire(network, name, [names[j] for j in ahead if j < count], 4e6)
    _wire(network, None, names[2::12], 1e6)
    return network


def thin(count: int, rng: np.random.Generator, gain: float = 2e-8) -> Network:
    """The same chains with small tensors: a cast costs 100 times the `gain` of a node (seconds).
    Nothing is pinned, and errors are priced in waves over 2,000 nodes: cuts are far from gains.
    """
    network, names = Network(), [f"n{i}" for i in range(count)]
    for i, name in enumerate(names):
        saved = gain * float(np.sin(2 * np.pi * i / 2000) + rng.normal())
        network.low[name], network.full[name] = 1e-6 - saved, 1e-6
        ahead = [i + 1, i + 6] if i % 6 == 5 else [i + 1]
        _wire(network, name, [names[j] for j in ahead if j < count], 1e3)
    return network


def thinner(count: int, rng: np.random.Generator) -> Network:
    """The same where a cast costs 1,000 times the gain: the flow has to cover whole waves."""
    return thin(count, rng, gain=2e-9)


def fan_out(count: int, rng: np.random.Generator) -> Network:
    """20 values with thousands of readers each, of which every second has an error's price; all
    that is read is added up at the end.
    """
    network, names = Network(), [f"n{i}" for i in range(count)]
    for i, name in enumerate(names):
        _time(network, name, rng, elements=1e7)
        if i % 2:
            network.low[name] += float(10 ** rng.uniform(-6, -3))
    for i, name in enumerate(names[:20]):
        _wire(network, name, names[20 + i : -1 : 20], 1e7)
    for name in names[20:-1]:
        _wire(network, name, [names[-1]], 1e6)
    return network


def random_dag(count: int, rng: np.random.Generator) -> Network:
    """Every value is read by one to three later nodes, wherever they are; a fifth is pinned."""
    network, names = Network(), [f"n{i}" for i in range(count)]
    for name in names:
        _time(network, name, rng, elements=float(10 ** rng.uniform(3, 8)))
        if rng.random() < 0.2:
            network.fixed[name] = LOW if rng.random() < 0.5 else FULL
    for i, name in enumerate(names[:-1]):
        ahead = {int(j) for j in rng.integers(i + 1, count, rng.integers(1, 4))}
        _wire(network, name, [names[j] for j in sorted(ahead)], float(10 ** rng.uniform(3, 8)))
    return network


def shapes() -> Iterator[tuple[str, Callable[[int, np.random.Generator], Network]]]:
    """The large networks by name."""
    yield "transformer", transformer
    yield "thin transformer", thin
    yield "thinner transformer", thinner
    yield "fan-out", fan_out
    yield "random", random_dag


def _cost(rng: np.random.Generator) -> float:
    kind = rng.random()
    if kind < 0.2:
        return 0.0
    return float(rng.integers(1, 20)) if kind < 0.7 else float(10 ** rng.uniform(-6, 0))


def _time(network: Network, name: str, rng: np.random.Generator, elements: float) -> None:
    full = 8 * elements / BANDWIDTH * float(rng.uniform(0.5, 2.0))
    network.low[name], network.full[name] = full / 2, full


def _wire(network: Network, producer: str | None, readers: list[str], elements: float) -> None:
    seconds = 6 * elements / BANDWIDTH + LAUNCH
    network.wires.append(Wire(producer, tuple(readers), seconds, seconds, not readers))
