"""ampconvert: FP16 and BF16 models with a reason for every operator and proof of the result.

    import ampconvert

    result = ampconvert.convert(model, (x,), dtype="float16")
    result.ok, result.module, result.plan
    ampconvert.convert("model.onnx", dtype="bfloat16").save("model.bf16.onnx")

    ampconvert.verify_models("model.py", "model.fp16.onnx").verification.ok

    ampconvert.prepare_training(model, torch.float16)
    ampconvert.skip_nonfinite_steps(optimizer, model)

Everything here is loaded when it is first used: `import ampconvert` imports no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ampconvert.conversion import Analysis as Analysis
    from ampconvert.conversion import Conversion as Conversion
    from ampconvert.errors import UserError as UserError
    from ampconvert.exporting import ParityError as ParityError
    from ampconvert.exporting import export as export
    from ampconvert.frontends.entry import Entry as Entry
    from ampconvert.frontends.entry import find as find_model
    from ampconvert.frontends.inputs import Inputs as Inputs
    from ampconvert.frontends.inputs import resolve as find_inputs
    from ampconvert.plan import Plan as Plan
    from ampconvert.public import analyze as analyze
    from ampconvert.public import convert as convert
    from ampconvert.rules import OpRule as OpRule
    from ampconvert.rules import command_line_rule as rule
    from ampconvert.rules import load as load_rules
    from ampconvert.training.explanation import explain_training as explain_training
    from ampconvert.training.metrics import log_to as log_training
    from ampconvert.training.metrics import metrics as training_metrics
    from ampconvert.training.prepare import prepare_training as prepare_training
    from ampconvert.training.prepare import unprepare_training as unprepare_training
    from ampconvert.training.steps import skip_nonfinite_steps as skip_nonfinite_steps
    from ampconvert.verification import Comparison as Comparison
    from ampconvert.verification import verify_models as verify_models

__version__ = "0.1.0"

# Public name -> where it lives, and its name there. `verify` is the package of parity measures, so
# the function that compares two models is verify_models.
_PUBLIC = {
    "Analysis": ("conversion", "Analysis"),
    "Comparison": ("verification", "Comparison"),
    "Conversion": ("conversion", "Conversion"),
    "Entry": ("frontends.entry", "Entry"),
    "Inputs": ("frontends.inputs", "Inputs"),
    "OpRule": ("rules", "OpRule"),
    "ParityError": ("exporting", "ParityError"),
    "Plan": ("plan", "Plan"),
    "UserError": ("errors", "UserError"),
    "analyze": ("public", "analyze"),
    "convert": ("public", "convert"),
    "explain_training": ("training.explanation", "explain_training"),
    "export": ("exporting", "export"),
    "find_inputs": ("frontends.inputs", "resolve"),
    "find_model": ("frontends.entry", "find"),
    "load_rules": ("rules", "load"),
    "log_training": ("training.metrics", "log_to"),
    "prepare_training": ("training.prepare", "prepare_training"),
    "rule": ("rules", "command_line_rule"),
    "skip_nonfinite_steps": ("training.steps", "skip_nonfinite_steps"),
    "training_metrics": ("training.metrics", "metrics"),
    "unprepare_training": ("training.prepare", "unprepare_training"),
    "verify_models": ("verification", "verify_models"),
}

__all__ = [
    "Analysis", "Comparison", "Conversion", "Entry", "Inputs", "OpRule", "ParityError", "Plan",
    "UserError", "__version__", "analyze", "convert", "explain_training", "export", "find_inputs",
    "find_model", "load_rules", "log_training", "prepare_training", "rule", "skip_nonfinite_steps",
    "training_metrics", "unprepare_training", "verify_models",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name from its module, on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ampconvert' has no attribute {name!r}")
    module, inner = _PUBLIC[name]
    try:
        found = getattr(import_module(f"ampconvert.{module}"), inner)
    except ModuleNotFoundError as error:
        from ampconvert.extras import explained

        said = explained(error, f"ampconvert.{name}")
        if said is None:
            raise
        raise ModuleNotFoundError(said, name=error.name) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
