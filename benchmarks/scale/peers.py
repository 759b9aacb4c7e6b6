"""Converts one model with one of the peers: a process of the peers' environment.

    .venv-peers/bin/python -m benchmarks.scale.peers modelopt model.onnx converted.onnx

Imports of the tool come before the clock starts. Inputs and outputs stay float32, everything else
is the tool's default, but for the operators named by `--keep`: the tool keeps these in float32 as
well as those of its own list. `--big`: the weights pass protobuf's 2 GiB, so each tool is called in
the way its documentation gives for such models, and writes weights to a file of their own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.child import quiet
from benchmarks.scale.call import measure

Convert = Callable[[Path, Path, list[str], bool], None]


def main() -> int:
    """Convert once; print the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--keep", nargs="*", default=[])
    parser.add_argument("--big", action="store_true")
    options = parser.parse_args()
    quiet()
    prepare, package = TOOLS[options.tool]
    convert = prepare()
    logging.disable(logging.WARNING)  # again: an import may have set it up
    return measure(
        lambda: convert(options.source, options.target, options.keep, options.big),
        f"{package} {version(package)}",
    )


def _onnxconverter_common() -> Convert:
    import onnx
    from onnxconverter_common import float16

    def convert(source: Path, target: Path, keep: list[str], big: bool) -> None:
        if big:
            model = float16.convert_float_to_float16_model_path(str(source), keep_io_types=True)
        else:
            kept = [*float16.DEFAULT_OP_BLOCK_LIST, *keep]
            model = float16.convert_float_to_float16(
                onnx.load(source), keep_io_types=True, op_block_list=kept
            )
        _save(model, target, big)

    return convert


def _onnxruntime_float16() -> Convert:
    import onnx
    from onnxruntime.transformers import float16

    def convert(source: Path, target: Path, keep: list[str], big: bool) -> None:
        model = float16.convert_float_to_float16(
            str(source) if big else onnx.load(source),
            keep_io_types=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *keep],
        )
        _save(model, target, big)

    return convert


def _onnxruntime_model() -> Convert:
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST
    from onnxruntime.transformers.onnx_model import OnnxModel

    def convert(source: Path, target: Path, keep: list[str], big: bool) -> None:
        model = OnnxModel(onnx.load(source))
        kept = [*DEFAULT_OP_BLOCK_LIST, *keep]
        model.convert_float_to_float16(keep_io_types=True, op_block_list=kept)
        model.save_model_to_file(str(target), use_external_data_format=big)

    return convert


def _modelopt_f16() -> Convert:
    import onnx
    from modelopt.onnx.autocast import convert_to_f16

    def convert(source: Path, target: Path, keep: list[str], big: bool) -> None:
        model = convert_to_f16(onnx.load(source), keep_io_types=True, op_block_list=keep)
        _save(model, target, big)

    return convert


def _modelopt_autocast() -> Convert:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    def convert(source: Path, target: Path, keep: list[str], big: bool) -> None:
        model = convert_to_mixed_precision(
            str(source), keep_io_types=True, op_types_to_exclude=keep
        )
        _save(model, target, big)

    return convert


def _save(model: Any, target: Path, big: bool) -> None:
    import onnx

    onnx.save(model, target, save_as_external_data=big, location=f"{target.name}.data")


TOOLS: dict[str, tuple[Callable[[], Convert], str]] = {
    "onnxconverter-common": (_onnxconverter_common, "onnxconverter-common"),
    "onnxruntime float16": (_onnxruntime_float16, "onnxruntime"),
    "onnxruntime OnnxModel": (_onnxruntime_model, "onnxruntime"),
    "modelopt convert_to_f16": (_modelopt_f16, "nvidia-modelopt"),
    "modelopt autocast": (_modelopt_autocast, "nvidia-modelopt"),
}


if __name__ == "__main__":
    sys.exit(main())
