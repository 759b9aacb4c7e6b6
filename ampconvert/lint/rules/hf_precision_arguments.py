"""AMP007: precision arguments of Transformers' Trainer that contradict each other, or are gone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint import frameworks
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_ARGUMENTS = (
    "transformers.TrainingArguments",
    "transformers.Seq2SeqTrainingArguments",
    "sentence_transformers.SentenceTransformerTrainingArguments",
    "trl.CPOConfig", "trl.DPOConfig", "trl.GRPOConfig", "trl.KTOConfig", "trl.ORPOConfig",
    "trl.RewardConfig", "trl.SFTConfig",
)  # fmt: skip
_TRAINERS = ("transformers.Trainer", "transformers.Seq2SeqTrainer", "trl.SFTTrainer")
_PAIRS = (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval"))
_GONE = ("half_precision_backend", "fp16_backend", "fp16_opt_level")
# Values of those that ask for what Transformers does without them.
_USUAL = {"auto", "amp", "cuda_amp"}


class HfPrecisionArguments(Rule):
    """Precision arguments of Transformers' Trainer that contradict each other, or are gone.

    - `fp16=True` with `bf16=True` raises a ValueError, likewise `fp16_full_eval` with
      `bf16_full_eval`.
    - `half_precision_backend`, `fp16_backend` and `fp16_opt_level` are gone from Transformers 5: a
      TypeError.
    - `fp16=True` for a model that was loaded in float16: its gradients are float16, and the scaler
      of `fp16=True` raises "Attempting to unscale FP16 gradients" at the first step. Such a model
      trains under `fp16=True` only if it is loaded in float32. LoRA is different, because PEFT
      keeps the weights that train in float32: a file that imports it is left alone in this point.

    Arguments from the command line or a configuration file are not seen, nor the type that
    Transformers 5 takes from a checkpoint when none is given.

    Sources: https://github.com/huggingface/transformers/pull/41404
    and https://github.com/pytorch/pytorch/issues/74739
    """

    CODE = "AMP007"
    NAME = "hf-precision-arguments"
    SEVERITY = "error"
    ADVICE = "Give one of fp16 and bf16, and load a model that is to train in float32."
    FIX = "sometimes safe"
    FIX_SAFETY = (
        "Safe where the argument that is gone asked for what the Trainer does without it. Unsafe "
        "where it asked for Apex. The other findings have none: which type is meant, only the "
        "author knows."
    )
    WORDS = (
        (b"transformers", b"trl"),
        (b"bf16", b"half_precision_backend", b"fp16_backend", b"fp16_opt_level", b"fp16"),
    )
    VALID = (
        Case("""\
import torch
from transformers import TrainingArguments

bf16 = torch.cuda.is_bf16_supported()
args = TrainingArguments("out", fp16=not bf16, bf16=bf16)
"""),
        Case("""\
from transformers import TrainingArguments

args = TrainingArguments("out", fp16=True, bf16_full_eval=True, bf16=False)
"""),
        Case("""\
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained("gpt2", dtype=torch.float16)
model = get_peft_model(model, LoraConfig())
trainer = Trainer(model, TrainingArguments("out", fp16=True))
trainer.train()
"""),
        Case("""\
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.bfloat16)
Trainer(model=model, args=TrainingArguments("out", bf16=True)).train()
"""),
        Case("""\
from mylib import TrainingArguments

args = TrainingArguments(fp16=True, bf16=True, fp16_opt_level="O1")
"""),
    )
    INVALID = (
        Case("""\
from transformers import Seq2SeqTrainingArguments as Args

both = True
args = Args("out", fp16=both, bf16=True)  # AMP007
"""),
        Case(
            """\
import transformers as tr

args = tr.TrainingArguments(
    "out",
    fp16=True,
    half_precision_backend="auto",  # AMP007
    fp16_opt_level="O1",  # AMP007
)
""",
            """\
import transformers as tr

args = tr.TrainingArguments(
    "out",
    fp16=True,
)
""",
        ),
        Case("""\
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments


def load(name):
    return AutoModelForSequenceClassification.from_pretrained(
        name,
        dtype=torch.float16,  # AMP007
    )


def main():
    args = TrainingArguments("out", fp16=True)
    trainer = Trainer(model=load("bert"), args=args)
    trainer.train()
"""),
        Case(
            """\
from trl import SFTConfig

config = SFTConfig(fp16=True, fp16_backend="apex")  # AMP007
""",
            """\
from trl import SFTConfig

config = SFTConfig(fp16=True)  # AMP007
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Arguments that clash or are gone, and models whose type clashes with them."""
        for call in source.names.calls(*_ARGUMENTS):
            given = {k.arg: k.value for k in call.keywords if k.arg is not None}
            for one, other in _PAIRS:
                if _is_true(source, given.get(one)) and _is_true(source, given.get(other)):
                    yield self.finding(source, call, f"{one} and {other} are both True")
            for keyword in call.keywords:
                if keyword.arg in _GONE:
                    message = f"Transformers 5 has no argument {keyword.arg}"
                    yield self.finding(
                        source, keyword, message, self._removed(source, call, keyword)
                    )
        if not source.names.imports("peft", "peft.*") and source.names.methods("train"):
            yield from self._models(source)

    def _removed(self, source: Source, call: ast.Call, keyword: ast.keyword) -> Fix | None:
        edit = source.edits.remove_argument(call, keyword)
        backends = [k.value for k in call.keywords if k.arg in _GONE[:2]]
        usual = all(source.values.constants(value) <= _USUAL for value in backends)
        return self.fix("remove the argument", [edit], safe=usual)

    def _models(self, source: Source) -> Iterator[Finding]:
        for call in source.names.calls(*_TRAINERS):
            given = {k.arg: k.value for k in call.keywords}
            given.update(zip(("model", "args"), call.args, strict=False))
            if "model" not in given or "args" not in given or "peft_config" in given:
                continue
            arguments = frameworks.makers(source, given["args"], *_ARGUMENTS)
            models = source.values.of(given["model"])
            if len(models) == 1 and any(_is_fp16(source, made) for made in arguments):
                for keyword in _low_types(source, models[0]):
                    message = "fp16=True cannot train a model whose parameters are float16"
                    yield self.finding(source, keyword, message)


def _is_true(source: Source, value: ast.expr | None) -> bool:
    if value is None or source.values.constants(value) != {True}:
        return False
    return len(source.values.of(value)) == 1


def _is_fp16(source: Source, made: ast.Call) -> bool:
    return any(k.arg == "fp16" and _is_true(source, k.value) for k in made.keywords)


def _low_types(source: Source, model: ast.expr) -> Iterator[ast.keyword]:
    """The argument with which `from_pretrained` loads this model in float16."""
    if not isinstance(model, ast.Call) or not isinstance(model.func, ast.Attribute):
        return
    name = source.names.of(model.func)
    if not name.startswith("transformers.") or model.func.attr != "from_pretrained":
        return
    if any(keyword.arg == "quantization_config" for keyword in model.keywords):
        return
    for keyword in model.keywords:
        if keyword.arg in ("dtype", "torch_dtype"):
            types = source.tensors.types(keyword.value)
            strings = source.values.constants(keyword.value)
            if types == {"float16"} or strings == {"float16"}:
                yield keyword
