"""Runs ONNX models piece by piece: neither all weights nor all tensors are ever in memory.

A segment is a run of consecutive nodes of the top-level graph. Its weights are read when it starts
and let go when it ends; a value that a later segment reads lives until the last of them. Every node
runs once per batch, and every segment is loaded once: the batches run inside, since what is kept
between two segments is little beside the weights that would have to be read again, and what
passes the limit goes to files. A model below the limits is one segment and pays nothing. Of many
batches a group passes through all segments before the next one, so that what is kept has a bound;
one batch's inputs are in memory at a time where the feeds are `Batches`.

The numbers are those of the whole model, but for what the runtime would have fused across a border
or into a weight that it knows to be constant: a difference of float32 roundings.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ampconvert.errors import UserError
from ampconvert.ranges.batches import Batches
from ampconvert.verify.runtimes import Session, numbers, wrong_names
from ampconvert.verify.segment_cuts import (
    Limits,
    Work,
    crosses,
    is_constant,
    known,
    made_by,
    node_proto,
    segments,
    tensor_info,
    tensor_proto,
    whole,
)

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Any]]
See = Callable[[int, str, Any], None]

DEFAULT = Limits()


def visit(
    model: ir.Model,
    feeds: Feeds,
    wanted: Sequence[str],
    see: See,
    *,
    limits: Limits = DEFAULT,
    tell: Callable[[int], None] | None = None,
) -> None:
    """Call `see(batch, name, value)` for each wanted value of the top-level graph and each batch.

    Of one batch inputs and weights come first, then what nodes make in execution order; all batches
    of one segment come before the next segment, up to `limits.batches`. Only nodes that a wanted
    value depends on run. A value is an array, or what `run_onnx` gives for sequences and optionals;
    it is kept only by who sees it, and must not be changed. `tell` hears how many batches' worth of
    work is done.

    Raises:
        UserError: a part of the model does not load or run, or a feed does not fit its inputs.
    """
    feeds = _filled(model, feeds)
    work = Work(model, wanted, feeds[0] if feeds else ())
    feeds = _checked(work, feeds)
    given = [name for name in work.wanted if name not in work.makes]
    pieces = [piece for (piece,) in segments([work], feeds[0] if feeds else {}, limits)]
    steps = 0
    with closing(Kept(limits.kept)) as kept:
        passage = _Passage(work, pieces or [range(0)], feeds, kept)
        for group in _groups(len(feeds), limits.batches if len(pieces) > 1 else len(feeds)):
            for k in range(len(passage.pieces)):
                with closing(passage.enter(k)) as segment:
                    for batch in group:
                        for name in given if k == 0 else ():
                            see(batch, name, _given(work, feeds[batch], name))
                        for name, value in segment.run(batch):
                            see(batch, name, value)
                        steps += 1
                        if tell is not None:
                            tell(steps // len(passage.pieces))


def lockstep(
    a: ir.Model,
    b: ir.Model,
    feeds: Feeds,
    names: Sequence[str] | None = None,
    *,
    limits: Limits = DEFAULT,
) -> Generator[tuple[int, str, Any, Any]]:
    """(batch, name, value in `a`, value in `b`) for each value that nodes of both models compute.

    `names` picks some; by default all numeric tensors. The order is `b`'s, all batches of one
    segment before the next. Both models take the same inputs. Of a segment of `a` all common values
    of one batch are in memory at a time: few, where both models make them in the same order.

    Raises:
        UserError: as `visit`.
    """
    a, b = known(a), known(b)
    made_a, made_b = _made(a), _made(b)
    if names is None:
        names = [name for name in made_b if crosses(made_b[name])]
    common = [name for name in names if name in made_a and name in made_b]
    feeds = _filled(a, feeds)
    fed = feeds[0] if feeds else {}
    left, right = Work(a, common, fed), Work(b, common, fed)
    for work in (left, right):
        feeds = _checked(work, feeds)
    found = segments([left, right], feeds[0] if feeds else {}, limits)
    with closing(Kept(limits.kept)) as kept_a, closing(Kept(limits.kept)) as kept_b:
        passage_a = _Passage(left, [piece[0] for piece in found], feeds, kept_a)
        passage_b = _Passage(right, [piece[1] for piece in found], feeds, kept_b)
        for k in range(len(found)):
            with closing(passage_a.enter(k)) as part_a, closing(passage_b.enter(k)) as part_b:
                for batch in range(len(feeds)):
                    values = dict(part_a.run(batch))
                    for name, value in part_b.run(batch):
                        yield batch, name, values.pop(name), value


def outputs(model: ir.Model, feeds: Feeds, *, limits: Limits = DEFAULT) -> list[dict[str, Any]]:
    """The model's outputs by name, for each batch; only these are kept. Raises UserError."""
    names = [value.name or "" for value in model.graph.outputs]
    found: list[dict[str, Any]] = [{} for _ in feeds]

    def see(batch: int, name: str, value: Any) -> None:
        # A copy: an array of the runtime's own keeps all memory of its session alive.
        found[batch][name] = np.array(value) if isinstance(value, np.ndarray) else value

    visit(model, feeds, names, see, limits=limits)
    return [{name: batch[name] for name in names} for batch in found]


