"""The training benchmark's own parts: what it counts, rounds and judges, physics, tables."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.training import __main__ as program
from benchmarks.training import cartpole, data, measures, micikevicius, speed, tables, tasks
from benchmarks.training.measures import Counter, Probe, Share, saved_bytes
from benchmarks.training.report import write
from benchmarks.training.results import Results, chance_outside, errors, within
from benchmarks.training.ways import Loop, Way, start


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_flushed_are_the_gradients_that_only_float32_has() -> None:
    share = Share()
    exact = [torch.tensor([1.0, 1e-9, 0.0, 1e-9])]
    measures.count_flushed(share, exact, [exact[0].half().float()])
    assert (share.part, share.whole) == (2, 3)
    assert Share().value is None


@given(
    st.floats(1.0, 2.0, width=32, exclude_max=True),
    st.floats(2.0**-30, 2.0**-20, width=32),
)
def test_an_update_below_half_a_unit_in_the_last_place_is_lost(
    weight: float, update: float
) -> None:
    before = torch.tensor([weight])
    share = Share()
    after = before + torch.tensor([update])
    measures.count_lost(share, [before], [after], [torch.ones(1)])
    half = 2.0**-24  # of the distance of float32 numbers between 1 and 2
    if update != half:
        assert share.part == (update < half)


def test_weights_without_a_gradient_lose_nothing() -> None:
    share, same = Share(), torch.ones(4)
    gradient = torch.tensor([0.0, 1.0, math.inf, math.nan])
    measures.count_lost(share, [same], [same], [gradient])
    assert (share.part, share.whole) == (1, 1)


def test_the_probe_sees_what_float16_flushes_and_leaves_the_run_alone() -> None:
    torch.manual_seed(0)
    reference, module = nn.Linear(4, 2), nn.Linear(4, 2)
    module.load_state_dict(reference.state_dict())
    x = torch.randn(8, 4)

    def loss_of(model: Any, batch: torch.Tensor) -> torch.Tensor:
        return 1e-6 * model(batch).square().mean()

    loss_of(module, x).backward()
    for p in module.parameters():
        assert p.grad is not None
        p.grad = p.grad.half().float()  # 1e-6 and less: mostly subnormal, some of it zero
    kept = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    probe = Probe(nn.Linear(4, 2))
    with probe.watch(module, loss_of, x):
        torch.optim.SGD(module.parameters(), lr=1.0).step()
    assert probe.flushed.whole == 10
    assert probe.flushed.part == sum(int((g == 0).sum()) for g in kept)
    assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), kept, strict=True))


def test_a_step_with_an_overflow_is_not_compared() -> None:
    module = nn.Linear(2, 1)
    for p in module.parameters():
        p.grad = torch.full_like(p, math.inf)
    probe = Probe(nn.Linear(2, 1))
    with probe.watch(module, lambda model, x: model(x).sum(), torch.ones(1, 2)):
        pass
    assert probe.overflowed == 1
    assert probe.flushed.whole == 0


def test_casts_and_low_products_of_a_step_are_counted() -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    with Counter() as counter, torch.autocast("cpu", dtype=torch.bfloat16):
        model(x).float().sum().backward()
    # Forward: input, weight, bias, result. Backward: the result's gradient, weight's, bias's.
    assert counter.casts == 7
    assert (counter.low, counter.products) == (2, 2)  # the input needs no gradient
    with Counter() as counter:
        model(x).sum().backward()
        x.to(torch.float32).long()
    assert (counter.casts, counter.low, counter.products) == (0, 0, 2)


def test_casts_of_lists_and_into_given_tensors_are_counted() -> None:
    full, low = torch.ones(3), torch.empty(3, dtype=torch.float16)
    with Counter() as counter:
        low.copy_(full)
        torch._foreach_copy_([low, low, full], [full, full, full])
        torch.mul(full, 2.0, out=low)
        full.copy_(full.clone())
    assert counter.casts == 4


def test_casts_are_counted_inside_a_compiled_model() -> None:
    model = torch.compile(nn.Linear(4, 3), backend="eager")
    x = torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)  # compiles
    with Counter() as counter, torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
    assert counter.casts == 3


def test_saved_bytes_count_each_storage_once_and_no_parameter() -> None:
    weight, x = nn.Parameter(torch.ones(8, 8)), torch.ones(4, 8)

    def run() -> torch.Tensor:
        y = x @ weight  # keeps x and the weight
        return (y.relu().view(-1) * y.view(-1)).sum()  # keeps relu's result, and y twice

    assert saved_bytes(run, [weight]) == 3 * 4 * 8 * 4


@given(st.floats(-1e4, 1e4, width=32), st.sampled_from(["float16", "bfloat16"]))
def test_stochastic_rounding_gives_a_neighbour(value: float, dtype: str) -> None:
    x = torch.full((64,), value)
    found = micikevicius.rounded_stochastically(x, dtype, torch.Generator().manual_seed(0))
    low = {"float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]
    assert torch.equal(found, found.to(low).float())
    assert (found.unique().numel()) <= 2
    info = torch.finfo(low)
    step = max(2.0 ** math.floor(math.log2(abs(value))) if value else 0.0, info.tiny) * info.eps
    assert float((found - x).abs().max()) < step
    if value == float(torch.tensor(value).to(low)):
        assert torch.equal(found, x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("value", [1.0001, -3.3333, 3e-6])
def test_stochastic_rounding_is_right_on_average(value: float, dtype: str) -> None:
    x = torch.full((200_000,), value)
    found = micikevicius.rounded_stochastically(x, dtype, torch.Generator().manual_seed(0)).double()
    spread = float(found.std()) / len(x) ** 0.5
    assert abs(float(found.mean()) - float(x[0])) <= 5 * spread + 1e-12


@pytest.mark.parametrize("stochastic", [False, True])
def test_weights_stay_low_and_small_updates_survive_only_by_chance(stochastic: bool) -> None:
    weight = nn.Parameter(torch.ones(4000))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    micikevicius.keep_low(optimizer, [weight], "bfloat16", stochastic)
    weight.grad = torch.full_like(weight, 2.0**-11)  # an eighth of the distance below one
    optimizer.step()
    assert torch.equal(weight, weight.bfloat16().float())
    moved = float((weight != 1).float().mean())
    assert moved == pytest.approx(0.125, abs=0.03) if stochastic else moved == 0


@pytest.mark.parametrize(
    ("values", "held"),
    [((0.90, 0.92, 0.94), True), ((0.905, 0.925, 0.945), True), ((0.95, 0.95, 0.95), False)],
)
def test_within_one_standard_deviation(values: tuple[float, ...], held: bool) -> None:
    assert within(values, (0.90, 0.92, 0.94), 0.0) is held


def test_within_has_the_floor_of_one_sample_and_no_word_for_nan() -> None:
    exact = (1.0, 1.0, 1.0)
    assert within((0.99, 1.0, 0.98), exact, 0.01)
    assert not within((0.98, 0.98, 0.98), exact, 0.01)
    assert not within((math.nan,), exact, 0.01)


def test_equal_ways_leave_a_standard_deviation_as_often_as_told() -> None:
    draws = torch.randn(100_000, 2, 3, generator=torch.Generator().manual_seed(0)).mean(-1)
    share = float(((draws[:, 0] - draws[:, 1]).abs() > 1).float().mean())
    assert chance_outside(3) == pytest.approx(share, abs=0.01)


def test_ratios_are_taken_within_rounds() -> None:
    # The machine was ten times slower in the second round; the ways are as they were.
    assert speed.paired((1.0, 10.0, 1.1), (2.0, 20.0, 2.2)) == pytest.approx(0.5)


def test_targets_name_the_worst() -> None:
    told = tables._judged([(0.9, "mlp eager batch 8", 8), (1.2, "cnn eager batch 128", 128)])
    assert "in 1 of 2; the worst is 1.20 (cnn eager batch 128)" in told[0]
    assert "faster in 1 of 1" in told[1]


def test_a_pushed_cart_moves_as_the_equations_have_it() -> None:
    after = cartpole.push(torch.zeros(1, 4), torch.ones(1))
    # At rest and upright: the total of 1.1 kg, and a pole of half length 0.5 m.
    twist = -(10 / 1.1) / (0.5 * (4 / 3 - 0.1 / 1.1))
    pull = 10 / 1.1 - 0.05 * twist / 1.1
    assert after[0].tolist() == pytest.approx([0.0, 0.02 * pull, 0.0, 0.02 * twist])
    left = cartpole.push(torch.zeros(1, 4), torch.zeros(1))
    assert torch.equal(left, -after)


def test_a_pole_falls_and_a_cart_leaves() -> None:
    state = torch.tensor([[0.0, 9, 0, 9], [2.5, 0, 0, 0], [0.0, 0, -0.22, 0]])
    assert cartpole.fallen(state).tolist() == [False, True, True]


def test_advantages_of_a_known_episode() -> None:
    ones, off = torch.ones(1), torch.zeros(1, dtype=torch.bool)
    values = [torch.tensor([v]) for v in (3.0, 2.0, 5.0)]
    ends = [(off, off), (off, ~off), (~off, off)]  # goes on, cut at the limit, falls
    seen = [(torch.zeros(1, 4), ones, v, *end) for v, end in zip(values, ends, strict=True)]
    found = cartpole._learned(seen, torch.tensor([7.0]))
    cut = 1 + 0.98 * 2 - 2  # what follows is worth the state's own value
    first = 1 + 0.98 * 2 - 3 + 0.98 * 0.95 * cut
    assert (found.returns - torch.cat(values)).tolist() == pytest.approx([first, cut, 1 - 5.0])


def test_the_policy_learns_to_balance() -> None:
    task = tasks.task("policy")
    loop = start(Way("float32"), task, 0)
    before = task.score(loop.call).accuracy
    segments = itertools.islice(task.batches(loop.call, 0), 60)
    for segment in segments:
        loop.step(task.loss, segment)
    assert task.score(loop.call).accuracy > max(0.4, 2 * before)


@pytest.mark.parametrize("name", [t.name for t in tasks.trained() if t.name != "policy"])
def test_every_way_is_given_the_same_start_and_data(name: str) -> None:
    task = tasks.task(name)
    loops = [start(Way("float32"), task, 1), start(Way("autocast", "bfloat16"), task, 1)]
    first, second = (loop.module.state_dict() for loop in loops)
    assert all(torch.equal(first[key], second[key]) for key in first)
    one, two = (next(task.batches(loop.call, 1)) for loop in loops)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(task.sample(3), task.sample(3), strict=True))


def test_batches_have_one_size_and_every_example() -> None:
    found = data.Data(torch.arange(10), torch.arange(10), torch.arange(1), torch.arange(1))
    sizes = [len(x) for x, _ in itertools.islice(found.batches(4, 0), 7)]
    assert sizes == [4] * 7
    whole = torch.cat([x for x, _ in itertools.islice(found.batches(5, 0), 2)])
    assert whole.sort().values.tolist() == list(range(10))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 5))
def test_torch_loop_skips_a_step_with_an_overflow(bad: int) -> None:
    loop = Loop(
        Way("autocast", "float16"),
        nn.Linear(2, 1),
        lambda p: torch.optim.SGD(p, lr=0.1),
        counting=True,
    )

    def loss_of(model: Any, batch: tuple[torch.Tensor, float]) -> torch.Tensor:
        return model(batch[0]).float().mean() * batch[1]

    for step in range(6):
        before = [p.detach().clone() for p in loop.parameters]
        loop.step(loss_of, (torch.ones(4, 2), math.inf if step == bad else 0.1))
        same = all(torch.equal(a, b) for a, b in zip(before, loop.parameters, strict=True))
        assert same == (step == bad)
    assert loop.skipped == 1
    assert loop.scale == 2.0**15


def test_a_static_scale_stays() -> None:
    loop = Loop(
        Way("autocast", "float16", scale=1024.0),
        nn.Linear(2, 1),
        lambda p: torch.optim.SGD(p, lr=0.1),
        counting=True,
    )
    for factor in (0.1, math.inf, 0.1):
        loop.step(lambda model, f: model(torch.ones(4, 2)).float().mean() * f, factor)
    assert (loop.scale, loop.skipped) == (1024.0, 1)


def test_errors_are_found_wherever_they_are() -> None:
    result = {"float16": {"error": "no kernel"}, "bfloat16": {"runs": [{"loss": 1.0}]}}
    assert list(errors(result)) == [(("float16",), "no kernel")]
    results = Results(
        {
            "accuracy | lstm | autocast": result,
            "accuracy | mlp | ours": result,
            "speed | mlp | eager | 8": {"error": "over the limit"},
        }
    )
    assert results.failures() == [
        "accuracy | mlp | ours float16: no kernel",
        "speed | mlp | eager | 8: over the limit",
    ]


def test_every_measurement_has_a_file_of_its_own() -> None:
    found = [m for part in program.PARTS for m in program.measurements(part, cuda=True)]
    assert len({m.file for m in found}) == len(found)
    assert {m.part for m in found} == set(program.PARTS)
    assert not any(m.ours for m in found if m.key.endswith(("float32", "autocast")))


def _run(accuracy: float, loss: float | None = 0.5) -> dict[str, Any]:
    counts = {"casts": 4, "products": 6, "low": 3}
    return {
        "accuracy": accuracy, "loss": loss, "flushed": 0.01, "lost": None, "skipped": 1,
        "counts": counts, "seconds": 2.0,
    }  # fmt: skip


def test_results_become_tables_and_files(tmp_path: Path) -> None:
    timed = {"ms": 1.5, "first_s": 2.0, "peak_mib": None, "to_float32": 1.1, "to_autocast": 0.8}
    curve = {
        "first": 2.0, "best": 0.1, "final": "nan", "nonfinite": 3, "skipped": 3, "scale": 0.0,
        "curve": [2.0, "nan"], "changes": ["step 3: moved"],
    }  # fmt: skip
    results = Results(
        {
            "accuracy | mlp | float32": {"float32": {"runs": [_run(0.9), _run(0.92), _run(0.94)]}},
            "accuracy | mlp | ours": {
                "float16": {"runs": [_run(0.92)] * 3},
                "bfloat16": {"runs": [_run(0.8, None)] * 3},
            },
            "speed | mlp | eager | 8": {"float32": timed, "autocast": timed, "ours": timed},
            "memory | mlp": {"batch": 512, "autocast float16": 1024, "ours float16": 2048},
            "micikevicius | float32": {"rows": {"0 master": {"accuracy": 0.9, "flushed": 0.0}}},
            "half": {"inputs.half()": {"exception": "RuntimeError: mat1 and mat2"}},
            "dynamic | attention scores": {"ours": curve},
        }
    )
    paths = write(results, tmp_path)
    text = paths[1].read_text()
    assert "| mlp | ours | float16 | 0.9200 ± 0.0000 | 0.5000 ± 0.0000 | yes | yes |" in text
    assert "| mlp | ours | bfloat16 | 0.8000 ± 0.0000 | - | no | - |" in text
    assert "float32's accuracy: ours 1 of 2; autocast 0 of 0." in text
    assert "mlp ours float16 2.00 times as much" in text
    assert "RuntimeError: mat1 and mat2" in text
    assert "step 3: moved" in text
    assert json.loads(paths[0].read_text())["results"].keys() == results.found.keys()
