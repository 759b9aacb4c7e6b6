"""AMP612: weights that the low type can't hold."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.functions import Call
from ampconvert.graph import Node
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.data import WeightFacts
from ampconvert.hazards.patterns import figure
from ampconvert.hazards.scene import Scene
from ampconvert.plan import Plan

MORE_THAN_ROUNDING = 2.0  # units of roundoff; rounding alone makes less than one
# They compare with a constant or choose between it and data: infinity does that as well.
COMPARES = frozenset({"clamp", "minimum", "maximum"})
# The places of a bias: added, not multiplied with.
BIASED = ("linear", "gemm", "conv", "conv_transpose", "layer_norm", "group_norm", "instance_norm",
          "batch_norm")  # fmt: skip
ADDED = {"add": (0, 1), "sub": (0, 1), "addmm": (0,)} | dict.fromkeys(BIASED, (2,))
MOVES = frozenset({"concat", "stack", "slice", "select", "split", "gather", "embedding"})


class WeightBeyondRange(Hazard):
    """A weight holds elements that are infinite in the low type, or loses too many small ones.

    float16 ends at 65504. At the other end everything below 3e-8 becomes zero, and what lies below
    6.1e-5, the smallest normal number, keeps fewer bits the smaller it is. Tiny elements among
    large ones do not matter; a whole tensor of them, from a small initialisation or a large
    learning-rate multiplier, does: when the loss, relative to the whole tensor, is more than twice
    the type's unit roundoff, 2^-11. A small bias is none of these, for what it is added to rounds
    more.

    Source: IEEE 754-2019, binary16; Nagel et al. 2019, https://arxiv.org/abs/1906.04721
    """

    CODE = "AMP612"
    NAME = "weight-beyond-range"
    ADVICE = (
        "Scale the weight by a power of two and undo that behind the product (--repair "
        "scale-weights), or keep the operator in FP32."
    )
    VALID = (
        Case("""g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {0.5, -2.0, 3.0, 1e-8}> {
            y = MatMul(x, w)
        }"""),
        # A class token, beside the others, under a table of positions.
        Case("""g (float[2,2] x, float[3,2] pos) => (float[3,2] y) <float[1,2] w = {1e-6, 2e-6}> {
            c = Concat<axis = 0>(w, x)
            y = Add(c, pos)
        }"""),
        # A limit is no number to compute with.
        Case("""g (float[2,2] x) => (float[2,2] y) <float most = {1e10}> {
            y = Min(x, most)
        }"""),
        # A bias that is lost beside what it is added to.
        Case("""g (float[2,2] x) => (float[2,2] y)
        <float[2,2] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {1e-8, 2e-8}> {
            y = Gemm(x, w, b)
        }"""),
        # A mask is another hazard's.
        Case("""g (float[2,2] x) => (float[2,2] y) <float[2,2] m = {0.0, -1e9, 0.0, 0.0}> {
            a = Add(x, m)
            y = Softmax(a)
        }"""),
        Case(
            """g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1e6, -2e-6, 3e-6, 1e-8}> {
            y = MatMul(x, w)
        }""",
            low="bfloat16",
        ),
    )
    INVALID = (
        Case("""g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {0.5, -2.0, 70000.0, 1.0}> {
            y = MatMul(x, w)
        }"""),
        Case("""g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1e-7, -2e-8, 3e-8, 1e-7}> {
            y = MatMul(x, w)
        }"""),
        Case("""g (float[2,2] x) => (float[2,2] y) <float scale = {1e6}> {
            y = Mul(x, scale)
        }"""),
        Case("""g (float[1,1,4,4] x) => (float[1,1,4,4] y)
        <float[1,1,1,1] w = {2e-6}, float[1] b = {1.0}> {
            y = Conv(x, w, b)
        }"""),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Weights whose data overflows, or loses more to underflow than to ordinary rounding."""
        for name, facts in scene.weights.items():
            uses = [use for use in scene.uses(name) if _computes(scene, *use[:2])]
            readers = [node for node, _, _ in uses]
            if not readers:
                continue
            value = scene.graph.values[name]
            called = f"weight {value.label or name}"
            if facts.beyond and (facts.beyond_positive or _is_multiplied(scene, name)):
                largest = max(-facts.minimum, facts.maximum)
                what = f"{called} holds {figure(largest)}"
                if facts.beyond > 1:
                    what = f"{called} holds {facts.beyond:,} such numbers, up to {figure(largest)}"
                yield self.finding(
                    f"{what}: inf in {scene.low} (largest {figure(scene.limits.max)})",
                    readers[0], tuple(readers), "error", (name,),
                )  # fmt: skip
            elif facts.error > MORE_THAN_ROUNDING * scene.limits.unit and not _is_bias(scene, name):
                yield self.finding(
                    _lost(scene, called, facts), readers[0], tuple(readers), values=(name,)
                )

    def handled(self, found: Finding, scene: Scene, plan: Plan) -> str:
        """Kept in float32, as the node or as the weight alone."""
        if all(plan.low not in plan.weights.get(name, (plan.low,)) for name in found.values):
            return "its weight is kept in FP32 by this plan"
        return super().handled(found, scene, plan)


def _lost(scene: Scene, called: str, facts: WeightFacts) -> str:
    small = facts.subnormal / max(facts.nonzero, 1)
    gone = facts.lost / max(facts.nonzero, 1)
    return (
        f"{called}: {small:.0%} of its nonzero elements are below {scene.low}'s smallest normal "
        f"number {figure(scene.limits.tiny)}, {gone:.0%} become 0; relative error "
        f"{figure(facts.error)}"
    )


def _computes(scene: Scene, node: Node, call: Call | None) -> bool:
    """Whether `node` computes with the numbers that it reads."""
    if call is not None and call.function in COMPARES:
        return False
    return any(value.is_float32 for value in scene.graph.output_values(node))


def _is_multiplied(scene: Scene, name: str) -> bool:
    """Whether a weight of large negative numbers is one of a product, and so no mask."""
    products = ("matmul", "linear", "addmm", "gemm", "conv", "conv_transpose", "embedding")
    calls = [scene.calls.get(node.name) for node, _ in scene.graph.readers[name]]
    return any(call is not None and call.function in products for call in calls)


def _is_bias(scene: Scene, name: str) -> bool:
    """Whether a weight is only ever added to something, in part or beside other data."""
    stack, known = [name], {name}
    while stack:
        for node, call, place in scene.uses(stack.pop()):
            if call is not None and call.function in MOVES:
                stack += [out for out in node.outputs if out not in known]
                known.update(node.outputs)
            elif call is None or place not in ADDED.get(call.function, ()):
                return False
    return True
