"""Rows on training: ampconvert beside torch.autocast with GradScaler, by the same scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.features.cells import Documented, Feature, Lacks, Ran, Run, Section, UnmetError
from benchmarks.features.checks import all_of, json_says, says

AMP = "torch.amp"
AMP_DOCS = "https://docs.pytorch.org/docs/stable/amp.html"
AMP_EXAMPLES = "https://docs.pytorch.org/docs/stable/notes/amp_examples.html"
AMP_RECIPE = "https://docs.pytorch.org/tutorials/recipes/recipes/amp_recipe.html"

Read = Callable[[Mapping[str, Any]], str]


def both_ways(name: str, script: str, read: Read) -> Feature:
    """One script, run in both ways, and one check of what it prints."""
    ours, theirs = (
        Run((f"python {script}.py {way}",), json_says(read)) for way in ("ampconvert", "autocast")
    )
    return Feature(name, ours, {AMP: theirs})


def _skips(found: Mapping[str, Any]) -> str:
    if not (found["skipped"] and found["weights_kept"]):
        raise UnmetError("the step was taken")
    return "an infinite gradient: the step is skipped, the weights stay as they were"


def _true(found: Mapping[str, Any]) -> str:
    if not 0.99 < found["ratio"] < 1.01:
        raise UnmetError(f"gradients are {found['ratio']:,.0f} times FP32's until `unscale_`")
    return f"their norm is {found['ratio']:.4f} of FP32's"


def _recovers(found: Mapping[str, Any]) -> str:
    told = f"{found['skipped']} of {found['steps']} steps skipped"
    if not found["finite"]:
        raise UnmetError(f"{told}, the loss is not finite")
    return f"{told}, the loss is finite"


def _explained(found: Mapping[str, Any]) -> str:
    told = str(found["told"])
    if "float16" not in told or "matmul" not in told or ":" not in told:
        raise UnmetError("no operator is explained")
    return f"{len(told.splitlines())} lines, one for each operator, with rule and reason"


def _learns(found: Mapping[str, Any]) -> str:
    if not found["last"] < found["first"]:
        raise UnmetError(f"the loss goes from {found['first']:.3f} to {found['last']:.3f}")
    return f"the loss goes from {found['first']:.3f} to {found['last']:.3f}"


def _double(found: Mapping[str, Any]) -> str:
    if not found["error"] < 1e-2:
        raise UnmetError(f"gradients are {found['error']:.1e} off FP32's")
    return f"gradients are {found['error']:.1e} off FP32's"


def _half(key: str) -> Read:
    def read(found: Mapping[str, Any]) -> str:
        if found[key] != "torch.float16":
            raise UnmetError(f"it gives {found[key]}")
        return f"it gives {found[key]}"

    return read


def _unlowered(key: str) -> Read:
    def read(found: Mapping[str, Any]) -> str:
        if found[key] != "torch.float32":
            raise UnmetError(f"it gives {found[key]}")
        return f"it gives {found[key]}"

    return read


def _moved(ran: Ran) -> str:
    lines = [line for line in ran.errors[-1].splitlines() if "runs in float32 from now on" in line]
    if not lines:
        raise UnmetError("no operator moved")
    return f"logs {lines[0][:120]!r}"


TRAINING = Section(
    "Training",
    (AMP,),
    (
        both_ways("A step with an infinite gradient is skipped", "steps", _skips),
        both_ways("Gradients are true ones after `backward`", "steps", _true),
        both_ways("Training goes on where forward overflows FP16", "attention", _recovers),
        Feature(
            "An operator that overflows moves to FP32 while training goes on",
            Run(("python attention.py ampconvert",), _moved),
            {AMP: Lacks(r"runs? in float32 from|promote.*overflow|overflow.*promote")},
        ),
        Feature(
            "A reason for every operator of the training graph",
            Run(("python attention.py ampconvert",), json_says(_explained)),
            {AMP: Lacks(r"explain|reason (for|why)")},
        ),
        both_ways("LSTM in FP16 on a CPU", "lstm", _learns),
        both_ways("Under `torch.compile`", "compiled", _learns),
        both_ways("Gradient penalties (double backward)", "penalty", _double),
        Feature(
            "Many processes: a step is skipped on all ranks or on none",
            Run(
                ("torchrun --nproc-per-node 2 train_ddp.py",),
                all_of(says("2 processes, last loss"), says("of 40 steps skipped")),
            ),
            {AMP: Documented("yes", "works with DistributedDataParallel", AMP_EXAMPLES)},
            ("train_ddp.py",),
        ),
        Feature(
            "What runs outside of a module's forward is lowered too: functions",
            Run(("python outside.py ampconvert",), json_says(_unlowered("function")), verdict="no"),
            {AMP: Run(("python outside.py autocast",), json_says(_half("function")))},
        ),
        Feature(
            "What runs outside of a module's forward is lowered too: other methods",
            Run(("python outside.py ampconvert",), json_says(_unlowered("method")), verdict="no"),
            {AMP: Run(("python outside.py autocast",), json_says(_half("method")))},
        ),
        Feature(
            "Measured on GPUs by its makers",
            Run(
                ("ampconvert --version",),
                lambda ran: "no result file of this repository holds a figure from a GPU",
                verdict="no",
            ),
            {AMP: Documented("yes", "the recipe times a network on a GPU", AMP_RECIPE)},
        ),
        Feature(
            "Ships with PyTorch",
            Run(
                ("python -c 'import torch.ampconvert'",),
                lambda ran: "it is a package of its own",
                codes=(1,),
                verdict="no",
            ),
            {AMP: Documented("yes", "torch.amp is a part of PyTorch", AMP_DOCS)},
        ),
    ),
)
