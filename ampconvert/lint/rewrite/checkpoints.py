"""Checkpoints: the scaler's state is saved and loaded with the optimizer's."""

from __future__ import annotations

import ast

from ampconvert.lint.rewrite.changes import Argument, Entry, Insert, Plan
from ampconvert.lint.rewrite.scalers import Scalers
from ampconvert.lint.rewrite.script import Script

_WHY = "a run that goes on starts with the scale that was found, and not at 65536 again"


class Checkpoints:
    """Finds where the state of an optimizer is kept, and puts the scaler's beside it."""

    def __init__(self, script: Script, plan: Plan, scalers: Scalers) -> None:
        self._script = script
        self._plan = plan
        self._scalers = scalers
        self._key = "scaler"
        words = {c.value for c in script.source.nodes(ast.Constant) if isinstance(c.value, str)}
        if "scaler" in words:
            self._key = "grad_scaler" if "grad_scaler" not in words else "amp_scaler"

    def make(self) -> None:
        """Plan all savings and loadings."""
        saved = self._save()
        loaded = self._load()
        names = self._script.source.names
        if not saved and any(self._is_state(c) for c in names.methods("state_dict")):
            self._plan.note(
                "the optimizer's state is saved in a file of its own; the scaler's is not saved, "
                "so a run that goes on looks for its scale anew"
            )
        elif (
            saved
            and not loaded
            and any(self._is_optimizer(c) for c in names.methods("load_state_dict"))
        ):
            self._plan.note("the scaler's state is saved; load it where the optimizer's is loaded")

    def _save(self) -> bool:
        source = self._script.source
        done: set[object] = set()
        for call in source.names.methods("state_dict"):
            if not self._is_state(call):
                continue
            above = source.parents[call]
            if isinstance(above, ast.keyword):
                above = source.parents[above]
            scaler = ""
            if isinstance(above, ast.Dict | ast.Assign) or (
                isinstance(above, ast.Call) and source.names.of(above.func) == "dict"
            ):
                scaler = self._scalers.at(self._script.roles.area(call), call)
            if not scaler or above in done:
                continue
            done.add(above)
            value = f"{scaler}.state_dict()"
            told = (call.lineno, "save the scaler's state in the checkpoint", _WHY)
            if isinstance(above, ast.Dict):
                self._plan.add(Entry(above, self._quoted(above), value), *told)
            elif isinstance(above, ast.Call):
                self._plan.add(Argument(above, self._key, value), *told)
            elif isinstance(above, ast.Assign) and isinstance(above.targets[0], ast.Subscript):
                base = source.segment(above.targets[0].value)
                if (base, self._script.roles.area(call)) in done:
                    continue
                done.add((base, self._script.roles.area(call)))
                text = f'{base}["{self._key}"] = {value}'
                self._plan.add(Insert(above, text, after=True), *told)
            else:
                done.discard(above)
        return bool(done)

    def _load(self) -> bool:
        source = self._script.source
        done: set[str] = set()
        for call in source.names.methods("load_state_dict"):
            if not self._is_optimizer(call) or not call.args:
                continue
            given = call.args[0]
            if not isinstance(given, ast.Subscript) or not isinstance(
                given.value, ast.Name | ast.Attribute
            ):
                continue
            base = source.segment(given.value)
            statement = source.statement(call)
            area = self._script.roles.area(call)
            if f"{base} {id(area)}" in done:
                continue
            done.add(f"{base} {id(area)}")
            scaler = self._scalers.at(area, call)
            text = (
                f'if {base}.get("{self._key}"):  # files of runs without a scaler have none\n'
                f'    {scaler}.load_state_dict({base}["{self._key}"])'
            )
            self._plan.add(
                Insert(statement, text, after=True),
                call.lineno, "load the scaler's state, where the file has one", _WHY,
            )  # fmt: skip
        return bool(done)

    def _is_state(self, call: ast.Call) -> bool:
        return self._is_optimizer(call) and not call.args

    def _is_optimizer(self, call: ast.Call) -> bool:
        assert isinstance(call.func, ast.Attribute)
        return self._script.roles.is_optimizer(call.func.value)

    def _quoted(self, display: ast.Dict) -> str:
        """The key, in the quotes of the other keys."""
        first = next((k for k in display.keys if isinstance(k, ast.Constant)), None)
        single = first is not None and self._script.source.segment(first).startswith("'")
        return f"'{self._key}'" if single else f'"{self._key}"'
