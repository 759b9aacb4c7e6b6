"""Rows on conversion: what goes in and out, structure, and numbers that go wrong in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.features.cells import (
    Cell,
    Converts,
    Documented,
    Feature,
    FileCheck,
    FromResult,
    Lacks,
    Ran,
    Run,
    Section,
    UnmetError,
)
from benchmarks.features.checks import (
    all_of,
    blocked,
    few_casts,
    file,
    in_bodies,
    io_is,
    json_says,
    says,
    sound,
    stays_right,
)
from benchmarks.features.results import large_weights

OCC, ORT, MODELOPT, OLIVE = "onnxconverter-common", "onnxruntime", "modelopt", "olive"
CONVERTERS = (OCC, ORT, MODELOPT, OLIVE)
OLIVE_PASSES = "https://microsoft.github.io/Olive/reference/pass.html"
BLOCKED_IN_BF16 = Documented(
    "part",
    "use_bfloat16_as_blocked_nodes_dtype: what is kept out of FP16 may be BF16",
    "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/python/tools/transformers/float16.py",
)
FLOAT, HALF = 1, 10  # onnx.TensorProto


def everyone(cell: Cell, **others: Cell) -> dict[str, Cell]:
    """The same cell for every converter, but for those that are named."""
    names = {"occ": OCC, "ort": ORT, "modelopt": MODELOPT, "olive": OLIVE}
    return dict.fromkeys(CONVERTERS, cell) | {names[k]: c for k, c in others.items()}


def same_model(name: str, model: str, check: FileCheck, *options: str, **peer: Any) -> Feature:
    """ampconvert and every peer convert one model with its data, and one check judges the files."""
    command = " ".join([f"ampconvert {model}.onnx --data {model}-data", *options])
    ours = Run((command,), file(f"{model}.onnx", f"{model}.fp16.onnx", check))
    return Feature(name, ours, everyone(Converts(model, check, peer)), (model,))


def lowered(dtype: str) -> Feature:
    """ONNX in, ONNX out, in the type `dtype`."""
    short = {"float16": "fp16", "bfloat16": "bf16"}[dtype]
    check = sound(dtype)
    ours = Run(
        (f"ampconvert net.onnx --data net-data --dtype {short}",),
        file("net.onnx", f"net.{short}.onnx", check),
    )
    name = f"ONNX in, {short.upper()} out"
    converts = Converts("net", check, {"dtype": dtype})
    if dtype == "float16":
        peers = everyone(converts, olive=Converts("net", check, {"sort": False}))
    else:
        peers = everyone(Lacks(r"bfloat16|bf16"), modelopt=converts, ort=BLOCKED_IN_BF16)
    return Feature(name, ours, peers, ("net",))


def _module(ran: Ran) -> str:
    files = sorted(p.name for p in (ran.folder / "out").iterdir())
    if not {"mlp.fp16.onnx", "mlp.fp16.pt2"} <= set(files):
        raise UnmetError(f"it wrote {files}")
    return f"writes {', '.join(files)}"


INPUTS = Section(
    "Input, output and structure",
    CONVERTERS,
    (
        Feature(
            "PyTorch module in",
            Run(("ampconvert mlp.py -o out",), _module),
            everyone(
                Lacks(r"torch\.export|nn\.Module|ExportedProgram"),
                olive=Documented("yes", "OnnxConversion exports a PyTorch model", OLIVE_PASSES),
            ),
        ),
        lowered("float16"),
        lowered("bfloat16"),
        same_model("`If` whose bodies read outer values", "if", in_bodies),
        same_model("`Loop` with a float state", "loop", in_bodies),
        same_model("`Scan`", "scan", in_bodies),
        same_model("Functions of the model's own", "functions", sound()),
        Feature(
            "Weights over 2 GB",
            Run(
                ("ampconvert big.onnx --no-verify",),
                all_of(says("Wrote"), lambda ran: _sizes(ran)),
            ),
            {
                **{n: FromResult(large_weights) for n in (OCC, ORT, MODELOPT)},
                OLIVE: Documented("yes", "external data for large models", OLIVE_PASSES),
            },
            ("big",),
        ),
        same_model("Opset 24", "newest", sound()),
        same_model("INT8 Q/DQ pairs stay as they are", "quantized", sound()),
        same_model("Inputs and outputs keep their types, also at `TopK`", "output", sound()),
        Feature(
            "The type of a single output by choice",
            Run(
                ("ampconvert net.onnx --data net-data --io p=fp16",),
                file("net.onnx", "net.fp16.onnx", io_is({"x": FLOAT, "p": HALF})),
            ),
            everyone(
                Converts("net", io_is({"x": FLOAT, "p": HALF}), {"keep": ["x"]}),
                olive=Converts(
                    "net", io_is({"x": FLOAT, "p": HALF}), {"pattern": "^p$"}, call="io_pass"
                ),
            ),
            ("net",),
        ),
    ),
)


def _sizes(ran: Ran) -> str:
    before, after = (
        sum(p.stat().st_size for p in ran.folder.glob(pattern)) / 2**30
        for pattern in ("big.onnx*", "big.fp16.onnx*")
    )
    if not before > 2 or not 0.45 < after / before < 0.55:
        raise UnmetError(f"{before:.2f} GiB before, {after:.2f} GiB after")
    return f"{before:.2f} GiB before, {after:.2f} GiB after"


NUMBERS = Section(
    "Numbers that FP16 does not have",
    CONVERTERS,
    (
        same_model("Squares above 65504 in an RMSNorm by hand", "rms", sound()),
        same_model("A mask of -3.4e38, with a row that is all masked", "mask", sound()),
        same_model("A weight of 2e6", "weights", stays_right),
        same_model("Positions above 2048 as angles", "positions", sound()),
        Feature(
            "Ranges seen on the user's data",
            Run(
                ("ampconvert analyze rms.onnx --data rms-data --json",),
                json_says(lambda d: _seen(d)),
            ),
            everyone(
                Lacks(r"calibrat|percentile|feed_dict.*range"),
                modelopt=Converts("rms", sound(), {}),
            ),
            ("rms",),
        ),
        Feature(
            "Proof that no input within declared ranges can overflow",
            Run(
                ("ampconvert analyze mlp.py --prove --input x:4x32:-1..1",),
                says("5 PROVED", "no input within the declared ranges can overflow"),
            ),
            everyone(Lacks(r"\bprove|\binterval|abstract interpretation|bound propagation")),
        ),
        Feature(
            "Repairs: the same result by numbers that fit",
            Run(
                ("ampconvert rms.onnx --data rms-data --repair",),
                all_of(
                    says("scale-squares in 1 place"),
                    file("rms.onnx", "rms.fp16.onnx", sound()),
                ),
            ),
            everyone(Lacks(r"rescal|power.of.two")),
            ("rms",),
        ),
        Feature(
            "As few casts as there can be around what stays in FP32",
            Run(
                ("ampconvert islands.onnx --data islands-data --deny Sigmoid --deny Tanh",),
                file("islands.onnx", "islands.fp16.onnx", few_casts(4)),
            ),
            everyone(Converts("islands", few_casts(4), {"block": ["Sigmoid", "Tanh"]})),
            ("islands",),
        ),
        Feature(
            "An operator kept in FP32 by name",
            Run(
                ("ampconvert net.onnx --data net-data --deny Softmax",),
                file("net.onnx", "net.fp16.onnx", blocked("Softmax")),
            ),
            everyone(Converts("net", blocked("Softmax"), {"block": ["Softmax"]})),
            ("net",),
        ),
    ),
)


def _seen(found: Mapping[str, Any]) -> str:
    largest = max(seen["maximum"] for node in found["nodes"] for seen in node["seen"].values())
    if found["inputs"]["data_random"] or largest <= 65504:
        raise UnmetError(f"the largest value seen is {largest}")
    return f"{found['inputs']['batches']} batches, values up to {largest:.2e} seen"
