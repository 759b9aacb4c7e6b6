"""Asks a converter what the feature table wants to know: a process of that tool's environment.

    .venv-peers/bin/python benchmarks/features/peer.py modelopt tasks.json

`tasks.json` is a list of {"id", "call", ...arguments}; each is answered with a line of JSON, which
has its id. It imports nothing of this project. Every tool is called as its documentation does.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

# Each tool: its distribution, and the files that do what is compared.
SOURCES = {
    "onnxconverter-common": (
        "onnxconverter-common",
        ("onnxconverter_common/float16.py", "onnxconverter_common/auto_mixed_precision*.py"),
    ),
    "onnxruntime": (
        "onnxruntime",
        ("onnxruntime/transformers/float16.py", "onnxruntime/transformers/onnx_model.py"),
    ),
    "modelopt": ("nvidia-modelopt", ("modelopt/onnx/autocast/*.py",)),
    "olive": (
        "olive-ai",
        (
            "olive/passes/onnx/float16_conversion.py", "olive/passes/onnx/mixed_precision.py",
            "olive/passes/onnx/io_datatype_converter.py",
        ),
    ),
    "torch.amp": ("torch", ("torch/amp/*.py",)),
    "ampconvert": ("ampconvert", ("ampconvert/*.py",)),
}  # fmt: skip
EXTRAS = {"ampconvert": ("onnx", "ort")}  # what ONNX files need
LOG_CHARACTERS = 20000


def main() -> int:
    """Answer every task in turn, flushing each line: a task that ends the process is the next."""
    tool, tasks = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    for task in tasks:
        number, call = task.pop("id"), task.pop("call")
        print(json.dumps({"id": number, **_answer(tool, call, task)}), flush=True)
    return 0


def _answer(tool: str, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the call gives, what was logged and printed meanwhile, and an error if it raised."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    found: dict[str, Any] = {}
    with redirect_stdout(log), redirect_stderr(log):
        try:
            found = CALLS[call](tool, **arguments) or {}
        except (Exception, SystemExit) as error:  # the failure is the answer
            found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            log.write(traceback.format_exc())
    logging.getLogger().removeHandler(handler)
    return {
        **found,
        "version": metadata.version(SOURCES[tool][0]),
        "log": log.getvalue()[-LOG_CHARACTERS:],
    }


def convert(tool: str, source: str, target: str, **options: Any) -> None:
    """Convert `source` to `target`, inputs and outputs in float32 unless the options say else.

    `dtype`: bfloat16 for a tool that has it. `inputs`: a folder of .npz batches. `keep`: True, or
    the names of what stays float32. `block`: operators that stay float32.
    """
    CONVERTERS[tool](source, target, **options)


def _onnxconverter_common(
    source: str, target: str, *, dtype: str = "float16", inputs: str = "", keep: Any = True,
    block: tuple[str, ...] = (),
) -> None:  # fmt: skip
    import onnx
    from onnxconverter_common import float16

    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *block]
    model = float16.convert_float_to_float16(
        onnx.load(source), keep_io_types=keep, op_block_list=blocked
    )
    onnx.save(model, target)


def _onnxruntime(
    source: str, target: str, *, dtype: str = "float16", inputs: str = "", keep: Any = True,
    block: tuple[str, ...] = (),
) -> None:  # fmt: skip
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(onnx.load(source))
    blocked = [*DEFAULT_OP_BLOCK_LIST, *block]
    model.convert_float_to_float16(keep_io_types=keep, op_block_list=blocked)
    model.save_model_to_file(target)


def _modelopt(
    source: str, target: str, *, dtype: str = "float16", inputs: str = "", keep: Any = True,
    block: tuple[str, ...] = (),
) -> None:  # fmt: skip
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    model = convert_to_mixed_precision(
        source,
        low_precision_type={"float16": "fp16", "bfloat16": "bf16"}[dtype],
        keep_io_types=keep,
        calibration_data=inputs or None,
        op_types_to_exclude=list(block),
    )
    onnx.save(model, target)


def _olive(
    source: str, target: str, *, dtype: str = "float16", inputs: str = "", keep: Any = True,
    block: tuple[str, ...] = (), sort: bool = True,
) -> None:  # fmt: skip
    """Its pass; with `sort` nodes are put in order afterwards: more can be asked of the file."""
    from olive.passes.onnx.float16_conversion import OnnxFloatToFloat16

    options: dict[str, Any] = {"keep_io_types": keep}
    if block:
        options["op_block_list"] = list(block)
    _olive_pass(OnnxFloatToFloat16, options, source, target)
    if sort:
        import onnx
        from onnxruntime.transformers.onnx_model import OnnxModel

        OnnxModel(onnx.load(target)).save_model_to_file(target)


def _olive_pass(kind: Any, options: dict[str, Any], source: str, target: str) -> None:
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    made = create_pass_from_dict(kind, options, disable_search=True)
    made.run(ONNXModelHandler(source), target)


CONVERTERS: dict[str, Callable[..., None]] = {
    "onnxconverter-common": _onnxconverter_common,
    "onnxruntime": _onnxruntime,
    "modelopt": _modelopt,
    "olive": _olive,
}


def auto(tool: str, source: str, target: str, *, inputs: str, rtol: float = 1e-2) -> None:
    """onnxconverter-common's search for a mixed-precision model inside a tolerance."""
    import numpy as np
    import onnx
    from onnxconverter_common.auto_mixed_precision import auto_convert_mixed_precision

    feed = dict(np.load(sorted(Path(inputs).glob("*.npz"))[0]))
    model = auto_convert_mixed_precision(
        onnx.load(source), feed, rtol=rtol, atol=rtol, keep_io_types=True
    )
    onnx.save(model, target)


