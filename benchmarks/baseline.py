"""The FP32 side of one zoo model: its ONNX file, its inputs, and the answers of the PyTorch module.

    python -m benchmarks.baseline resnet50 --work out/zoo

Everything that judges a conversion, ours or a peer's, starts from these files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.child import peak_mb, quiet, resident_mb
from benchmarks.zoo.registry import Sample, pick


def main() -> int:
    """Write `fp32.onnx`, `inputs/*.npz` and `outputs/*.npz` for one model; print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    quiet()
    print(json.dumps(baseline(options.name, options.work / options.name)))
    return 0


def baseline(name: str, folder: Path) -> dict[str, Any]:
    """Export the entry `name` into `folder`. Stages that fail are named with their message.

    Returns seconds per stage, peak memory in MB, parameters, ATen ops after run_decompositions({}),
    and what the sample says of its weights and data.
    """
    import torch

    seconds: dict[str, float] = {}
    result: dict[str, Any] = {"name": name, "seconds": seconds}
    stage = "build"
    try:
        start = time.perf_counter()
        (entry,) = pick([name])
        sample = entry.sample()
        seconds[stage] = time.perf_counter() - start
        result |= {
            "weights": sample.weights,
            "data": sample.data,
            "parameters": sum(p.numel() for p in sample.module.parameters()),
            "memory_mb": {"before": resident_mb()},
        }
        stage, start = "forward", time.perf_counter()
        outputs = answers(sample)
        seconds[stage] = time.perf_counter() - start
        _write_arrays(
            folder, "outputs", [{f"arr_{i}": a for i, a in enumerate(o)} for o in outputs]
        )
        inputs = _inputs(sample)
        _write_arrays(folder, "inputs", inputs)  # again under the ONNX names, once those are known
        stage, start = "capture", time.perf_counter()
        args, kwargs = sample.batches[0]
        program = torch.export.export(sample.module, args, kwargs, strict=False)
        result["ops"] = _ops(program.run_decompositions({}))
        seconds[stage] = time.perf_counter() - start
        stage, start = "export", time.perf_counter()
        onnx_program = torch.onnx.export(program, dynamo=True, verbose=False)
        assert onnx_program is not None
        seconds[stage] = time.perf_counter() - start
        onnx_program.save(str(folder / "fp32.onnx"), external_data=False)
        names = [value.name or "" for value in onnx_program.model.graph.inputs]
        _write_arrays(folder, "inputs", [dict(zip(names, i.values(), strict=True)) for i in inputs])
    except Exception as error:  # the figure of a model that can't be captured is its reason
        text = " ".join(str(error).split())[:300]
        result["error"] = f"{stage}: {type(error).__name__}: {text}"
    result.setdefault("memory_mb", {})["peak"] = peak_mb()
    return result


def answers(sample: Sample) -> list[list[Any]]:
    """The float32 module's outputs as arrays, by batch; ValueError for one that is not finite."""
    import torch
    from torch.utils._pytree import tree_leaves

    found = []
    for args, kwargs in sample.batches:
        with torch.no_grad():
            leaves = tree_leaves(sample.module(*args, **kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if any(not t.isfinite().all() for t in tensors if t.is_floating_point()):
            raise ValueError("the float32 model's own output is not finite")
        found.append([t.numpy() for t in tensors])
    return found


def _ops(program: Any) -> dict[str, int]:
    """How often each operator is called, bodies of control flow included."""
    import torch

    counts: dict[str, int] = {}
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                if node.op == "call_function":
                    counts[str(node.target)] = counts.get(str(node.target), 0) + 1
    return counts


def _inputs(sample: Sample) -> list[dict[str, Any]]:
    """The tensors of each batch in the order that ONNX inputs have."""
    import torch
    from torch.utils._pytree import tree_leaves

    batches = [[t for t in tree_leaves(b) if isinstance(t, torch.Tensor)] for b in sample.batches]
    return [{f"input_{i}": t.numpy() for i, t in enumerate(tensors)} for tensors in batches]


def _write_arrays(folder: Path, kind: str, batches: list[dict[str, Any]]) -> None:
    import numpy as np

    (folder / kind).mkdir(parents=True, exist_ok=True)
    for i, batch in enumerate(batches):
        np.savez(folder / kind / f"{i}.npz", **batch)


if __name__ == "__main__":
    sys.exit(main())
