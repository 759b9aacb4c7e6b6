"""AMP606: the logarithm of a softmax."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import LOGARITHMS, figure, is_softmax
from ampconvert.hazards.scene import Scene


class LogOfSoftmax(Hazard):
    """log(softmax(x)) is -inf as soon as a probability rounds to zero.

    In float16 that is every probability below 3e-8, a logit 17.3 under the largest, and a loss made
    of it is inf or NaN. At the other end a probability above 0.9998 is 1 and its loss exactly 0 (in
    bfloat16 above 0.998). log_softmax computes x - logsumexp(x), which loses neither.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.log_softmax.html
    """

    CODE = "AMP606"
    NAME = "log-of-softmax"
    ADVICE = "Use log_softmax (--repair log-softmax), or keep softmax and log in FP32."
    VALID = (
        Case("""g (float[2,8] x) => (float[2,8] y) { y = LogSoftmax(x) }"""),
        Case("""g (float[2,8] x) => (float[2,8] y) <float eps = {1e-4}> {
            p = Softmax(x)
            a = Add(p, eps)
            y = Log(a)
        }"""),
        # The logarithm of a mean of probabilities is none of one.
        Case("""g (float[2,8] x) => (float[1,8] y) <int64[1] axes = {0}> {
            p = Softmax(x)
            m = ReduceMean<keepdims = 1>(p, axes)
            y = Log(m)
        }"""),
    )
    INVALID = (
        Case("""g (float[2,8] x) => (float[2,8] y) {
            p = Softmax(x)
            y = Log(p)
        }"""),
        Case("""g (float[2,8] x) => (float[8,2] y) {
            p = Softmax<axis = 1>(x)
            t = Transpose<perm = [1, 0]>(p)
            y = Log(t)
        }"""),
        # Written by hand, its maximum subtracted.
        Case("""g (float[2,8] x) => (float[2,8] y) <int64[1] axes = {-1}> {
            m = ReduceMax<keepdims = 1>(x, axes)
            z = Sub(x, m)
            e = Exp(z)
            s = ReduceSum<keepdims = 1>(e, axes)
            p = Div(e, s)
            y = Log(p)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,8] y) {
            p = Softmax(x)
            y = Log(p)
        }""",
            low="bfloat16",
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Logarithms whose operand is a softmax and nothing else."""
        for call in scene.of(*sorted(LOGARITHMS)):
            made = scene.maker(call.name(0))
            if made is None or not is_softmax(scene, made):
                continue
            lost = figure(scene.limits.smallest / 2)
            full = f"{1 - scene.limits.unit / 2:.4g}"
            yield self.finding(
                f"log(softmax(x)): in {scene.low} a probability below {lost} is 0 and its log "
                f"-inf, one above {full} is 1 and its log 0",
                call.node, (made.node,),
            )  # fmt: skip