def io_pass(tool: str, source: str, target: str, *, pattern: str, inputs: str = "") -> None:
    """Olive's pass for the types of single inputs and outputs: those whose names match."""
    from olive.passes.onnx.io_datatype_converter import OnnxIODataTypeConverter

    options = {"name_pattern": pattern, "source_dtype": 1, "target_dtype": 10}
    _olive_pass(OnnxIODataTypeConverter, options, source, target)


def quantize(tool: str, source: str, target: str, *, inputs: str, mode: str = "int8") -> None:
    """Quantize the weights, and for modelopt the activations too, with the tool's own quantizer."""
    if tool == "onnxruntime":
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(source, target)
    elif tool == "modelopt":
        import numpy as np
        from modelopt.onnx.quantization import quantize as quantize_onnx

        feed = dict(np.load(sorted(Path(inputs).glob("*.npz"))[0]))
        quantize_onnx(
            source, quantize_mode=mode, calibration_data=feed, output_path=target,
            calibration_eps=["cpu"], high_precision_dtype="fp32",
        )  # fmt: skip
    elif tool == "olive":
        from olive.passes.onnx.quantization import OnnxDynamicQuantization

        _olive_pass(OnnxDynamicQuantization, {}, source, target)
    else:
        raise TypeError("the package has no quantizer")


def fuse(tool: str, source: str, target: str, *, inputs: str = "") -> None:
    """Optimise the graph: fuse primitive nodes into larger operators."""
    if tool == "onnxruntime":
        from onnxruntime.transformers.optimizer import optimize_model

        optimize_model(source, model_type="bert", opt_level=0).save_model_to_file(target)
    elif tool == "olive":
        from olive.passes.onnx.transformer_optimization import OrtTransformersOptimization

        _olive_pass(OrtTransformersOptimization, {"model_type": "bert"}, source, target)
    else:
        convert(tool, source, target)


def lacks(tool: str, pattern: str) -> dict[str, Any]:
    """Lines of the tool's own files that match `pattern`, ignoring case: none, or the first."""
    files = list(_files(tool))
    hits = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in files
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    where = ", ".join(SOURCES[tool][1])
    return {"hits": len(hits), "first": hits[0] if hits else "", "where": where}


def ships(tool: str, file: str, says: str, verdict: str = "yes") -> dict[str, Any]:
    """Whether the installed package has a file, and what that file is for, as its text says."""
    found = [name for name, _ in _texts((file,))]
    if not found:
        return {"verdict": "no", "detail": f"it has no {file}"}
    return {"verdict": verdict, "detail": f"{found[0]}: {says}"}


def installed(tool: str) -> dict[str, Any]:
    """MB on disk of the tool's distribution and of all that it requires.

    Extras are left out, but for those of ampconvert that converting an ONNX file takes.
    """
    sizes = {name: _size(name) for name in _closure(SOURCES[tool][0], EXTRAS.get(tool, ()))}
    total = sum(sizes.values()) / 1e6
    largest = max(sizes, key=sizes.__getitem__)
    detail = (
        f"{len(sizes)} packages, {total:,.0f} MB with what they require, of which {largest} "
        f"{sizes[largest] / 1e6:,.0f} MB"
    )
    return {"verdict": f"{total:,.0f} MB", "detail": detail}


def maturity(tool: str) -> dict[str, Any]:
    """The version and the development status that the package declares of itself."""
    told = metadata.metadata(SOURCES[tool][0])
    status = [c for c in told.get_all("Classifier") or [] if c.startswith("Development Status")]
    what = status[0].rpartition(":: ")[2] if status else "declares no development status"
    return {"verdict": told["Version"], "detail": f"version {told['Version']}, {what}"}


def _closure(name: str, extras: tuple[str, ...]) -> set[str]:
    """The distribution and everything that it requires here, with these extras of its own."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop().lower().replace("_", "-")
        if one in found:
            continue
        try:
            distribution = metadata.distribution(one)
        except metadata.PackageNotFoundError:
            continue
        found.add(one)
        for text in distribution.requires or ():
            requirement = Requirement(text)
            asked = ("", *extras) if one == name else ("",)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in asked):
                waiting.append(requirement.name)
    return found


def _size(name: str) -> int:
    """Bytes of a distribution's files, compiled ones that pip did not list left out."""
    files = metadata.distribution(name).files or ()
    paths = {Path(str(file.locate())) for file in files}
    if name == "ampconvert":  # an editable install lists none of its modules
        place = importlib.util.find_spec(name)
        assert place is not None and place.origin is not None
        paths |= {p for p in Path(place.origin).parent.rglob("*") if "__pycache__" not in p.parts}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _files(tool: str) -> Iterator[tuple[str, str]]:
    """The names and texts of the tool's files that do what is compared."""
    yield from _texts(SOURCES[tool][1])


def _texts(patterns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        package = pattern.partition("/")[0]
        place = importlib.util.find_spec(package)
        if place is None or place.origin is None:
            raise ModuleNotFoundError(package)
        root = Path(place.origin).parent.parent
        for path in sorted(root.glob(pattern)):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


CALLS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "convert": convert, "auto": auto, "io_pass": io_pass, "quantize": quantize, "fuse": fuse,
    "lacks": lacks, "ships": ships, "installed": installed, "maturity": maturity,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