class _Passage:
    """A model on its way through its segments."""

    def __init__(self, work: Work, pieces: Sequence[range], feeds: Feeds, kept: Kept) -> None:
        self.work = work
        self.pieces = pieces
        self.feeds = feeds
        self.kept = kept
        # The last segment that reads each value.
        self.last = {
            name: k for k, piece in enumerate(pieces) for i in piece for name in work.reads[i]
        }

    def enter(self, k: int) -> _Segment:
        return _Segment(self, k)

    def leave(self, k: int) -> None:
        """Let go of what no later segment reads."""
        ended = [name for name in self.kept.names if self.last[name] <= k]
        for name in ended:
            self.kept.drop(name)


class _Segment:
    """One run of nodes, loaded, with its weights."""

    def __init__(self, passage: _Passage, k: int) -> None:
        self.passage = passage
        self.k = k
        work = passage.work
        nodes = passage.pieces[k]
        inside = [name for i in nodes for name in made_by(work.nodes[i])]
        here = set(inside)
        read = dict.fromkeys(n for i in nodes for n in work.reads[i] if n not in here)
        self.carried = [n for n in inside if passage.last.get(n, k) > k]
        shown = [n for n in inside if n in work.wanted or passage.last.get(n, k) > k]
        fed = [n for n in read if n in work.weights and work.is_fed(n)]
        self.given = [n for n in read if n in work.inputs or n in work.makes]
        self.session: Session | None = None
        self.held: dict[str, Any] = {}
        if not shown:
            return
        graph = onnx.GraphProto(name=f"segment_{k}")
        graph.initializer.extend(
            tensor_proto(n, work.weights[n]) for n in read if n in work.weights and n not in fed
        )
        graph.node.extend(node_proto(work.constants[n]) for n in read if n in work.constants)
        graph.node.extend(node_proto(work.nodes[i]) for i in nodes)
        for name in fed:
            tensor = work.weights[name]
            graph.input.append(tensor_info(name, tensor.dtype, tensor.shape.numpy()))
        graph.input.extend(self._declared(name) for name in self.given)
        # The runtime knows the outputs' types better than a file that may have them wrong.
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)
        model = whole(work.model, graph)
        self.session = Session(model.SerializeToString(), "cpu", None, None)
        self.held = {n: self.session.value(n, numbers(work.weights[n])) for n in fed}

    def run(self, batch: int) -> Iterator[tuple[str, Any]]:
        """The wanted values of one batch, in execution order."""
        if self.session is None:
            return
        passage = self.passage
        values = {name: self.session.value(name, self._read(batch, name)) for name in self.given}
        carried = set(self.carried)
        for name, value in self.session.results(self.held | values):
            if name in carried:
                passage.kept.put(batch, name, value)
            if name in passage.work.wanted:
                yield name, value

    def close(self) -> None:
        """Free the weights and what only this segment still had to read."""
        self.session = None
        self.held = {}
        self.passage.leave(self.k)

    def _read(self, batch: int, name: str) -> Any:
        """What the segment reads of a batch: an input, which may have to be read from a file, or
        what an earlier segment made.
        """
        passage = self.passage
        if name in passage.work.inputs:
            return passage.feeds[batch][name]
        return passage.kept.get(batch, name)

    def _declared(self, name: str) -> onnx.ValueInfoProto:
        passage = self.passage
        value = passage.work.values[name]
        if name in passage.work.inputs:
            info: onnx.ValueInfoProto = ir.to_proto(value)
            return info
        # Not by the file, which may be wrong about it: by what came out, in all batches.
        return tensor_info(name, *passage.kept.kind(name))


