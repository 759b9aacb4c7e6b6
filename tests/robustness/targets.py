"""What is fuzzed: readers of files, each with small sound files to start from.

A target reads one file. It may raise UserError with a clear message, and nothing else.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ampconvert.errors import UserError
from tests.onnx_damage import HEAD, SEEDS, parsed

MODEL = HEAD + (
    "g (float[2,4] x) => (float[2,4] y, float[2,4] z) <float[4] w = {1, 2, 3, 4}> {"
    "[n0] a = Mul(x, w) [n1] b = Softmax <axis = 1> (a) [n2] c = Gemm <transB = 1> (b, x)"
    "[n3] y = MatMul(c, b) [n4] z = Exp(a) }"
)


@dataclass(frozen=True)
class Target:
    """`read` takes a path that ends in `suffix`; `seeds` are sound contents."""

    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]

    def survives(self, data: bytes) -> str:
        """The message that `data` is refused with, "" where it is taken."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"m{self.suffix}")
            path.write_bytes(data)
            return refusal(lambda: self.read(path))


def refusal(call: Callable[[], object]) -> str:
    """What a call refuses its input with; fails for a message that says nothing."""
    try:
        call()
    except UserError as error:
        text = str(error)
        assert len(text) > 10, text
        assert "Traceback" not in text
        return text
    return ""


def _rules(path: Path) -> object:
    from ampconvert import rules

    return rules.load([path], builtin=False)


def _rule_seeds() -> list[bytes]:
    from ampconvert.rules import data_directory

    text = (data_directory() / "loss.toml").read_bytes()
    own = b'[[op]]\nname = "mine"\nonnx = ["Relu", "com.microsoft::Gelu"]\nnode = "a.*"\n' + (
        b'class = { float16 = "deny", bfloat16 = "infer" }\nreason = "it overflows"\n'
        b'when = { reduces_more_than = 1024 }\nkeep_inputs = ["X"]\nexact_inputs = true\n'
    )
    return [own, own * 2, text]


def _plan(path: Path) -> object:
    from ampconvert.files import read_plan

    return read_plan(path)


def _applied_plan(path: Path) -> object:
    """A plan that can be read, applied to the model that it was made for."""
    from ampconvert import pipeline_onnx
    from ampconvert.files import read_plan

    plan = read_plan(path)
    return pipeline_onnx.convert(parsed(MODEL), plan=plan, dtype=plan.low, verify=False)


@cache
def plan_data() -> dict[str, Any]:
    """The plan of `MODEL` as JSON."""
    from ampconvert import pipeline_onnx
    from ampconvert.plan import to_dict

    plan = pipeline_onnx.convert(parsed(MODEL), verify=False).plan
    found: dict[str, Any] = json.loads(json.dumps(to_dict(plan)))
    return found


def _plan_seeds() -> list[bytes]:
    return [json.dumps(plan_data()).encode()]


def _report(path: Path) -> object:
    """The pages of a report, as `ampconvert report` makes them, from inside the command."""
    from ampconvert.commands import report
    from ampconvert.commands.options import parser
    from ampconvert.report.progress import StageLine

    out = [str(path.with_name(f"r.{ending}")) for ending in ("html", "md")]
    words = ["report", str(path), "-o", out[0], "-o", out[1], "--force"]
    return report.run(parser().parse_args(words), StageLine(quiet=True))


@cache
def report_data() -> dict[str, Any]:
    """The report on a conversion of `MODEL`."""
    from ampconvert import pipeline_onnx
    from ampconvert.report.jsonable import stored

    return stored(None, pipeline_onnx.convert(parsed(MODEL), detailed=True))


def _report_seeds() -> list[bytes]:
    return [json.dumps(report_data()).encode()]


def _arrays(path: Path) -> object:
    from ampconvert.frontends.npz_files import read_arrays, read_headers

    refusal(lambda: read_headers(path))
    return read_arrays(path)


