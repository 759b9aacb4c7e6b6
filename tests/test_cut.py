"""The cut is the optimum: equal to trying every choice, and fast on graphs of real size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampconvert.cut import FULL, LOW, Network, Wire, minimise

# Six decades within one network, as times and priced errors have them; infinite where an error is.
COSTS = st.one_of(st.just(0.0), st.integers(1, 50).map(float), st.just(1e4), st.floats(1e-7, 1e-5))


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
    assert network.price(found) == pytest.approx(best, rel=1e-12)  # a sum in another order


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


def test_a_tie_of_both_pins_stays_float32() -> None:
    network = Network({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, {"a": LOW, "b": FULL})
    network.ties = [("a", "b")]
    assert minimise(network) == {"a": False, "b": False}


def test_an_infinite_cost_is_never_chosen() -> None:
    """An error that overflows has no finite price, whatever the casts around it cost."""
    names = ["a", "b", "c"]
    network = Network(dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0))
    network.low["b"] = float("inf")
    network.wires = [Wire("a", ("b",), 9.0, 9.0), Wire("b", ("c",), 9.0, 9.0)]
    assert minimise(network) == dict.fromkeys(names, False)


def test_a_small_gain_counts_beside_a_large_sum() -> None:
    """2,000 nodes that gain 1e-6 each, among values whose casts cost 1e6 together."""
    names = [f"n{i}" for i in range(4000)]
    gain = dict.fromkeys(names, 1e-6) | dict.fromkeys(names[::2], 0.0)
    network = Network(dict.fromkeys(names, 0.0) | dict.fromkeys(names[::2], 1e-6), gain)
    network.wires = [Wire(name, (), 500.0, 500.0) for name in names]
    wide = Wire(names[0], (names[2], names[4]), 250.0, 250.0)
    network.wires += [wide, Wire(names[1], (names[3],), 250.0, 250.0)]
    assert minimise(network) == {name: i % 2 == 1 for i, name in enumerate(names)}


def test_a_wave_of_small_gains_is_cut_where_it_turns() -> None:
    """Each gain is a ten-thousandth of a cast; only their sums are worth one."""
    names = [f"n{i}" for i in range(2000)]
    gain = {name: 1e-3 if i < 1000 else -1e-3 for i, name in enumerate(names)}
    network = Network(
        {n: max(0.0, -g) for n, g in gain.items()}, {n: max(0.0, g) for n, g in gain.items()}
    )
    network.wires = [Wire(a, (b,), 0.9, 0.9) for a, b in itertools.pairwise(names)]
    assert minimise(network) == {name: i < 1000 for i, name in enumerate(names)}
    network.wires = [Wire(a, (b,), 1.1, 1.1) for a, b in itertools.pairwise(names)]
    assert len(set(minimise(network).values())) == 1


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
