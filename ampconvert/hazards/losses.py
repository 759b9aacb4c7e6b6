"""AMP613: losses on probabilities instead of logits."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.functions import Call
from ampconvert.graph import Node
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import LOGARITHMS, figure, is_softmax
from ampconvert.hazards.scene import Scene


class LossOnProbabilities(Hazard):
    """A loss takes the logarithm of a probability, which the low type has rounded to 0 or 1.

    The sigmoid of 8.4 is 1 in float16 (of 6.3 in bfloat16) and 1 - p is 0: its log is -inf, or the
    -100 at which binary_cross_entropy stops, whatever the logit was. The sigmoid of -17.4 is 0 in
    float16. PyTorch's autocast refuses binary_cross_entropy for that reason.

    Source: https://docs.pytorch.org/docs/stable/amp.html, "Prefer
    binary_cross_entropy_with_logits over binary_cross_entropy"
    """

    CODE = "AMP613"
    NAME = "loss-on-probabilities"
    ADVICE = (
        "Compute the loss from logits (binary_cross_entropy_with_logits, log_sigmoid, "
        "cross_entropy), or keep everything from the probability to the loss in FP32."
    )
    VALID = (
        # log(sigmoid(x)) as -softplus(-x)
        Case("""g (float[2,8] x) => (float[2,8] y) {
            n = Neg(x)
            s = Softplus(n)
            y = Neg(s)
        }"""),
        Case("""g (float[2,8] x) => (float[2,8] y) <float one = {1.0}> {
            s = Sub(one, x)
            y = Log(s)
        }"""),
        Case("""g (float[2,8] x) => (float[2,8] y) <float eps = {1e-3}> {
            p = Sigmoid(x)
            a = Add(p, eps)
            y = Log(a)
        }"""),
        # The logits of a clipped probability, as detectors refine boxes.
        Case("""g (float[2,8] x) => (float[2,8] y)
        <float one = {1.0}, float lo = {1e-3}, float hi = {0.999}> {
            p = Sigmoid(x)
            c = Clip(p, lo, hi)
            a = Log(c)
            q = Sub(one, c)
            b = Log(q)
            y = Sub(a, b)
        }"""),
        Case("""g (float[2,8] x, int64[2] t) => (float y) {
            l = LogSoftmax<axis = 1>(x)
            y = NegativeLogLikelihoodLoss(l, t)
        }"""),
    )
    INVALID = (
        Case("""g (float[2,8] x) => (float[2,8] y) {
            p = Sigmoid(x)
            y = Log(p)
        }"""),
        # Binary cross entropy by hand, guarded by an epsilon that 1 absorbs.
        Case("""g (float[2,8] x, float[2,8] t) => (float[2,8] y)
        <float one = {1.0}, float lo = {1e-6}, float hi = {0.999999}> {
            s = Sigmoid(x)
            p = Clip(s, lo, hi)
            a = Log(p)
            q = Sub(one, p)
            b = Log(q)
            u = Sub(one, t)
            v = Mul(t, a)
            w = Mul(u, b)
            y = Add(v, w)
        }"""),
        # Probabilities that the model is given.
        Case(
            """g (float[2,8] p) => (float[2,8] y) <float one = {1.0}> {
            a = Log(p)
            q = Sub(one, p)
            b = Log(q)
            y = Add(a, b)
        }""",
            low="bfloat16",
        ),
        Case("""g (float[2,8] x, int64[2] t) => (float y) {
            s = Softmax<axis = 1>(x)
            l = Log(s)
            y = NegativeLogLikelihoodLoss(l, t)
        }"""),
        Case("""g (float[2,8] x) => (float[2,8] y) <float one = {1.0}> {
            p = Softmax(x)
            q = Sub(one, p)
            y = Log(q)
        }"""),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Losses on probabilities, and logarithms of p and 1 - p."""
        for call in scene.of("binary_cross_entropy"):
            yield self.finding(
                f"binary_cross_entropy takes probabilities: in {scene.low} one above "
                f"{_full(scene)} is 1, and the log of 1 - p stops at -100",
                call.node, _made(scene, call, 0),
            )  # fmt: skip
        for call in scene.of("nll_loss"):
            log = scene.maker(call.name(0))
            if log is None or log.function not in LOGARITHMS:
                continue
            if is_softmax(scene, scene.maker(log.name(0))):
                yield self.finding(
                    f"nll_loss of log(softmax(x)): in {scene.low} a probability below "
                    f"{figure(scene.limits.smallest / 2)} is 0 and its loss inf",
                    call.node, (log.node, *_made(scene, log, 0)),
                )  # fmt: skip
        logs = [*scene.of(*sorted(LOGARITHMS), "log1p")]
        arguments = {scene.source(call.name(0)) for call in logs}
        for call in logs:
            yield from self._of_log(scene, call, arguments)

    def _of_log(self, scene: Scene, call: Call, arguments: set[str | None]) -> Iterator[Finding]:
        made = scene.maker(call.name(0))
        complement = _complement(scene, call)
        if complement is not None:
            known = _is_probability(scene, complement) or scene.source(complement) in arguments
            most = scene.bounds(complement)[1]
            if known and most > 1 - scene.limits.unit / 2:
                yield self.finding(
                    f"log(1 - p): in {scene.low} a p above {_full(scene)} is 1 and the log -inf",
                    call.node, (() if made is None else (made.node,)),
                )  # fmt: skip
        elif made is not None and made.function == "sigmoid" and call.function != "log1p":
            edge = figure(scene.limits.smallest / 2)
            yield self.finding(
                f"log(sigmoid(x)): in {scene.low} a probability below {edge} is 0 and its log "
                f"-inf, one above {_full(scene)} is 1 and its log 0",
                call.node, (made.node,),
            )  # fmt: skip


def _complement(scene: Scene, call: Call) -> str | None:
    """The p of log(1 - p) or log1p(-p); None when `call` is neither."""
    made = scene.maker(call.name(0))
    if made is None:
        return None
    if call.function == "log1p":
        return made.name(0) if made.function == "neg" else None
    return made.name(1) if made.function == "sub" and made.number(0) == 1 else None


def _is_probability(scene: Scene, name: str) -> bool:
    """Whether `name` is a sigmoid or softmax, clipped or not."""
    call = scene.maker(name)
    while call is not None and call.function in ("clamp", "maximum", "minimum"):
        call = scene.maker(call.name(0))
    return call is not None and (call.function == "sigmoid" or is_softmax(scene, call))


def _made(scene: Scene, call: Call, place: int) -> tuple[Node, ...]:
    made = scene.maker(call.name(place))
    return () if made is None else (made.node,)


def _full(scene: Scene) -> str:
    return f"{1 - scene.limits.unit / 2:.4g}"
