"""Rows on what ampconvert does not do, or does slower, and others do."""

from __future__ import annotations

from pathlib import Path

import onnx

from benchmarks.features.cells import (
    Call,
    Converts,
    Documented,
    Feature,
    FromResult,
    Lacks,
    Run,
    Section,
    UnmetError,
)
from benchmarks.features.checks import file, holds, says, training_info_kept
from benchmarks.features.results import conversion_seconds
from benchmarks.features.table_convert import (
    CONVERTERS,
    MODELOPT,
    OCC,
    OLIVE,
    OLIVE_PASSES,
    ORT,
    everyone,
)

QUANTIZED = ("QLinearMatMul", "MatMulInteger", "DynamicQuantizeLinear", "QuantizeLinear")
NORMS = ("LayerNormalization", "SkipLayerNormalization")
PTQ = "https://nvidia.github.io/TensorRT-Model-Optimizer/guides/_onnx_quantization.html"
OLIVE_METRICS = "https://microsoft.github.io/Olive/_modules/olive/evaluator/metric.html"
ORT_QUANTIZE = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"


def _no_norm(source: Path, target: Path, log: str) -> str:
    found = {node.op_type for node in onnx.load(target).graph.node}
    if found & set(NORMS):
        raise UnmetError("it fuses")
    return "the six nodes of the norm stay six nodes: runtimes fuse them when they load the file"


BEYOND = Section(
    "What others do, and ampconvert does not or does slower",
    CONVERTERS,
    (
        Feature(
            "INT8 quantization",
            Run(
                ("ampconvert net.onnx --dtype int8",),
                says("int8", stderr=True),
                codes=(2,),
                verdict="no",
            ),
            everyone(
                Converts("wide", holds(*QUANTIZED), call="quantize"),
                occ=Lacks(r"int8|quanti[sz]e"),
                modelopt=Documented("yes", "its quantizer has INT8, with calibration", PTQ),
            ),
            ("net",),
        ),
        Feature(
            "FP8 or INT4 quantization",
            Run(
                ("ampconvert net.onnx --dtype fp8",),
                says("fp8", stderr=True),
                codes=(2,),
                verdict="no",
            ),
            {
                OCC: Lacks(r"int4|fp8|float8"),
                ORT: Documented(
                    "yes",
                    "MatMulNBits quantizes weights to 4 bits",
                    ORT_QUANTIZE,
                ),
                MODELOPT: Documented("yes", "quantize_mode fp8, int4 and others", PTQ),
                OLIVE: Documented("yes", "passes for 4-bit weights (RTN, GPTQ, AWQ)", OLIVE_PASSES),
            },
            ("net",),
        ),
        Feature(
            "Q/DQ nodes placed for TensorRT",
            Run(
                ("ampconvert net.onnx --target trt",),
                file("net.onnx", "net.fp16.onnx", lambda s, t, log: _no_quantization(t)),
                verdict="no",
            ),
            {
                OCC: Lacks(r"QuantizeLinear"),
                ORT: Documented(
                    "yes",
                    "quantize_static writes Q/DQ pairs, with options for TensorRT",
                    ORT_QUANTIZE,
                ),
                MODELOPT: Documented("yes", "its quantizer places Q/DQ for TensorRT", PTQ),
                OLIVE: Documented(
                    "yes", "through ONNX Runtime's and ModelOpt's quantizers", OLIVE_PASSES
                ),
            },
            ("net",),
        ),
        Feature(
            "Graph optimisation: primitive nodes fused into LayerNormalization",
            Run(
                ("ampconvert norm.onnx --data norm-data",),
                file("norm.onnx", "norm.fp16.onnx", _no_norm),
                verdict="no",
            ),
            everyone(
                Converts("norm", holds(*NORMS), {}, call="fuse"), occ=Lacks(r"LayerNormalization")
            ),
            ("norm",),
        ),
        Feature(
            "Latency measured on the device, by the tool",
            Run(
                ("ampconvert analyze --help",),
                lambda ran: "times are predicted from the target's data sheet, never measured",
                verdict="no",
            ),
            everyone(
                Lacks(r"latency|benchmark|perf_counter"),
                ort=Call(
                    "ships",
                    {
                        "file": "onnxruntime/transformers/benchmark.py",
                        "says": "times transformer models on CPU and GPU",
                    },
                ),
                modelopt=Call(
                    "ships",
                    {
                        "file": "modelopt/onnx/quantization/autotune/benchmark.py",
                        "says": "times TensorRT engines to place Q/DQ nodes",
                    },
                ),
                olive=Documented("yes", "its evaluator has a latency metric", OLIVE_METRICS),
            ),
        ),
        Feature(
            "`training_info` of a model is kept",
            Run(
                ("ampconvert training.onnx",),
                file("training.onnx", "training.fp16.onnx", lambda s, t, log: _dropped(t)),
                verdict="no",
            ),
            everyone(Converts("training", training_info_kept)),
            ("training",),
        ),
        Feature(
            "Seconds for a conversion",
            FromResult(conversion_seconds),
            {
                **{name: FromResult(conversion_seconds) for name in (OCC, ORT, MODELOPT)},
            },
            ("net",),
        ),
        Feature(
            "Megabytes on disk, with all that it requires",
            Call("installed"),
            everyone(Call("installed")),
        ),
        Feature(
            "Version, and the status that the package declares",
            Call("maturity"),
            everyone(Call("maturity")),
        ),
    ),
)


def _no_quantization(target: Path) -> str:
    if any(node.op_type in QUANTIZED for node in onnx.load(target).graph.node):
        raise UnmetError("it quantizes")
    return "it adds no Q/DQ nodes; those that a model has stay"


def _dropped(target: Path) -> str:
    if onnx.load(target).training_info:
        raise UnmetError("it is kept")
    return "dropped, as docs/onnx.md says"
