"""Rows on what is said of a conversion, how it is steered, and how it fits into a build."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from benchmarks.features.cells import (
    Call,
    Converts,
    Documented,
    Feature,
    Lacks,
    Ran,
    Run,
    Section,
    UnmetError,
)
from benchmarks.features.checks import (
    file,
    inside,
    json_says,
    names_kept_nodes,
    says,
    sound,
    stays_right,
)
from benchmarks.features.table_convert import CONVERTERS, everyone

TIGHT = 3.5e-4  # the plan of the rules alone is at 5.6e-4
HTML = r"<html|text/html|to_html|html\.escape|\.html[\"']"
PLANNED = "ampconvert net.onnx --data net-data"


def _reasons(found: Mapping[str, Any]) -> str:
    nodes = found["nodes"]
    bare = [n["node"] for n in nodes if not (n["reason"] and n["rule"] and n["runs_in"])]
    if bare or not nodes:
        raise UnmetError(f"no reason for {bare[:3]}")
    sources = sum(bool(n["source"]) for n in nodes)
    return f"{len(nodes)} of {len(nodes)} operators have a rule and a reason, {sources} a source"


def _errors(found: Mapping[str, Any]) -> str:
    known = [n["node"] for n in found["nodes"] if n["output_error"] is not None]
    low = [n for n in found["nodes"] if n["runs_in"] == "float16"]
    if not low or len(known) < len(low):
        raise UnmetError(f"{len(known)} of {len(low)} operators in FP16 have a predicted error")
    return f"{len(known)} operators with the error that each adds to the outputs"


def _emulated(found: Mapping[str, Any]) -> str:
    parity = found["parity"]
    if parity["how"] != "emulated on ONNX Runtime CPU":
        raise UnmetError(parity["how"])
    return f"{parity['how']}, relative L2 error {parity['outputs'][0]['rel_l2']:.1e}"


def _double(found: Mapping[str, Any]) -> str:
    own = found["parity"]["outputs"][0]["reference_rel_l2"]
    if not own:
        raise UnmetError("FP32's own error is not known")
    return f"FP32's own error against FP64 is {own:.1e}"


def _first_bad(found: Mapping[str, Any]) -> str:
    bad = found["parity"]["first_bad"]
    if not bad:
        raise UnmetError("it names no tensor")
    return f"the first bad tensor: {json.dumps(bad)[:100]}"


def _inside(tolerance: float) -> Any:
    def read(found: Mapping[str, Any]) -> str:
        error = found["parity"]["outputs"][0]["rel_l2"]
        low = found["summary"]["flops_low_share"]
        if not found["ok"] or error > tolerance or not low:
            raise UnmetError(f"error {error:.1e} with {low:.0%} of the FLOPs in FP16")
        runs, trials = found["parity_runs"], found["trial_runs"]
        share = f"error {error:.1e} with {low:.0%} of the FLOPs in FP16"
        return f"{share}, after {runs} parity runs and {trials} quick ones"

    return json_says(read)


def _front(found: Mapping[str, Any]) -> str:
    points = found["points"] if "points" in found else found["front"]["points"]
    if len(points) < 2:
        raise UnmetError(f"{len(points)} points")
    return f"{len(points)} plans with predicted time and error"


def _same_files(ran: Ran) -> str:
    pair = [ran.folder / "net.fp16.onnx", ran.folder / "again" / "net.fp16.onnx"]
    one, two = (hashlib.sha256(p.read_bytes()).hexdigest() for p in pair)
    if one != two:
        raise UnmetError("the second file differs from the first")
    return "the saved plan, applied again, writes the same bytes"


def _page(name: str, *words: str) -> Any:
    def check(ran: Ran) -> str:
        text = (ran.folder / name).read_text(encoding="utf-8")
        missing = [word for word in words if word not in text]
        if missing:
            raise UnmetError(f"{name} does not have {missing[0]!r}")
        return f"writes {name}, {len(text) / 1000:,.0f} kB"

    return check


def _alone(ran: Ran) -> str:
    """One HTML file that fetches nothing: no element in it names another address to load."""
    said = _page("net.html", "<html", "MatMul_0", "Content-Security-Policy")(ran)
    text = (ran.folder / "net.html").read_text(encoding="utf-8")
    if 'src="http' in text or ("<link" in text and 'rel="stylesheet"' in text):
        raise UnmetError("it loads files from elsewhere")
    return f"{said}, in one file that loads nothing"


def _schema(ran: Ran) -> str:
    from importlib import import_module

    import jsonschema

    schema = import_module("ampconvert.report.schema").schema("report-1")
    jsonschema.validate(json.loads((ran.folder / "net.json").read_text(encoding="utf-8")), schema)
    return "the JSON report is valid by the published schema"


def _overlays(ran: Ran) -> str:
    import onnx

    model = onnx.load(ran.folder / "seen.onnx")
    onnx.checker.check_model(model, full_check=True)
    told = [
        n
        for n in model.graph.node
        if any(p.key.startswith("ampconvert.") for p in n.metadata_props)
    ]
    nodes = json.loads((ran.folder / "explorer.json").read_text(encoding="utf-8"))
    if not told or not nodes:
        raise UnmetError("the overlays are empty")
    return f"{len(told)} nodes with properties that Netron shows, and Model Explorer's node data"


def _exported(ran: Ran) -> str:
    import onnx

    model = onnx.load(ran.folder / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    names = [v.name for v in (*model.graph.input, *model.graph.output)]
    kinds = {t.data_type for t in model.graph.initializer}
    if names != ["x", "p"] or 10 not in kinds:
        raise UnmetError(f"inputs and outputs {names}, weights of types {sorted(kinds)}")
    return "the names that were given, a dynamic batch, FP16 weights, and parity measured"


EXPLAIN = Section(
    "What is said of a conversion",
    CONVERTERS,
    (
        Feature(
            "A reason for every operator",
            Run(("ampconvert explain net.onnx --data net-data --json",), json_says(_reasons)),
            everyone(
                Converts("output", names_kept_nodes), modelopt=Converts("rms", names_kept_nodes)
            ),
            ("net",),
        ),
        Feature(
            "The error that each operator adds, predicted",
            Run(("ampconvert analyze net.onnx --data net-data --json",), json_says(_errors)),
            everyone(Lacks(r"predict\w* error|error propagation|jacobian")),
            ("net",),
        ),
        Feature(
            "Parity measured by the conversion",
            Run((PLANNED,), says("Parity held", "Measured on")),
            everyone(
                Lacks(r"allclose|rel\w*_l2|cosine"),
                occ=Converts("net", stays_right, call="auto"),
                ort=Call(
                    "ships",
                    {
                        "file": "onnxruntime/transformers/compare_bert_results.py",
                        "says": "compares the outputs of two BERT models; a program of its own",
                        "verdict": "part",
                    },
                ),
                olive=Call(
                    "ships",
                    {
                        "file": "olive/passes/onnx/discrepancy_check.py",
                        "says": "a pass that compares outputs with a PyTorch model",
                    },
                ),
            ),
            ("net",),
        ),
        Feature(
            "Overflow shows without a GPU (emulation)",
            Run((f"{PLANNED} --json",), json_says(_emulated)),
            everyone(
                Lacks(r"emulat|simulat"),
                occ=Converts("rms", stays_right, call="auto"),
            ),
            ("net",),
        ),
        Feature(
            "A reference in FP64",
            Run(("ampconvert mlp.py -o out --json",), json_says(_double)),
            everyone(Lacks(r"reference.*(float64|double)|(float64|double).*reference")),
        ),
        Feature(
            "The first tensor that goes wrong, named",
            Run(
                ("ampconvert verify rms.onnx naive.onnx --data rms-data --json",),
                json_says(_first_bad),
                codes=(1,),
            ),
            everyone(Lacks(r"first.*(bad|wrong|nan|overflow)|(localis|localiz)e")),
            ("rms", "naive"),
        ),
        Feature(
            "Report as a page: HTML",
            Run((f"{PLANNED} --report net.html",), _alone),
            everyone(Lacks(HTML)),
            ("net",),
        ),
        Feature(
            "Report as Markdown, for CI summaries",
            Run((f"{PLANNED} --report net.md",), _page("net.md", "Parity", "MatMul")),
            everyone(Lacks(r"markdown")),
            ("net",),
        ),
        Feature(
            "Report as JSON with a published schema",
            Run((f"{PLANNED} --report net.json",), _schema),
            everyone(Lacks(r"json.?schema|report.*json")),
            ("net",),
        ),
        Feature(
            "The same pages later, from the saved plan",
            Run(
                (PLANNED, "ampconvert report net.fp16.plan.json -o later.html"),
                _page("later.html", "<html", "MatMul_0"),
            ),
            everyone(Lacks(HTML)),
            ("net",),
        ),
        Feature(
            "Overlays for Netron and Model Explorer",
            Run(
                (
                    PLANNED,
                    "ampconvert report net.fp16.plan.json --netron net.fp16.onnx seen.onnx",
                    "ampconvert report net.fp16.plan.json --model-explorer explorer.json",
                ),
                _overlays,
            ),
            everyone(Lacks(r"netron|model.explorer")),
            ("net",),
        ),
    ),
)

STEER = Section(
    "How it is steered, and how it fits into a build",
    CONVERTERS,
    (
        Feature(
            "Rules of the user's own, from a file",
            Run(
                ("ampconvert explain net.onnx Softmax --data net-data --rules rules.toml",),
                says("my-softmax", "The service calibrates these probabilities in FP32."),
            ),
            everyone(
                Lacks(r"rule"),
                modelopt=Documented(
                    "part",
                    "custom_rule takes a NodeRuleBase: a class in Python, no file",
                    "https://nvidia.github.io/Model-Optimizer/guides/8_autocast.html",
                ),
                ort=Lacks(r"\brules?\b.*(file|user)"),
            ),
            ("net",),
        ),
        Feature(
            "Search for a plan inside a tolerance",
            Run((f"{PLANNED} --tolerance {TIGHT:g} --json",), _inside(TIGHT)),
            everyone(
                Lacks(r"bisect|binary.search|error.budget"),
                occ=Converts("net", inside(TIGHT), {"rtol": TIGHT}, call="auto"),
            ),
            ("net",),
        ),
        Feature(
            "Predicted time against error of the plans worth having",
            Run(("ampconvert net.onnx --data net-data --pareto --json",), json_says(_front)),
            everyone(Lacks(r"pareto|latency|predicted.time")),
            ("net",),
        ),
        Feature(
            "A decision saved, and applied again to the same bytes",
            Run((PLANNED, f"{PLANNED} --plan net.fp16.plan.json -o again"), _same_files),
            everyone(Lacks(r"plan\b|load_config|save_config|saved? decision")),
            ("net",),
        ),
        Feature(
            "Exit codes for CI: 1 when parity fails",
            Run(
                ("ampconvert verify rms.onnx naive.onnx --data rms-data",),
                says("FAILED"),
                codes=(1,),
            ),
            everyone(
                Lacks(r"exit\((\d|code)|sys\.exit\(\d"),
                olive=Call(
                    "ships",
                    {
                        "file": "olive/passes/onnx/discrepancy_check.py",
                        "says": "the pass fails where a threshold is exceeded",
                        "verdict": "part",
                    },
                ),
            ),
            ("rms", "naive"),
        ),
        Feature(
            "In place of `torch.onnx.export`",
            Run(("python exported.py",), _exported),
            everyone(Lacks(r"onnx\.export\(")),
        ),
        Feature(
            "ONNX files without PyTorch installed",
            Run(
                (f"PYTHONPATH=no_torch {PLANNED}",),
                file("net.onnx", "net.fp16.onnx", sound()),
            ),
            everyone(Converts("net", sound(), {}, blocked="torch")),
            ("net",),
        ),
        Feature(
            "Without a network",
            Run(
                (f"PYTHONPATH=no_network {PLANNED}",),
                file("net.onnx", "net.fp16.onnx", sound()),
            ),
            everyone(Converts("net", sound(), {}, blocked="network")),
            ("net",),
        ),
    ),
)
