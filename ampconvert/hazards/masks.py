"""AMP607: finfo.min, -1e9 and the like as "minus infinity"."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.graph import Node
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import counts, figure
from ampconvert.hazards.scene import PASSES, Scene
from ampconvert.plan import Plan

# Functions that hand a mask on, and the places where they take it.
CARRIES = dict.fromkeys(PASSES, (0,)) | {
    "add": (0, 1), "sub": (0,), "where": (1, 2), "masked_fill": (0, 2), "slice": (0,),
    "select": (0,), "split": (0,), "gather": (0,), "pad": (0,), "tril": (0,), "flip": (0,),
    "maximum": (0, 1), "minimum": (0, 1), "mul": (0, 1), "div": (0,), "log_softmax": (0,),
}  # fmt: skip
CARRIES_ANYWHERE = frozenset({"concat", "stack", "phi", "add_all"})
ABSORBS = {"softmax": (0,), "attention": (3,)}
# They make something finite of minus infinity, or choose something else.
ENDS = frozenset({"amax", "max_pool", "topk", "exp", "sigmoid", "relu", "clamp", "logsumexp"})


class MaskBeyondRange(Hazard):
    """A finite number that stands for minus infinity is infinite in the low type.

    finfo(float32).min is -3.4e38 and -1e9 is as popular; float16 ends at -65504, bfloat16 at
    -3.39e38, so both become -inf. Under a softmax that is no harm: ampconvert replaces such masks
    by half the type's least number, which does the same and survives being added twice. Anywhere
    else it is one: 0 * -inf, -inf + inf and -inf - -inf are NaN, and as an output -inf breaks what
    reads it.

    Source: https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html
    """

    CODE = "AMP607"
    NAME = "mask-beyond-range"
    ADVICE = (
        "Take a mask value inside the type's range (-1e4, finfo(x.dtype).min), or where(); masks "
        "that reach only softmax are saturated by ampconvert itself."
    )
    VALID = (
        # A softmax turns it into zero.
        Case("""g (float[2,8] x, bool[2,8] m) => (float[2,8] y) <float big = {-1e9}> {
            w = Where(m, big, x)
            y = Softmax(w)
        }"""),
        Case("""g (float[2,8] x, int64[2,8] keep) => (float[2,8] y)
        <float one = {1.0}, float big = {-3.4028234e38}> {
            f = Cast<to = 1>(keep)
            d = Sub(one, f)
            m = Mul(d, big)
            a = Add(x, m)
            y = Softmax(a)
        }"""),
        Case("""g (float[2,8] x, bool[2,8] m) => (float[2,1] y)
        <float big = {-1e4}, int64[1] axes = {-1}> {
            w = Where(m, big, x)
            y = ReduceMean<keepdims = 1>(w, axes)
        }"""),
        # Max pooling over what is left.
        Case("""g (float[2,8] x, bool[2,8] m) => (float[2,1] y)
        <float big = {-1e9}, int64[1] axes = {-1}> {
            w = Where(m, big, x)
            y = ReduceMax<keepdims = 1>(w, axes)
        }"""),
        # The largest of each group, as graph attention takes it.
        Case("""g (float[6,2] x, int64[6,2] group) => (float[3,2] y)
        <float[3,2] least = {-3e38, -3e38, -3e38, -3e38, -3e38, -3e38}> {
            y = ScatterElements<axis = 0, reduction = "max">(least, group, x)
        }"""),
        # A limit that nothing reaches, and a comparison.
        Case("""g (float[2,8] x) => (float[2,8] y, bool[2,8] z) <float big = {-3.4e38}> {
            y = Clip(x, big)
            z = Greater(x, big)
        }"""),
        Case(
            """g (float[2,8] x, bool[2,8] m) => (float[2,8] y) <float big = {-1e9}> {
            y = Where(m, big, x)
        }""",
            low="bfloat16",
        ),
    )
    INVALID = (
        # The logits leave the model.
        Case("""g (float[2,8] x, bool[2,8] m) => (float[2,8] y) <float big = {-1e9}> {
            y = Where(m, big, x)
        }"""),
        # 0 * -inf
        Case("""g (float[2,8] x, int64[2,8] keep) => (float[2,1] y)
        <float one = {1.0}, float big = {-3.4028234e38}, int64[1] axes = {-1}> {
            f = Cast<to = 1>(keep)
            d = Sub(one, f)
            m = Mul(d, big)
            a = Add(x, m)
            y = ReduceMax<keepdims = 1>(a, axes)
        }"""),
        Case("""g (float[2,2] x) => (float[2,2] y)
        <float[2,2] mask = {0.0, -1e9, 0.0, 0.0}, float[2,2] w = {1.0, 2.0, 3.0, 4.0}> {
            a = Add(x, mask)
            y = MatMul(a, w)
        }"""),
        Case(
            """g (float[2,2] x, float[2,2] mask) => (float[2,2] y) {
            a = Add(x, mask)
            y = Tanh(a)
        }""",
            {"mask": (-1e9, 0.0)},
        ),
        Case(
            """g (float[2,8] x, bool[2,8] m) => (float[2,8] y) <float big = {-3.4028234e38}> {
            w = Where(m, big, x)
            y = Mul(w, x)
        }""",
            low="bfloat16",
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Masks that reach something besides a softmax."""
        for number, name, node in _masks(scene):
            way = _Way(scene)
            way.follow(name, node)
            if not way.leads_out and not (way.product and way.ends):
                continue
            at = node or scene.graph.readers[name][0][0]
            severity: Severity = "error" if way.product else "warning"
            yield self.finding(
                f"mask {figure(number)} is -inf in {scene.low} and reaches {way.described()}",
                at, tuple(way.nodes), severity,
            )  # fmt: skip

    def handled(self, found: Finding, scene: Scene, plan: Plan) -> str:
        """Kept in float32, or replaced by a number that `low` holds."""
        start = next(node for node in scene.graph.nodes if node.name == found.where.node)
        if start.name in plan.scalars or not plan.masks.isdisjoint(n for n in start.inputs if n):
            return "saturated by this plan"
        return super().handled(found, scene, plan)


