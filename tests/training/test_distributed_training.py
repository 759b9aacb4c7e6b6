"""Prepared models on many processes train as they do in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.training import scenes, sharded_scenes
from tests.training.ranks import Outcome, play

SCENES: dict[str, Callable[[], Outcome]] = {**vars(scenes), **vars(sharded_scenes)}

Outcomes = list[dict[str, Outcome]]

PARTS = ("ddp_parts", "ddp_compiled_outside", "fsdp_parts")
SAME = ("ddp_same_rows", "ddp_no_sync")
BAD = ("ddp_one_bad_rank", "fsdp_one_bad_rank")
FEW = (*PARTS, *SAME, *BAD, "ddp_forward_overflow", "ddp_unused", "fsdp_checkpoint", "refused")

MORE_PARTS = (
    "ddp_bfloat16",
    "ddp_batch_norm_parts",
    "ddp_transformer",
    "ddp_aot_eager",
    "fsdp_after",
    "fsdp_bfloat16",
    "fsdp_transformer",
    "fsdp_recomputed",
    "fsdp_keeps_parameters",
    "fsdp_replicated",
    "fsdp_aot_eager",
)
MORE_SAME = (
    "ddp_after",
    "ddp_static_graph",
    "ddp_batch_norm",
    "ddp_find_unused",
    "ddp_bf16_hook",
    "ddp_zero",
)
NEARLY_SAME = ("ddp_fp16_hook", "fsdp_whole", "fsdp1")
MORE = (
    *MORE_PARTS,
    *MORE_SAME,
    *NEARLY_SAME,
    "ddp_overlap",
    "ddp_other_shapes",
    "fsdp_bf16_reduced",
    "fsdp_forward_overflow",
    "fsdp_accumulated",
    "unprepared",
)

HAS_GPUS = torch.cuda.device_count() >= 2
NCCL = pytest.param((2, "nccl"), marks=[pytest.mark.skipif(not HAS_GPUS, reason="needs two GPUs")])
TWO, FOUR = (2, "gloo"), pytest.param((4, "gloo"), marks=pytest.mark.slow)


def played(names: Sequence[str]) -> Any:
    @pytest.fixture(scope="module", params=[TWO, FOUR, NCCL], ids=lambda p: f"{p[0]}-{p[1]}")
    def outcomes(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Outcomes:
        """What each scene gave by name, by rank."""
        ranks, backend = request.param
        chosen = [SCENES[name] for name in names]
        return play(chosen, ranks, tmp_path_factory.mktemp("ranks"), backend)

    return outcomes


few, more = played(FEW), played(MORE)


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_batch(name: str, few: Outcomes) -> None:
    check_parts(name, few)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_PARTS)
def test_parts_of_a_batch_in_other_ways(name: str, more: Outcomes) -> None:
    check_parts(name, more)


def check_parts(name: str, outcomes: Outcomes) -> None:
    """Within rounding, and the same bits on all ranks."""
    for outcome in (o[name] for o in outcomes):
        assert 0 < outcome["low off"] < 0.05
        assert outcome["off"] <= 2 * outcome["low off"]
        assert outcome["losses off"] < 0.01 * abs(outcome["learnt"]) + 1e-4
        assert outcome["learnt"] > 0
        assert outcome["low"] and all(outcome["low"])
        assert outcome["guard"] == outcomes[0][name]["guard"]
        assert outcome["guard"][1:] == [10, 0]
        assert outcome["all"] == outcomes[0][name]["all"]
        if name in ("ddp_parts", "ddp_transformer"):
            assert len(outcome["low"]) == 1, "the graph is cut"


@pytest.mark.parametrize("name", SAME)
def test_the_same_rows_on_all_ranks_give_the_bits_of_one(name: str, few: Outcomes) -> None:
    check_same(name, few)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_SAME)
def test_the_same_rows_in_other_ways(name: str, more: Outcomes) -> None:
    check_same(name, more)


def check_same(name: str, outcomes: Outcomes) -> None:
    """Bit for bit on a CPU; a GPU's kernels may sum in another order."""
    for outcome in (o[name] for o in outcomes):
        near = outcome.get("off", 1.0) <= 2 * outcome.get("low off", 0.0)
        assert outcome["equal"] or (outcome.get("device") == "cuda" and near)
        assert outcome.get("moved", True)
        assert min(outcome.get("low", [1])) > 0


