"""Older and wrong ways to float16 in a Keras script, taken out with the reason."""

from __future__ import annotations

import ast

from ampconvert.lint.rewrite.keras_draft import Draft
from ampconvert.lint.rewrite.keras_script import KerasScript
from ampconvert.lint.rewrite.keras_top import Top

POLICIES = ("keras.mixed_precision.set_global_policy", "keras.mixed_precision.set_dtype_policy",
            "keras.config.set_dtype_policy")  # fmt: skip
OLD_POLICIES = ("keras.mixed_precision.experimental.set_policy",)
_POLICY = ("keras.mixed_precision.Policy", "keras.mixed_precision.DTypePolicy",
           "keras.dtype_policies.DTypePolicy", "keras.DTypePolicy",
           "keras.mixed_precision.experimental.Policy")  # fmt: skip
_FLOATX = ("keras.backend.set_floatx", "keras.config.set_floatx")
_SESSIONS = ("keras.backend.get_session", "keras.backend.set_session",
             "tensorflow.compat.v1.keras.backend.get_session",
             "tensorflow.compat.v1.keras.backend.set_session")  # fmt: skip
_CONFIGS = ("tensorflow.ConfigProto", "tensorflow.compat.v1.ConfigProto")
_GRAPHS = ("tensorflow.Session", "tensorflow.InteractiveSession", "tensorflow.placeholder",
           "tensorflow.compat.v1.placeholder", "tensorflow.compat.v1.disable_v2_behavior",
           "tensorflow.disable_v2_behavior", "tensorflow.compat.v1.disable_eager_execution",
           "tensorflow.disable_eager_execution")  # fmt: skip
_GRAPH_REWRITES = (
    "tensorflow.train.experimental.enable_mixed_precision_graph_rewrite",
    "tensorflow.compat.v1.train.experimental.enable_mixed_precision_graph_rewrite",
    "tensorflow.compat.v1.mixed_precision.enable_mixed_precision_graph_rewrite",
)
_OLD_SCALER = "keras.mixed_precision.experimental.LossScaleOptimizer"
_SESSION_WHY = (
    "ConfigProto has no field floatx and get_session takes no config: this never made anything "
    "float16, and raises in TensorFlow 2"
)


def policy_names(script: KerasScript, call: ast.Call) -> set[object]:
    """The names of the policies that a call may set; empty where that isn't known."""
    given = [*call.args, *(k.value for k in call.keywords)][:1]
    found: set[object] = set()
    for value in (v for g in given for v in script.source.values.of(g)):
        if isinstance(value, ast.Call) and script.source.names.is_one(value.func, *_POLICY):
            names = [*value.args, *(k.value for k in value.keywords if k.arg == "name")][:1]
            found |= {c for name in names for c in script.source.values.constants(name)}
        elif isinstance(value, ast.Constant):
            found.add(value.value)
    return found


