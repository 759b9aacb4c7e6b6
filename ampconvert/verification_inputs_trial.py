"""Random batches that an ONNX model is known to run on, found by trying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ampconvert.errors import UserError
from ampconvert.frontends.input_spec import InputSpec
from ampconvert.verification_inputs_random import GUESSES, Array, Feed, OnnxInput, draw

if TYPE_CHECKING:
    import onnx_ir as ir

# A trial holds all weights in memory, which nothing else does for a model beyond this.
_LARGEST = 1 << 30


def draw_running(
    model: ir.Model,
    source: str,
    inputs: Sequence[OnnxInput],
    given: Mapping[str, InputSpec],
    seed: int,
    count: int,
) -> list[Feed]:
    """`count` random batches for `model`, those on which it fails left out.

    Where the model's declaration leaves sizes or numbers open, it is run on each of `GUESSES` until
    one works. `source` names it in messages, and is its file if there is one by that name. Raises
    UserError, which says what inputs to give, when none works.
    """
    feeds = draw(inputs, given, seed, count, GUESSES[0])
    if not any(_is_open(i, i.name in given) for i in inputs) or _weights(model) > _LARGEST:
        return feeds
    from ampconvert.verify.runtimes import session

    failed: UserError | None = None
    tried: list[object] = []
    branches = any(i.reading.word == "branch" or i.reading.known for i in inputs)
    with session(Path(source) if Path(source).is_file() else model) as opened:
        for guess in GUESSES:
            feeds = draw(inputs, given, seed, count, guess)
            if (shapes := [_array(fed).shape for fed in feeds[0].values()]) in tried:
                continue
            tried.append(shapes)
            running = []
            for feed in feeds if branches else feeds[:1]:
                try:
                    opened.run(feed)
                    running.append(feed)
                except UserError as error:
                    failed = failed or error
            if running:
                return running if branches else feeds
    raise UserError(
        f"{source}: the FP32 model does not run on random inputs: {failed}. Give real ones with "
        "--inputs FILE.npz (in Python: data), or say what shapes and numbers it takes, in the form "
        f"of {_asked(inputs, given, seed)}"
    )


def spec_of(wanted: OnnxInput, fed: Array | list[Array]) -> str:
    """The `--input` that makes a random tensor like `fed`: "ids:int64:2x16:0..29"."""
    array = _array(fed)
    shape = "x".join(map(str, array.shape)) or "scalar"
    bounds = ""
    if array.dtype.kind in "iu" and array.size:
        bounds = f":{array.min()}..{array.max()}"
    return f"{wanted.name}:{wanted.dtype}:{shape}{bounds}"


def _is_open(wanted: OnnxInput, given: bool) -> bool:
    """Whether sizes or numbers of this input are a guess that the model may refuse."""
    whole = "int" in wanted.dtype or wanted.dtype in ("bool", "string")
    dynamic = wanted.shape is None or any(not isinstance(d, int) for d in wanted.shape)
    return not given and (whole or dynamic or wanted.sequence)


def _asked(inputs: Sequence[OnnxInput], given: Mapping[str, InputSpec], seed: int) -> str:
    first = draw(inputs, given, seed, 1, GUESSES[0])[0]
    asked = [i for i in inputs if _is_open(i, i.name in given)]
    return " ".join(f"--input '{spec_of(i, first[i.name])}'" for i in asked[:4])


def _array(fed: Array | list[Array]) -> Array:
    return np.asarray(fed[0] if isinstance(fed, list) else fed)


def _weights(model: ir.Model) -> int:
    graphs = (model.graph, *model.graph.subgraphs())
    held = (v.const_value for g in graphs for v in g.initializers.values())
    return sum(t.nbytes for t in held if t is not None)