class _Way:
    """Everything that a mask reaches, walked forward from the value that holds it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.nodes: list[Node] = []
        self.leads_out: list[str] = []
        self.ends = False
        self.product = False
        self._known: set[str] = set()

    def follow(self, start: str, maker: Node | None) -> None:
        """Walk from the value `start`; `maker` is a node on the way already."""
        if maker is not None:
            self.nodes.append(maker)
            call = self.scene.calls.get(maker.name)
            self.product = call is not None and call.function == "mul"
        graph, stack = self.scene.graph, [start]
        while stack:
            name = stack.pop()
            if name in self._known:
                continue
            self._known.add(name)
            if name in graph.outputs:
                self.leads_out.append("an output of the model")
            for node, _ in graph.readers[name]:
                stack.extend(self._through(node, name))

    def described(self) -> str:
        """Where the mask arrives, for a message."""
        if not self.leads_out:
            return "a product with zeros: 0 * -inf is NaN"
        reached = list(dict.fromkeys(self.leads_out))
        return reached[0] + (f" and {len(reached) - 1} more" if len(reached) > 1 else "")

    def _through(self, node: Node, name: str) -> tuple[str, ...]:
        """The results of `node` that hold the mask on; () where its way ends."""
        scene = self.scene
        if not any(value.is_float32 for value in scene.graph.output_values(node)):
            return ()
        call = scene.calls.get(node.name)
        place = call.operands.index(name) if call is not None and name in call.operands else -1
        if call is not None and place in ABSORBS.get(call.function, ()):
            return ()
        is_end = call is not None and (call.function in ENDS or _discards(scene, call, place))
        kept = _scattered(node)
        if is_end or kept in ("max", "amax"):
            self.ends = True
            self.nodes.append(node)
            return ()
        carries = call is not None and (
            call.function in CARRIES_ANYWHERE or place in CARRIES.get(call.function, ())
        )
        if call is not None and carries and call.function in ("mul", "div"):
            other = call.name(1 - place)
            zeros = call.function == "mul" and counts(scene, other)
            constant = call.number(1 - place)
            carries = zeros or (constant is not None and constant > 0)
            self.product |= zeros
        if carries or kept in ("min", "amin", "none"):
            self.nodes.append(node)
            return node.outputs
        self.nodes.append(node)
        self.leads_out.append(f"{node.op.rpartition('::')[2]} ({node.name})")
        return ()


def _discards(scene: Scene, call: Call, place: int) -> bool:
    """Whether `call` puts a larger constant in the mask's place: max(x, -100)."""
    if call.function != "maximum" or place not in (0, 1):
        return False
    least = call.number(1 - place)
    return least is not None and least > -scene.limits.overflow


def _scattered(node: Node) -> str:
    """Which of two elements stays when `node` scatters into its operand; "" for other nodes."""
    kept = node.attrs.get("reduction", node.attrs.get("reduce"))
    return kept if isinstance(kept, str) else ""


def _masks(scene: Scene) -> Iterator[tuple[float, str, Node | None]]:
    """Numbers below `low`'s range that look like masks: the number, the value that holds it, and
    the node that brings it in where it is an argument.
    """
    limit = -scene.limits.overflow
    for node in scene.graph.nodes:
        call = scene.calls.get(node.name)
        if call is None or not call.result.is_float32:
            continue
        given = [number for number in call.operands if isinstance(number, float)]
        if call.function == "full":
            given = [scene.bounds(call.result.name)[0]]
        if call.function not in ("add", "sub", "mul", "where", "masked_fill", "full"):
            continue
        for number in given:
            if math.isfinite(number) and number <= limit:
                yield number, call.result.name, node
    for name, facts in scene.weights.items():
        if facts.beyond and not facts.beyond_positive:
            yield facts.minimum, name, None
    for name in scene.graph.inputs:
        seen = scene.seen(name)
        if seen is None or seen.minimum > limit:
            continue
        if max(seen.maximum, seen.unmasked) < scene.limits.overflow:
            yield seen.minimum, name, None