def _npz_seeds() -> list[bytes]:
    made = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, x=np.ones((2, 3), np.float32), ids=np.arange(4), s=np.array("text"))
        made.append(file.getvalue())
    return made


def _weights(path: Path) -> object:
    import torch

    from ampconvert.frontends.weights import load_weights

    return load_weights(torch.nn.Linear(3, 2), path)


def _safetensors_seeds() -> list[bytes]:
    import safetensors.torch
    import torch

    model = torch.nn.Linear(3, 2)
    return [safetensors.torch.save(dict(model.state_dict()))]


def _checkpoint_seeds() -> list[bytes]:
    import torch

    made = []
    state = torch.nn.Linear(3, 2).state_dict()
    for content in (state, {"state_dict": state, "epoch": 3}):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            made.append(file.getvalue())
    return made


def _onnx(path: Path) -> object:
    from ampconvert.frontends.onnx_load import load

    return load(path)


def _onnx_seeds() -> list[bytes]:
    return [model.SerializeToString() for model in SEEDS.values()]


def _program(path: Path) -> object:
    from ampconvert.frontends.entry import find

    return find(str(path), None)


@cache
def _program_seeds() -> list[bytes]:
    import torch

    file = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),)), file)
    return [file.getvalue()]


def _linted(path: Path) -> object:
    from ampconvert.lint.run import Options, run

    report = run(Options(paths=(str(path),), jobs=1, cache=False, fix=True, write=False))
    assert report.bugs == [], report.bugs
    return report


SOURCE = (
    b"import torch\nfrom torch.cuda.amp import autocast, GradScaler\nscaler = GradScaler()\n"
    b"def train(model, opt, data):\n    for x, y in data:\n        with autocast():\n"
    b"            loss = ((model(x) - y) ** 2).mean() + torch.log(x + 1e-8).sum()\n"
    b"        scaler.scale(loss).backward()\n"
    b"        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
    b"        scaler.step(opt)  # noqa: AMP204\n        scaler.update()\n"
)


def _notebook_seeds() -> list[bytes]:
    cells = [
        {"cell_type": "code", "source": SOURCE.decode().splitlines(keepends=True), "outputs": []},
        {"cell_type": "markdown", "source": "words"},
        {"cell_type": "code", "source": "%time x = 1\n!ls\nwith torch.cuda.amp.autocast(): pass"},
    ]
    return [json.dumps({"cells": cells, "nbformat": 4, "metadata": {}}).encode()]


def _configured(path: Path) -> object:
    (path.parent / "pyproject.toml").write_bytes(path.read_bytes())
    source = path.parent / "a.py"
    source.write_bytes(SOURCE)
    return _linted(source)


def _config_seeds() -> list[bytes]:
    return [
        b'[tool.ampconvert.lint]\nselect = ["AMP0", "AMP204"]\nignore = ["AMP1"]\n'
        b'exclude = ["x/**", "[ab]*.py", "{a,b}"]\ntorch = "2.4"\nmax-file-size = 100000\n'
        b'[tool.ampconvert.lint.per-file-ignores]\n"tests/*" = ["AMP3"]\n'
    ]


TARGETS = {
    "rules": Target(".toml", _rule_seeds, _rules),
    "plan": Target(".plan.json", _plan_seeds, _plan),
    "applied-plan": Target(".plan.json", _plan_seeds, _applied_plan),
    "report": Target(".json", _report_seeds, _report),
    "npz": Target(".npz", _npz_seeds, _arrays),
    "safetensors": Target(".safetensors", _safetensors_seeds, _weights),
    "checkpoint": Target(".pt", _checkpoint_seeds, _weights),
    "onnx": Target(".onnx", _onnx_seeds, _onnx),
    "pt2": Target(".pt2", _program_seeds, _program),
    "notebook": Target(".ipynb", _notebook_seeds, _linted),
    "source": Target(".py", lambda: [SOURCE], _linted),
    "lint-configuration": Target(".toml", _config_seeds, _configured),
}