class Removals:
    """Takes out what set float16 before."""

    def __init__(self, script: KerasScript, top: Top, draft: Draft) -> None:
        self._script = script
        self._source = script.source
        self._top = top
        self._draft = draft

    def plan(self) -> None:
        """Everything. Raises UserError for scripts of TensorFlow 1 and for float64."""
        self._floatx()
        self._sessions()
        for call in self._source.names.calls(*_GRAPHS):
            if not self._draft.is_removed(call):
                raise self._script.refuse(
                    call, "this is a script for TensorFlow 1, where no policy for mixed precision "
                    "works", "port it to TensorFlow 2 first",
                )  # fmt: skip
        self._policies()
        self._graph_rewrites()
        self._old_scalers()

    def _floatx(self) -> None:
        for call in self._source.names.calls(*_FLOATX):
            given = [*call.args, *(k.value for k in call.keywords)][:1]
            types = self._source.values.constants(given[0]) if given else set()
            if types <= {"float16", "bfloat16"} and types:
                self._remove(
                    call, f"{self._source.segment(call)} removed",
                    "it makes weights and losses 16 bits wide too: updates of weights get lost, "
                    "and in float16 losses become NaN; the policy keeps them float32",
                )  # fmt: skip
                self._told_by_epsilon()
            elif types != {"float32"}:
                raise self._script.refuse(
                    call, "this script's float type is neither float32 nor one of 16 bits",
                    "take it out, if float32 is enough, and rewrite then",
                )  # fmt: skip

    def _told_by_epsilon(self) -> None:
        for call in self._source.names.calls("keras.backend.set_epsilon",
                                             "keras.config.set_epsilon"):  # fmt: skip
            self._draft.note(
                f"line {call.lineno}: a larger epsilon was for float16 weights; losses are float32 "
                "now, for which the default of 1e-7 is more exact"
            )

    def _sessions(self) -> None:
        """`get_session(config=ConfigProto(floatx=...))`, and what hangs on such a config."""
        names = self._source.names
        for call in names.calls(*_CONFIGS):
            wrong = self._script.keyword(call, "floatx")
            if wrong is None:
                continue
            others = len(call.keywords) > 1 or self._is_extended(call)
            if others and names.is_one(call.func, "tensorflow.compat.v1.ConfigProto"):
                self._draft.without_argument(call, wrong)
                self._draft.step(call, "floatx removed", "ConfigProto has no such field")
            else:
                self._closure(self._source.statement(call))
        for call in names.calls(*_SESSIONS):
            if self._script.keyword(call, "config") and not self._draft.is_removed(call):
                self._closure(self._source.statement(call))

    def _is_extended(self, call: ast.Call) -> bool:
        """Whether other settings of a configuration are made: `config.gpu_options.x = True`."""
        statement = self._source.statement(call)
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            return False
        return any(
            isinstance(self._source.statement(read), ast.Assign)
            and isinstance(self._source.parents[read], ast.Attribute)
            for read in self._script.loads(statement.targets[0])
        )

    def _closure(self, statement: ast.stmt) -> None:
        """Remove a statement, and those that read what it made."""
        if self._draft.is_removed(statement):
            return
        target: ast.expr | None = None
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        known = target is not None or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            and _last(statement.value) in ("get_session", "set_session", "ConfigProto")
        )  # fmt: skip
        if not known:
            raise self._script.refuse(
                statement, "a session of TensorFlow 1 is used here, where no policy for mixed "
                "precision works", "port the script to TensorFlow 2 first",
            )  # fmt: skip
        self._draft.remove(statement)
        text = " ".join(self._source.segment(statement).split())
        self._draft.step(statement, f"{text} removed", _SESSION_WHY)
        if isinstance(target, ast.Name):
            for read in list(self._script.loads(target)):
                self._closure(self._source.statement(read))

    def _policies(self) -> None:
        """Policies that are not mixed, and the experimental ones."""
        for call in self._source.names.calls(*POLICIES, *OLD_POLICIES):
            old = self._source.names.is_one(call.func, *OLD_POLICIES)
            if self._source.inside(call, ast.If) is not None:
                raise self._script.refuse(
                    call, "this sets a policy under a condition, and would undo the one at the top",
                    "take the condition out, or let `ampconvert lint --fix` bring this call up "
                    "to date",
                )  # fmt: skip
            names = policy_names(self._script, call)
            if "float64" in names or not names:
                raise self._script.refuse(
                    call, "nothing tells which policy this sets, or it is float64",
                    "take it out, and rewrite then",
                )  # fmt: skip
            given = [*call.args, *(k.value for k in call.keywords)]
            why = "the policy at the top takes its place"
            if old:
                why = "Keras 3 has no mixed_precision.experimental; " + why
            self._remove(call, f"{self._source.segment(call)} removed", why)
            for name in given[:1]:
                if isinstance(name, ast.Name):
                    self._unused_policy(name)

    def _unused_policy(self, name: ast.Name) -> None:
        """`policy = Policy("mixed_float16")`: gone, or the policy that holds if it is read."""
        for binding in self._source.scopes.bindings(name):
            target = binding.node
            if not isinstance(target, ast.Name) or not isinstance(binding.value, ast.Call):
                continue
            reads = [
                read for read in self._script.loads(target) if not self._draft.is_removed(read)
            ]
            if not reads:
                self._draft.remove(self._source.statement(target))
                continue
            function = self._top.spelled("mixed_precision.global_policy", binding.value)
            self._draft.replace(binding.value, f"{function}()")
            self._draft.step(target, f"{name.id} = {function}()", "the policy is set at the top")

    def _graph_rewrites(self) -> None:
        """TensorFlow's rewriting of graphs, beside which a policy is an error."""
        for call in self._source.names.calls(*_GRAPH_REWRITES):
            given = self._script.given(call, "opt", 0)
            if given is None:
                raise self._script.refuse(call, "this call has no optimizer", "take it out")
            what = f"{self._source.segment(call.func)} removed, its optimizer kept"
            why = "the policy takes its place: both together cast twice"
            statement = self._source.statement(call)
            same = isinstance(statement, ast.Assign) and statement.value is call and [
                self._source.segment(t) for t in statement.targets
            ] == [self._source.segment(given)]  # fmt: skip
            if same:
                self._remove_statement(statement, what, why)
            else:
                self._draft.unwrap(call, given)
                self._draft.step(call, what, why)
        for call in self._source.names.calls(
            "tensorflow.config.optimizer.set_experimental_options"
        ):
            if "auto_mixed_precision" in self._source.segment(call):
                self._remove(
                    call, "auto_mixed_precision removed",
                    "the policy takes its place: both together cast twice",
                )  # fmt: skip
        for assigned in self._source.nodes(ast.Assign):
            for target in assigned.targets:
                if isinstance(target, ast.Subscript) and self._source.values.constants(
                    target.slice
                ) == {"TF_ENABLE_AUTO_MIXED_PRECISION"}:
                    self._remove_statement(
                        assigned, "TF_ENABLE_AUTO_MIXED_PRECISION removed",
                        "the policy takes its place: both together cast twice",
                    )  # fmt: skip

    def _old_scalers(self) -> None:
        """`experimental.LossScaleOptimizer(optimizer, "dynamic")`."""
        for call in self._source.names.calls(_OLD_SCALER):
            given = self._script.given(call, "optimizer", 0)
            if given is None:
                raise self._script.refuse(call, "this call has no optimizer", "take it out")
            self._draft.unwrap(call, given)
            what = f"{self._source.segment(call.func)} removed"
            if self._script.dtype == "bfloat16":
                self._draft.step(
                    call, what, "bfloat16 has float32's range: no loss scaling is needed"
                )
                continue
            self._draft.wrap(given, f"{self._top.scaled()}({{}})")
            self._draft.step(
                call,
                what + ", loss scaling kept",
                "it is gone; the new one always adapts its scale",
            )

    def _remove(self, call: ast.Call, what: str, why: str) -> None:
        """The statement that is nothing but `call`."""
        statement = self._source.statement(call)
        if not isinstance(statement, ast.Expr) or statement.value is not call:
            raise self._script.refuse(
                call,
                "this has to go, and is part of a larger statement",
                "take it out, and rewrite then",
            )
        self._remove_statement(statement, what, why)

    def _remove_statement(self, statement: ast.stmt, what: str, why: str) -> None:
        self._draft.remove(statement)
        self._draft.step(statement, what, why)


def _last(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
