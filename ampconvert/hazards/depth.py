"""AMP610: sums of many terms."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import described, figure
from ampconvert.hazards.scene import Scene

DEEP_SUM = 2048  # terms; the kernels of bfloat16, which counts to 256, add up in float32
DEEP_PRODUCT = 4096  # terms; a sequential float16 sum of so many numbers in 0..1 is 1 % off


class DeepReduction(Hazard):
    """A running sum in the low type stops growing: 2048 + 1 is 2048 in float16.

    In bfloat16 it stops at 256. A cumulative sum stores every partial sum, so it stops there on any
    hardware. For sum, mean and matrix products it depends on the accumulator: most kernels for GPUs
    add up in float32, some processors and accelerators in 16 bits. There the sum of numbers between
    0 and 1 stops at 2048 however many they are: 16384 of them add up to a quarter of the truth.

    Source: Higham 1993, https://doi.org/10.1137/0914050
    """

    CODE = "AMP610"
    NAME = "deep-reduction"
    ADVICE = (
        "On hardware that accumulates in 16 bits keep it in FP32, or add up in blocks; a "
        "cumulative sum of many terms belongs in FP32 everywhere."
    )
    VALID = (
        Case("""g (float[2,768] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            y = ReduceMean<keepdims = 1>(x, axes)
        }"""),
        Case("""g (float[2,768] x, float[768,3072] w) => (float[2,3072] y) { y = MatMul(x, w) }"""),
        Case("""g (float[2,512] x) => (float[2,512] y) <int64 axis = {1}> {
            y = CumSum(x, axis)
        }"""),
        # One of a long row, not their sum.
        Case("""g (float[2,65536] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            y = ReduceMax<keepdims = 1>(x, axes)
        }"""),
    )
    INVALID = (
        Case("""g (float[2,4096] x) => (float[2,4096] y) <int64 axis = {1}> {
            y = CumSum(x, axis)
        }"""),
        Case("""g (float[1,3,112,112] x) => (float[1,3,1,1] y) { y = GlobalAveragePool(x) }"""),
        Case("""g (float[2,65536] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            y = ReduceSum<keepdims = 1>(x, axes)
        }"""),
        Case("""g (float[2,25088] x, float[25088,16] w) => (float[2,16] y) {
            y = MatMul(x, w)
        }"""),
        Case(
            """g (float[2,512] x) => (float[2,512] y) <int64 axis = {1}> {
            y = CumSum(x, axis)
        }""",
            low="bfloat16",
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Cumulative sums over more terms than `low` counts exactly; other sums of very many."""
        exact = scene.limits.exact_integers
        for call in scene.of("cumsum", "sum", "mean", "avg_pool"):
            terms = _terms(scene, call)
            if terms is None or terms <= (exact if call.function == "cumsum" else DEEP_SUM):
                continue
            severity: Severity = "warning" if call.function == "cumsum" else "info"
            if call.function == "cumsum":
                what = f"every partial sum is stored in {scene.low}, where {exact} + 1 is {exact}"
            else:
                what = f"a {scene.low} accumulator stops where {exact} + 1 is {exact}"
            what = f"{described(call)} over {terms:,} terms: {what}{_average(scene, call, terms)}"
            yield self.finding(what, call.node, (), severity)
        for call in scene.of("matmul", "linear", "gemm", "addmm"):
            terms = _inner(call)
            if terms is not None and terms > DEEP_PRODUCT:
                yield self.finding(
                    f"{described(call)} over {terms:,} terms: inexact where a product accumulates "
                    f"in {scene.low}",
                    call.node, (), "info",
                )  # fmt: skip


def _terms(scene: Scene, call: Call) -> int | None:
    if call.function != "avg_pool":
        return scene.size(call.name(0), call.axes())
    data, made = call.value(0), call.result
    if data is None or data.shape is None or made.shape is None:
        return None
    kernel = call.attr("kernel_size", "kernel_shape")
    if isinstance(kernel, list | tuple):
        sides = list(kernel) if len(kernel) > 1 else list(kernel) * (len(data.shape) - 2)
        return math.prod(int(side) for side in sides)
    if any(size == 0 for size in made.sizes):
        return None
    return data.numel // made.numel


def _average(scene: Scene, call: Call, terms: int) -> str:
    """Whether the sum behind a mean that was seen leaves the range."""
    seen = scene.seen(call.result.name) if call.function in ("mean", "avg_pool") else None
    if seen is None or seen.absmax * terms < scene.limits.overflow:
        return ""
    total = figure(seen.absmax * terms)
    return f"; before the division it reaches {total}, beyond {figure(scene.limits.max)}"


def _inner(call: Call) -> int | None:
    """The terms of each element of a product, by its first factor's last dimension."""
    place = 1 if call.function == "addmm" else 0
    value = call.value(place)
    if value is None or not value.shape:
        return None
    size = value.shape[-1]
    if call.function == "gemm" and call.attr("transA", default=0):
        size = value.shape[0]
    return size if isinstance(size, int) else None
