"""The cut is the optimum: equal to trying every choice, and fast on graphs of real size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampconvert.cut import FULL, LOW, Network, Wire, minimise

COSTS = st.one_of(st.just(0.0), st.integers(1, 50).map(float), st.just(1e4))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Up to nine nodes that read earlier ones or the outside; some pinned, some values also read
    in full.
    """
    count = draw(st.integers(1, 9))
    names = [f"n{i}" for i in range(count)]
    network = Network()
    for name in names:
        network.low[name], network.full[name] = draw(COSTS), draw(COSTS)
        if side := draw(st.sampled_from(["", "", "", LOW, FULL])):
            network.fixed[name] = side
    for i, producer in enumerate([None, None, *names]):
        later = names[max(0, i - 1) :]
        readers = draw(st.lists(st.sampled_from(later), unique=True, max_size=4)) if later else []
        wire = Wire(producer, tuple(readers), draw(COSTS), draw(COSTS), draw(st.booleans()))
        network.wires.append(wire)
    free = [name for name in names if name not in network.fixed]
    if free:
        groups = st.lists(st.lists(st.sampled_from(free), unique=True), max_size=2)
        network.ties += [tuple(tie) for tie in draw(groups)]
    return network


def choices(network: Network) -> Iterator[dict[str, bool]]:
    for bits in itertools.product([True, False], repeat=len(network.low)):
        yield dict(zip(network.low, bits, strict=True))


@settings(max_examples=150, deadline=None)
@given(networks())
def test_no_choice_is_cheaper(network: Network) -> None:
    found = minimise(network)
    best = min(network.price(choice) for choice in choices(network))
    # Costs are rounded to 2**29 steps of their sum, so equal means equal to that.
    total = sum(network.low.values()) + sum(network.full.values())
    total += sum(wire.up + wire.down for wire in network.wires)
    assert network.price(found) == pytest.approx(best, abs=1e-6 * max(total, 1.0))


@settings(max_examples=50, deadline=None)
@given(networks())
def test_ties_go_to_low(network: Network) -> None:
    """Among the cheapest choices it takes the one with the most nodes in `low`."""
    found = minimise(network)
    best = min(network.price(choice) for choice in choices(network))
    most = max(sum(c.values()) for c in choices(network) if network.price(c) <= best)
    assert network.price(found) > best or sum(found.values()) == most


def test_price_of_a_broken_pin_is_infinite() -> None:
    network = Network({"a": 0.0}, {"a": 0.0}, {"a": FULL})
    assert network.price({"a": True}) == float("inf")
    assert minimise(network) == {"a": False}


def test_a_cast_is_paid_once_however_many_read_it() -> None:
    """Three readers gain 2 each in `low`; one shared cast of 5 is worth it, three would not be."""
    names = ["a", "b", "c"]
    network = Network(dict.fromkeys(names, 0.0), dict.fromkeys(names, 2.0))
    network.wires.append(Wire(None, tuple(names), down=5.0, up=5.0))
    assert minimise(network) == dict.fromkeys(names, True)
    network.wires[0] = Wire(None, tuple(names), down=7.0, up=7.0)
    assert minimise(network) == dict.fromkeys(names, False)


def test_a_full_reader_costs_one_cast_back() -> None:
    network = Network({"a": 0.0}, {"a": 3.0}, wires=[Wire("a", (), 4.0, 4.0, full_reader=True)])
    assert minimise(network) == {"a": False}
    network.wires[0] = Wire("a", (), 2.0, 2.0, full_reader=True)
    assert minimise(network) == {"a": True}


def test_a_broken_tie_is_infinite() -> None:
    """One of the two would rather stay float32; tied, the larger gain decides for both."""
    network = Network({"a": 0.0, "b": 4.0}, {"a": 5.0, "b": 0.0}, ties=[("a", "b")])
    assert network.price({"a": True, "b": False}) == float("inf")
    assert minimise(network) == {"a": True, "b": True}


def test_nothing_to_choose() -> None:
    assert minimise(Network()) == {}
    free = Network({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, wires=[Wire("a", ("b",), 0.0, 0.0)])
    assert minimise(free) == {"a": True, "b": True}


def test_a_long_chain_is_solved() -> None:
    """As long as a large model; every seventh node pinned to float32."""
    names = [f"n{i}" for i in range(4000)]
    network = Network(dict.fromkeys(names, 1e-06), dict.fromkeys(names, 3e-06))
    network.fixed = dict.fromkeys(names[::7], FULL) | dict.fromkeys(names[3::7], LOW)
    network.wires = [
        Wire(a, (b,), 1.5e-6, 1.5e-6) for a, b in itertools.pairwise(names)
    ]  # neighbours of a pin pay 1.5 for a cast and gain 2: all that are free run in low
    found = minimise(network)
    assert [n for n in names if not found[n]] == names[::7]
