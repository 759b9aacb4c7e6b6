"""Whether TensorRT builds a converted file: parsed into a strongly typed network and built.

    from ampconvert.integrations.tensorrt import check

    found = check("model.fp16.onnx", shapes={"input_ids": (4, 32)})
    found.ok, found.skipped, found.problems

    python -m ampconvert.integrations.tensorrt model.fp16.onnx --shape input_ids:4x32

In a strongly typed network TensorRT takes every type from the file, so that what it builds is what
ampconvert planned. It needs the package tensorrt (10 or newer) and an NVIDIA GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ampconvert.errors import UserError

UNKNOWN_DIM = 1  # what a dynamic dimension is built for where no shape is given


@dataclass(frozen=True)
class Problem:
    """What TensorRT's ONNX parser says of one node; no name where it is of the whole model."""

    node: str
    operator: str
    code: str
    message: str


@dataclass(frozen=True)
class Layer:
    """A layer of the parsed network: its name begins with the ONNX node's, `types` are outputs'."""

    name: str
    kind: str
    types: tuple[str, ...]


@dataclass(frozen=True)
class BuildCheck:
    """What came of one file.

    `skipped` says why nothing was built, "" where TensorRT was there to say; then `problems` are
    its parser's and `messages` its warnings and errors. `engine_bytes` is None without an engine.
    """

    path: Path
    skipped: str = ""
    version: str = ""
    problems: tuple[Problem, ...] = ()
    layers: tuple[Layer, ...] = ()
    messages: tuple[str, ...] = ()
    engine_bytes: int | None = None

    @property
    def ok(self) -> bool:
        """Whether an engine was built."""
        return self.engine_bytes is not None

    @property
    def types(self) -> Mapping[str, int]:
        """How many layers have results of each type, the most frequent first."""
        return dict(Counter(kind for layer in self.layers for kind in layer.types).most_common())

    def lines(self) -> list[str]:
        """The findings in sentences."""
        if self.skipped:
            return [f"TensorRT has not built {self.path.name}: {self.skipped}"]
        head = f"TensorRT {self.version}"
        if self.ok:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.types.items())
            found = [f"{head} built {self.path.name}: {len(self.layers)} layers, results {counts}"]
        else:
            found = [f"{head} does not build {self.path.name}"]
        for problem in self.problems:
            where = f" at {problem.operator} {problem.node!r}" if problem.node else ""
            found.append(f"{problem.code}{where}: {problem.message}")
        return found + ([] if self.ok else list(self.messages))


def check(
    path: str | Path,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    workspace: int | None = None,
) -> BuildCheck:
    """Parse the ONNX file into a strongly typed network, and build it.

    `shapes` are the inputs' sizes to build for, by name; a dynamic dimension of an input without
    one is built for size 1. `workspace` is the most bytes of device memory for scratch space. The
    engine is thrown away. Raises UserError where the file is missing, or a shape fits no input.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    try:
        trt = import_module("tensorrt")
    except ImportError as error:
        return BuildCheck(file, _missing(error))
    version = str(trt.__version__)
    if int(version.split(".")[0]) < 10:
        return BuildCheck(file, f"tensorrt {version} is older than 10", version)
    messages: list[str] = []
    logger = _logger(trt, messages)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # pybind's words for a factory that gave nothing
        said = messages[-1] if messages else str(error)
        return BuildCheck(
            file, f"it could not start, which takes an NVIDIA GPU and its driver ({said})", version
        )
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strong)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        problems = tuple(_problem(parser.get_error(i)) for i in range(parser.num_errors))
        return BuildCheck(file, "", version, problems, (), tuple(messages))
    layers = tuple(_layer(network.get_layer(i)) for i in range(network.num_layers))
    config = builder.create_builder_config()
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    _add_profile(builder, network, config, shapes or {})
    engine = builder.build_serialized_network(network, config)
    size = None if engine is None else int(engine.nbytes)
    return BuildCheck(file, "", version, (), layers, tuple(messages), size)


def main(argv: Sequence[str] | None = None) -> int:
    """Check files and print what was found; 0 where all were built or skipped, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m ampconvert.integrations.tensorrt",
        description="Parse ONNX files into strongly typed TensorRT networks and build them.",
        epilog="exit codes: 0 built, or skipped where TensorRT or a GPU is missing; 1 not built; "
        "2 bad usage or input; 4 skipped with --required",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:4x32",
        help="the sizes of an input with dynamic dimensions; once for each input",
    )
    parser.add_argument(
        "--required", action="store_true", help="exit with 4 where nothing could be built"
    )
    options = parser.parse_args(argv)
    try:
        shapes = dict(_shape(text) for text in options.shape)
        found = [check(file, shapes=shapes) for file in options.files]
    except UserError as error:
        print(f"ampconvert: error: {error}", file=sys.stderr)
        return 2
    for one in found:
        print("\n".join(one.lines()))
    if any(not one.ok and not one.skipped for one in found):
        return 1
    return 4 if options.required and any(one.skipped for one in found) else 0


def _missing(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
        return "the package tensorrt is not installed (pip install tensorrt)"
    return f"the package tensorrt can't be loaded ({error})"


def _logger(trt: Any, messages: list[str]) -> Any:
    """A logger that keeps warnings and errors, as TensorRT wants one."""
    kept = (trt.ILogger.WARNING, trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

    class Kept(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept:
                messages.append(msg)

    return Kept()


def _problem(error: Any) -> Problem:
    return Problem(
        node=str(error.node_name() or ""),
        operator=str(error.node_operator() or ""),
        code=str(error.code()).rpartition(".")[2],
        message=str(error.desc()),
    )


def _layer(layer: Any) -> Layer:
    outputs = (layer.get_output(i) for i in range(layer.num_outputs))
    return Layer(
        name=str(layer.name),
        kind=str(layer.type).rpartition(".")[2],
        types=tuple(str(one.dtype).rpartition(".")[2] for one in outputs if one is not None),
    )


def _add_profile(
    builder: Any, network: Any, config: Any, shapes: Mapping[str, Sequence[int]]
) -> None:
    """Say what sizes the dynamic inputs have; raises UserError for a shape that fits no input."""
    inputs = {one.name: one for one in map(network.get_input, range(network.num_inputs))}
    for name in shapes:
        if name not in inputs:
            raise UserError(f"there is no input {name!r}; the inputs are {', '.join(inputs)}")
    profile = builder.create_optimization_profile()
    dynamic = False
    for name, one in inputs.items():
        declared = tuple(one.shape)
        given = tuple(shapes.get(name, (d if d >= 0 else UNKNOWN_DIM for d in declared)))
        fits = all(d in (-1, g) for d, g in zip(declared, given, strict=False))
        if len(given) != len(declared) or not fits:
            raise UserError(
                f"input {name!r} has the shape {list(declared)} (-1: dynamic), which "
                f"{list(given)} does not fit"
            )
        if -1 in declared:
            dynamic = True
            profile.set_shape(name, given, given, given)
    if dynamic:
        config.add_optimization_profile(profile)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition(":")
    try:
        return name, tuple(int(size) for size in sizes.split("x"))
    except ValueError as error:
        raise UserError(f"--shape {text}: write it as NAME:4x32") from error


if __name__ == "__main__":
    raise SystemExit(main())
