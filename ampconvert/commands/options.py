"""All commands and their options, as argparse takes them."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Any, NoReturn

from ampconvert import __version__
from ampconvert.commands.argument_types import (
    low_type,
    named_type,
    repair_kinds,
    target_name,
    tolerance,
    whole_number,
)
from ampconvert.commands.options_diff import DIFF_EXIT_CODES, diff_options
from ampconvert.commands.options_lint import LINT_EXIT_CODES, lint_options, rule_options
from ampconvert.commands.options_report import report_option, report_options
from ampconvert.commands.options_rewrite import rewrite_options
from ampconvert.commands.outcome import BAD_INPUT
from ampconvert.errors import UserError
from ampconvert.report.words import printable

COMMANDS = {
    "convert": "write the FP16 or BF16 model and measure parity (the default command)",
    "analyze": "show the verdict on every operator; write nothing",
    "explain": "show why each op of a part of the model is what it is",
    "rules": "show the op rules, or one rule's page",
    "verify": "measure how far one model's answers are from another's",
    "lint": "find mixed-precision mistakes in Python sources, and mend them",
    "rule": "show the lint rules, or one rule's page",
    "rewrite": "turn an FP32 training script into one in mixed precision",
    "report": "make the report's pages from a plan that was written",
    "diff": "show what a new plan has decided otherwise than an old one, for builds",
}
EXIT_CODES = (
    "exit codes: 0 done and parity held, 1 parity failed, 2 bad usage or input, 3 a bug, "
    "130 interrupted"
)


def with_command(words: list[str]) -> list[str]:
    """`words` with "convert" put in front where no command is named: `ampconvert model.py`."""
    if not words or words[0] in (*COMMANDS, "-h", "--help", "--version"):
        return words
    first = next((i for i, word in enumerate(words) if not word.startswith("-")), None)
    if first is not None and words[first] in COMMANDS and set(words[:first]) <= _FLAGS:
        return [words[first], *words[:first], *words[first + 1 :]]
    if first == 0 and not Path(words[0]).exists():
        near = difflib.get_close_matches(words[0], COMMANDS, n=1, cutoff=0.75)
        if near and len(words) > 1:
            raise UserError(f"there is no command {words[0]!r}; did you mean {near[0]}?")
    return ["convert", *words]


_FLAGS = {"--json", "--quiet", "-q"}


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    made = _Parser(
        prog="ampconvert",
        description="Converts PyTorch and ONNX models to FP16 or BF16, says why for every "
        "operator, and proves the result.",
        epilog="`ampconvert model.py` is short for `ampconvert convert model.py`; "
        "`ampconvert COMMAND --help` lists the options.",
    )
    made.add_argument("--version", action="version", version=f"ampconvert {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, add in {
        "convert": _convert_options,
        "analyze": _analyze_options,
        "explain": _explain_options,
        "rules": _rules_options,
        "verify": _verify_options,
        "lint": lint_options,
        "rule": rule_options,
        "rewrite": rewrite_options,
        "report": report_options,
        "diff": diff_options,
    }.items():
        text = COMMANDS[name]
        codes = {"lint": LINT_EXIT_CODES, "diff": DIFF_EXIT_CODES}.get(name, EXIT_CODES)
        sub = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=codes
        )
        add(sub)
        if name != "lint":  # it has more formats
            _output_options(sub, name)
    return made


def _convert_options(sub: argparse.ArgumentParser) -> None:
    _model_options(sub)
    _rule_options(sub)
    _target_options(sub)
    _proof_options(sub)
    group = sub.add_argument_group("conversion")
    group.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path(),
        metavar="FOLDER|FILE.onnx",
        help="where model.fp16.onnx, .pt2 and .plan.json are written (default: here); for an ONNX "
        "model the file's own name too",
    )
    group.add_argument(
        "--name", help="what the files' names begin with (default: the model file's name)"
    )
    group.add_argument("--force", action="store_true", help="overwrite files that exist")
    group.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="apply a saved .plan.json as it is; rules and ranges decide nothing",
    )
    group.add_argument(
        "--tolerance",
        type=tolerance,
        metavar="X",
        help="look for the fastest plan whose outputs are inside this relative L2 error (default: "
        "the rules' plan, as long as it is inside 1e-2 for fp16, 8e-2 for bf16)",
    )
    group.add_argument(
        "--repair",
        nargs="?",
        const=True,
        type=repair_kinds,
        metavar="KINDS",
        help="rewrite what would have to stay in FP32: all kinds of repair, or some, separated by "
        "commas (scale-squares,log-softmax); `analyze` shows what each gains",
    )
    group.add_argument(
        "--check-build",
        action="store_true",
        help="build the written file with TensorRT, strongly typed, where that and a GPU are there",
    )
    front = group.add_mutually_exclusive_group()
    front.add_argument(
        "--pareto",
        action="store_true",
        help="show predicted time against measured error of the plans worth having; write nothing",
    )
    front.add_argument(
        "--point", type=whole_number, metavar="N", help="convert with that plan of --pareto"
    )


def _analyze_options(sub: argparse.ArgumentParser) -> None:
    _model_options(sub)
    _rule_options(sub)
    _target_options(sub)
    group = _proof_options(sub)
    group.add_argument(
        "--measure",
        action="store_true",
        help="measure the output error of each operator, by running it alone in the low type",
    )
    group.add_argument(
        "--loss-scale",
        action="store_true",
        help="advise on the loss scale for training a PyTorch model, from one backward pass",
    )


def _proof_options(sub: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = sub.add_argument_group("evidence")
    group.add_argument(
        "--prove",
        action="store_true",
        help="prove that operators can't overflow, for all inputs within the ranges LOW..HIGH of "
        "--input; ids that are looked up in a table need none",
    )
    group.add_argument(
        "--assume",
        action="append",
        default=[],
        metavar="WHAT<=LIMIT",
        help="a contract for --prove: no element of a tensor, node or module ('layers.3*') exceeds "
        "LIMIT; may be repeated",
    )
    return group


def _explain_options(sub: argparse.ArgumentParser) -> None:
    _model_options(sub)
    sub.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="a module path, a node's name, an operator, or a glob on one of them (default: the "
        "whole model)",
    )
    _rule_options(sub)
    _target_options(sub)


def _rules_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", nargs="?", metavar="NAME", help="a rule; without it all are listed")
    _dtype_option(sub)
    _rules_file_option(sub)


def _verify_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "reference",
        help="the model that is right: .py, .pt2, .onnx or package.module:name; runs in FP32",
    )
    sub.add_argument("candidate", help="the model to judge: the same kinds")
    group = sub.add_argument_group("models and inputs")
    group.add_argument(
        "--model", metavar="NAME", help="class, variable or function in the reference's file"
    )
    group.add_argument("--weights", type=Path, metavar="FILE", help="weights for the reference")
    group.add_argument("--candidate-model", metavar="NAME", help="the same in the candidate's file")
    group.add_argument(
        "--candidate-weights", type=Path, metavar="FILE", help="weights for the candidate"
    )
    _input_options(group)
    group.add_argument(
        "--tolerance",
        type=tolerance,
        metavar="X",
        help="largest relative L2 error of an output "
        "(default: 1e-2 with FP16 in the candidate, 8e-2 with BF16, 1e-4 with neither)",
    )


def _model_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "target",
        metavar="MODEL",
        help="model.onnx, model.py, model.py:NAME, package.module:NAME or model.pt2",
    )
    _dtype_option(sub)
    group = sub.add_argument_group("model and inputs")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="module class, variable or function without arguments in MODEL",
    )
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="trained weights: .safetensors, or .pt, .pth, .bin, .ckpt (read with weights_only)",
    )
    _input_options(group)
    group.add_argument(
        "--static", action="store_true", help="fix all dimensions, the batch included"
    )


def _target_options(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("target and types")
    group.add_argument(
        "--target",
        dest="runtime",
        type=target_name,
        metavar="trt|ort-cuda|ort-cpu",
        help="what will run the model: operators that have no kernel of the low type there stay in "
        "FP32 (default: any GPU; costs are an H100's)",
    )
    types = group.add_mutually_exclusive_group()
    types.add_argument(
        "--keep-io",
        action="store_true",
        help="inputs and outputs keep their types (the default)",
    )
    types.add_argument(
        "--io",
        type=named_type,
        action="append",
        default=[],
        metavar="NAME=TYPE",
        help="an ONNX model's input or output that is to be fp16 or bf16 from outside; may be "
        "repeated",
    )
    group.add_argument(
        "--no-verify",
        action="store_true",
        help="run nothing of an ONNX model: ranges come from its weights alone, and parity is not "
        "measured",
    )


def _input_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SPEC",
        help="NAME[:DTYPE]:SHAPE[:LOW..HIGH], once for each input: 'x:1x3x224x224', "
        "'ids:int64:?x128:0..30521'; filled with random numbers",
    )
    group.add_argument(
        "--inputs", type=Path, metavar="FILE", help="example inputs: an .npz with arrays by name"
    )
    group.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="more data for ranges and parity: a folder of such .npz files",
    )
    group.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="of random inputs (default: 0)"
    )


def _rule_options(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group(
        "rules (they stand before the built-in ones; the first match wins)"
    )
    group.set_defaults(verdicts=[])
    group.add_argument(
        "--deny",
        action=_Verdict,
        metavar="WHAT",
        help="keep in FP32: an operator (Softmax) or a glob on module paths ('encoder.layer.0.*')",
    )
    group.add_argument(
        "--allow", action=_Verdict, metavar="WHAT", help="run in the low type: the same"
    )
    _rules_file_option(group)


def _rules_file_option(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--rules",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a TOML file of rules; may be repeated",
    )


def _dtype_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--dtype",
        type=low_type,
        default="float16",
        metavar="fp16|bf16",
        help="target type (default: fp16)",
    )


def _output_options(sub: argparse.ArgumentParser, name: str) -> None:
    group = sub.add_argument_group("output")
    if name in ("convert", "analyze", "verify"):
        report_option(group, overwrites=name != "convert")
    group.add_argument("--json", action="store_true", help="print the report as one JSON object")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="print errors only, and no progress"
    )


class _Parser(argparse.ArgumentParser):
    """One line for an error, and no guessing of shortened options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        told = printable(" ".join(message.split()))
        self.exit(BAD_INPUT, f"ampconvert: error: {told} (see {self.prog} --help)\n")


class _Verdict(argparse.Action):
    """--deny and --allow, kept in the order in which they were typed."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.verdicts = [*namespace.verdicts, (self.dest, values)]
