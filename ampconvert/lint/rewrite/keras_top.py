"""What a rewritten Keras script has at its top: the switch, the policy and what they need."""

from __future__ import annotations

import ast
from collections.abc import Callable

from ampconvert.lint.names import canonical
from ampconvert.lint.rewrite.keras_draft import Draft
from ampconvert.lint.rewrite.keras_script import KerasScript
from ampconvert.lint.rewrite.names import Fresh

_IMPORTS = {
    "keras": "import keras",
    "tensorflow.keras": "from tensorflow import keras",
    "tf_keras": "import tf_keras as keras",
}


class Top:
    """The lines after the imports; and how names of Keras are spelled in this script."""

    def __init__(self, script: KerasScript, draft: Draft) -> None:
        self._script = script
        self._draft = draft
        self._fresh = Fresh(script.source)
        self._imports: list[str] = []
        self._helper = ""
        self.place = self._place()

    @property
    def switch(self) -> str:
        """The constant that turns mixed precision on."""
        return self._fresh.switch

    def fresh(self, *wanted: str) -> str:
        """The first of some names that the script doesn't use."""
        return self._fresh.name(*wanted)

    def spelled(self, dotted: str, at: ast.AST) -> str:
        """How to write `dotted` ("layers.Activation") of this script's Keras at a place."""
        whole = f"{self._script.root}.{dotted}"
        parts = whole.split(".")
        for spelling in (str, canonical):  # canonical: `try: from tensorflow import keras ...`
            for count in range(len(parts), 0, -1):
                name = self._bound_to(".".join(parts[:count]), at, spelling)
                if name:
                    self._draft.keep(name)
                    return ".".join([name, *parts[count:]])
        return f"{self._imported()}.{dotted}"

    def cast(self, tensor: str, at: ast.AST) -> str:
        """How to write that `tensor` becomes float32 at a place in a model's call()."""
        name = self._bound_to("tensorflow", at)
        if name:
            self._draft.keep(name)
            return f"{name}.cast({tensor}, {name}.float32)"
        if self._script.root == "tensorflow.keras" or self._script.is_legacy:
            return f'{self.spelled("layers.Activation", at)}("linear", dtype="float32")({tensor})'
        return f'{self.spelled("ops.cast", at)}({tensor}, "float32")'

    def scaled(self) -> str:
        """The name of the function that gives an optimizer loss scaling."""
        if not self._helper:
            self._helper = self._fresh.name("loss_scaled", "with_loss_scaling")
        return self._helper

    def write(self) -> None:
        """Plan the lines: nothing may be spelled after that."""
        script, place = self._script, self.place
        policy = self.spelled("mixed_precision.set_global_policy", place)
        lines = [
            f'{self.switch} = {self._system()}.environ.get("{self.switch}", "1") != "0"'
            f"  # {self.switch}=0 runs all in float32",
            f'{policy}("{script.policy}" if {self.switch} else "float32")',
            *self._helper_lines(),
        ]
        if not self._draft.insert_after(place, [*self._imports, "", *lines]):
            raise script.refuse(
                place, "this line holds more than an import", "give the import a line of its own"
            )
        what = "weights and their updates stay float32"
        if script.dtype == "float16":
            what += ", and compile() adds loss scaling"
        self._draft.step(
            place, f'the global policy "{script.policy}" after the imports',
            "layers take the policy that holds when they are made: they compute in "
            f"{script.dtype}, {what}",
        )  # fmt: skip
        self._draft.step(
            place, f"{self.switch} at the top",
            f"with {self.switch}=0 in the environment all layers are float32 as before",
        )  # fmt: skip

    def _system(self) -> str:
        """The name of the module os."""
        name = self._bound_to("os", self.place)
        if name:
            self._draft.keep(name)
            return name
        imports = [
            s for s in self._script.source.tree.body
            if isinstance(s, ast.Import | ast.ImportFrom)
            and getattr(s, "module", None) != "__future__"
        ]  # fmt: skip
        if not imports or not self._draft.insert_before(imports[0], ["import os"]):
            self._imports.append("import os")
        return "os"

    def _helper_lines(self) -> list[str]:
        if not self._helper:
            return []
        scaler = self.spelled("mixed_precision.LossScaleOptimizer", self.place)
        return [
            "", "", f"def {self._helper}(optimizer):",
            '    """Scale losses, so that small float16 gradients don\'t become 0."""',
            f"    return {scaler}(optimizer) if {self.switch} else optimizer",
            *[""] * (2 - self._blank_lines()),
        ]  # fmt: skip

    def _blank_lines(self) -> int:
        """How many empty lines follow the place already, two at most."""
        lines = self._script.source.text.splitlines()[self.place.end_lineno or 1 :]
        count = next((i for i, line in enumerate(lines) if line.strip()), 2)
        return min(count, 2)

    def _place(self) -> ast.stmt:
        """The last import before anything is defined or built."""
        script = self._script
        built = {*script.layers, *script.models}
        last: ast.stmt | None = None
        for statement in script.source.tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                break
            if any(node in built for node in script.source.walk(statement)):
                break
            if isinstance(statement, ast.Import | ast.ImportFrom) or (
                isinstance(statement, ast.Try)
                and any(isinstance(s, ast.Import | ast.ImportFrom) for s in statement.body)
            ):
                last = statement
        if last is None:
            raise script.refuse(
                None, "no import stands at the top of the script, before layers are made",
                "import Keras there",
            )  # fmt: skip
        return last

    def _bound_to(self, module: str, at: ast.AST, spelling: Callable[[str], str] = str) -> str:
        """What imports at the top of the script call `module`, if `at` sees that."""
        source, wanted = self._script.source, spelling(module)
        for statement in source.nodes(ast.Import, ast.ImportFrom):
            last = self.place.end_lineno or self.place.lineno
            if source.scope(statement) is not source.tree or statement.lineno > last:
                continue
            for alias in statement.names:
                name = alias.asname or alias.name.partition(".")[0]
                seen = source.scopes.seen(name, at)
                if seen and all(b.how == "import" and spelling(b.target) == wanted for b in seen):
                    return name
        return ""

    def _imported(self) -> str:
        """The name of a new import of Keras."""
        line = _IMPORTS[self._script.root]
        name = "keras"
        if self._script.source.scopes.all_of(self._script.source.tree, name):
            name = self._fresh.name("_keras")
            line = line.removesuffix(" as keras") + f" as {name}"
        if line not in self._imports:
            self._imports.append(line)
        return name