@pytest.mark.slow
def test_sums_in_another_order_or_a_little_less_exact(more: Outcomes) -> None:
    """Sharded gradients are summed in another order for their norm; what float16 sends of a rank's
    share of a small gradient is subnormal.
    """
    for outcome in more:
        assert outcome["ddp_fp16_hook"]["off"] < outcome["ddp_fp16_hook"]["low off"] / 2
        assert outcome["fsdp_whole"]["off"] < 1e-5 and len(outcome["fsdp_whole"]["low"]) == 1
        for found in outcome["fsdp1"].values():
            assert found["off"] < 1e-5 and min(found["low"]) > 0


@pytest.mark.parametrize("name", BAD)
def test_an_infinity_on_one_rank_is_skipped_by_all(name: str, few: Outcomes) -> None:
    for outcome in (o[name] for o in few):
        assert outcome["same bits"] == [False, False, True, False, False]
        assert outcome["scales"] == [2.0**16] * 2 + [2.0**15] * 3
        assert outcome["skipped"] == 1
        assert outcome["counts"] == {4}
        assert outcome["finite"]
        assert outcome["kept"] == {}  # it came in, no operator overflowed


def test_all_ranks_move_what_overflows_on_one(few: Outcomes) -> None:
    check_moved("ddp_forward_overflow", few)


@pytest.mark.slow
def test_all_ranks_move_what_overflows_on_one_sharded(more: Outcomes) -> None:
    check_moved("fsdp_forward_overflow", more)


def check_moved(name: str, outcomes: Outcomes) -> None:
    """The same operators on all ranks, after which no step is lost, and S is not lowered for it."""
    first = outcomes[0][name]
    assert any("overflowed float16 in forward" in why for why in first["kept"].values())
    scale, steps, skipped = first["guard"]
    assert steps == 6 and 0 < skipped < 3 and scale >= 2.0**15
    for outcome in (o[name] for o in outcomes):
        assert outcome == first


def test_parameters_without_a_gradient_stay_without(few: Outcomes) -> None:
    """As in float32, though one call casts them all."""
    for outcome in (o["ddp_unused"] for o in few):
        ours, reference = outcome["ours"], outcome["float32"]
        assert [g is None for g in ours] == [False, False, True, True]
        assert [g is None for g in reference] == [g is None for g in ours]
        assert ours[:2] == pytest.approx(reference[:2], rel=1e-2)


def test_a_sharded_checkpoint_has_the_guard_in_it(few: Outcomes) -> None:
    for outcome in (o["fsdp_checkpoint"] for o in few):
        assert outcome == {"resumed": [2.0**10, 3], "guards": [True, 6], "equal": True}


def test_policies_that_leave_nothing_to_decide_are_refused(few: Outcomes) -> None:
    for outcome in (o["refused"] for o in few):
        assert "param_dtype" in outcome["fully_shard"] and "bfloat16" in outcome["block"]
        assert "use_orig_params=True" in outcome["flat"]


@pytest.mark.slow
def test_gradients_leave_while_others_are_computed(more: Outcomes) -> None:
    for outcome in (o["ddp_overlap"] for o in more):
        assert outcome["graphs"] == 1
        assert outcome["order"].count("bucket") >= 2 and outcome["order"][-1] == "first layer"


@pytest.mark.slow
def test_ranks_with_other_graphs(more: Outcomes) -> None:
    for outcome in (o["ddp_other_shapes"] for o in more):
        assert outcome == more[0]["ddp_other_shapes"]
        assert outcome["guard"] == [2.0**16, 8, 0]


@pytest.mark.slow
def test_gradients_reduced_in_bfloat16(more: Outcomes) -> None:
    """They are rounded to 8 bits then, as without ampconvert."""
    for outcome in (o["fsdp_bf16_reduced"] for o in more):
        assert outcome["low off"] < outcome["off"] < 2.0**-7


@pytest.mark.slow
def test_gradients_reduced_with_the_last_batch(more: Outcomes) -> None:
    for outcome in (o["fsdp_accumulated"] for o in more):
        assert 0 < outcome["off"] < 2.0**-9


@pytest.mark.slow
def test_unprepared_no_module_has_a_forward_of_its_own(more: Outcomes) -> None:
    for outcome in (o["unprepared"] for o in more):
        assert outcome["during"] > 1 and outcome["after"] == 0