class Kept:
    """Values between segments, by name and batch: in memory up to a limit, then in files."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        # By name and batch: an array, a _Filed, or what is neither a number nor an array.
        self.names: dict[str, dict[int, Any]] = {}
        self.stack = ExitStack()
        self.folder: Path | None = None
        self.numbers = itertools.count()

    def close(self) -> None:
        """Remove the files."""
        self.stack.close()

    def put(self, batch: int, name: str, value: Any) -> None:
        """Keep a copy: the runtime's own memory is freed in large blocks only."""
        if not isinstance(value, np.ndarray) or value.dtype == np.object_:
            self.names.setdefault(name, {})[batch] = value
        elif self.bytes + value.nbytes > self.limit:
            self._file(batch, name, value)
        else:
            self.names.setdefault(name, {})[batch] = np.array(value)
            self.bytes += value.nbytes

    def get(self, batch: int, name: str) -> Any:
        """What was kept; not to be changed."""
        value = self.names[name][batch]
        if isinstance(value, _Filed):
            return np.frombuffer(value.path.read_bytes(), value.dtype).reshape(value.shape)
        return value

    def drop(self, name: str) -> None:
        """Let go of a value, in all batches."""
        for value in self.names.pop(name).values():
            if isinstance(value, _Filed):
                value.path.unlink()
            elif isinstance(value, np.ndarray) and value.dtype != np.object_:
                self.bytes -= value.nbytes

    def kind(self, name: str) -> tuple[ir.DataType, list[int | None] | None]:
        """Element type and shape: None for a dimension, or the rank, that batches differ in."""
        found = list(self.names[name].values())
        dtype = ir.DataType.from_numpy(found[0].dtype)
        if len({len(value.shape) for value in found}) > 1:
            return dtype, None
        sizes = zip(*(value.shape for value in found), strict=True)
        return dtype, [s[0] if len(set(s)) == 1 else None for s in sizes]

    def _file(self, batch: int, name: str, value: Array) -> None:
        if self.folder is None:
            self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        stored = self.names.setdefault(name, {})
        path = self.folder / str(next(self.numbers))
        path.write_bytes(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        stored[batch] = _Filed(path, value.dtype, value.shape)


@dataclass(frozen=True)
class _Filed:
    """An array in a file."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _filled(model: ir.Model, feeds: Feeds) -> Feeds:
    """`feeds`, where an input with a default that one batch gives has a value in all of them."""
    stored = model.graph.initializers
    if not any(value.name in stored for value in model.graph.inputs):
        return feeds  # and none of them had to be read
    fed = {name: stored[name].const_value for feed in feeds for name in feed if name in stored}
    defaults = {name: numbers(tensor) for name, tensor in fed.items() if tensor is not None}
    if not defaults:
        return feeds
    every = feeds if isinstance(feeds, Batches) else Batches.of(feeds)
    return every.mapped(lambda feed: {**defaults, **feed})


def _checked(work: Work, feeds: Feeds) -> Feeds:
    """`feeds`, if each names the model's inputs; of `Batches` each is looked at when it is read."""

    def check(feed: Mapping[str, Any]) -> Mapping[str, Any]:
        missing, unknown = work.inputs.keys() - feed.keys(), feed.keys() - work.inputs.keys()
        if missing or unknown:
            raise UserError(wrong_names(missing, unknown, work.inputs))
        return feed

    if isinstance(feeds, Batches):
        return feeds.mapped(check)
    for feed in feeds:
        check(feed)
    return feeds


def _groups(batches: int, size: int) -> list[range]:
    """The batches that pass through all segments together."""
    step = max(size, 1)
    return [range(start, min(start + step, batches)) for start in range(0, batches, step)]


def _given(work: Work, feed: Mapping[str, Any], name: str) -> Any:
    """A wanted value that no node makes: an input or a constant."""
    if name in work.inputs:
        return feed[name]
    if name not in work.weights:
        raise UserError(f"no node, input or weight of the model is named {name!r}")
    return numbers(work.weights[name])


def _made(model: ir.Model) -> dict[str, ir.Value]:
    """What nodes compute, by name, in execution order."""
    nodes = (node for node in model.graph if not is_constant(node))
    return {value.name: value for node in nodes for value in node.outputs if value.name}
