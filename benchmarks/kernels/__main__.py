"""Writes the operators without a kernel into rules/targets/*.toml, below the line KERNELS.

python -m benchmarks.kernels ort-cpu            # of the onnxruntime installed
python -m benchmarks.kernels ort-cuda           # of the onnxruntime-gpu installed; needs a GPU
python -m benchmarks.kernels trt operators.md   # of onnx-tensorrt's docs/operators.md

What stands above the line is written by hand and stays. `--print` writes nothing.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from benchmarks.kernels.lists import CPU, CUDA, LOWS, Build, lacking, wrapped
from benchmarks.kernels.registry import Registry
from benchmarks.kernels.tensorrt import read_matrix

TARGETS = Path(__file__).parents[2] / "rules" / "targets"
KERNELS = "# From here on written by `python -m benchmarks.kernels`."
ORT_PAGE = "https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md"
TRT_PAGE = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"


def main() -> int:
    """Work the lists out and write them; 2 where the runtime or the page is not the right one."""
    options = _parse()
    try:
        tail = _tensorrt(options.page) if options.target == "trt" else _runtime(options.target)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.print:
        print(tail)
    else:
        path = TARGETS / f"{options.target}.toml"
        head = path.read_text(encoding="utf-8").partition(KERNELS)[0]
        path.write_text(f"{head}{KERNELS}\n{tail}", encoding="utf-8")
    return 0


def _runtime(target: str) -> str:
    registry = Registry()
    providers = (CUDA, CPU) if target == "ort-cuda" else (CPU,)
    if providers[0] not in registry.kernels:
        raise ValueError(f"onnxruntime {registry.version} has no {providers[0]}")
    build = Build(registry, providers)
    package = "onnxruntime-gpu" if target == "ort-cuda" else "onnxruntime"
    tables = _table("nowhere", {low: lacking(build, low, "nowhere") for low in LOWS})
    if len(providers) > 1:  # a CPU's elsewhere is its own float32, which a float16 model may use
        elsewhere = {low: lacking(build, low, "elsewhere") for low in LOWS}
        tables = _table("elsewhere", elsewhere) + tables
    about = _about(f"{package} {registry.version}", f"its kernel registry; as a page: {ORT_PAGE}")
    return about + tables


def _tensorrt(page: Path | None) -> str:
    if page is None:
        raise ValueError("trt needs the file: onnx-tensorrt's docs/operators.md")
    matrix = read_matrix(page.read_text(encoding="utf-8"))
    nowhere = {low: matrix.without(low) for low in LOWS}
    about = _about(f"TensorRT {matrix.version}", TRT_PAGE)
    return (
        about
        + _table("nowhere", nowhere)
        + f"\n[unsupported]\nops = {wrapped(matrix.unsupported)}\n"
    )


def _about(version: str, source: str) -> str:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return f'\n[kernels]\nversion = "{version}"\ndate    = {today}\nsource  = "{source}"\n'


def _table(name: str, lists: dict[str, list[str]]) -> str:
    rows = "".join(f"{low} = {wrapped(lists[low])}\n" for low in LOWS)
    return f"\n[{name}]\n{rows}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.kernels", description=__doc__)
    parser.add_argument("target", choices=("ort-cpu", "ort-cuda", "trt"))
    parser.add_argument("page", type=Path, nargs="?", help="onnx-tensorrt's docs/operators.md")
    parser.add_argument("--print", action="store_true", help="print the lists, write nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
