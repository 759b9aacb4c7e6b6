"""What a report is about: the model, how it was found, and the data that it ran on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from ampconvert.findings import Finding
from ampconvert.report.layout import WARN
from ampconvert.report.words import dimensions, plural, randomness

if TYPE_CHECKING:
    from ampconvert.conversion import Analysis


@dataclass(frozen=True)
class Tensor:
    """One input tensor of the example."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]  # a name for a dimension without a size, where nothing ran


@dataclass(frozen=True)
class Subject:
    """A model as its owner knows it, and where its inputs came from."""

    target: str  # as typed: "examples/mlp.py"
    name: str  # "MLP"
    how: str  # "class MLP at mlp.py:14"
    tensors: tuple[Tensor, ...] = ()
    inputs_source: str = ""  # "example_inputs() in mlp.py"
    inputs_random: bool = False
    data_source: str = ""  # what ranges and parity were taken from
    data_random: bool = False
    batches: int = 1
    format: str = "torch"  # or "onnx"
    lint: tuple[Finding, ...] = ()  # what the linter says of its file

    @property
    def described(self) -> str:
        """The model in a line: "MLP: class MLP at mlp.py:14", "mlp.onnx, opset 17, 12 nodes"."""
        return f"{self.name}, {self.how}" if self.format == "onnx" else f"{self.name}: {self.how}"


def unnamed(found: Analysis) -> Subject:
    """What a graph says of its model, where nobody says more: its name and its inputs."""
    values = [found.graph.values[name] for name in found.graph.inputs]
    kind = "torch" if found.program is not None else "onnx"
    return Subject(
        target=found.name,
        name=found.name,
        how="from Python",
        tensors=tuple(Tensor(v.label or v.name, v.dtype, v.shape or ()) for v in values),
        format=kind,
    )


def source_facts(subject: Subject) -> Iterator[tuple[str, RenderableType]]:
    """Model, inputs and data, each with where it came from; what is random is called random."""
    yield "Model", Text(subject.described)
    shown = ", ".join(f"{t.name} {t.dtype} {dimensions(t.shape)}" for t in subject.tensors[:4])
    if len(subject.tensors) > 4:
        shown += f" and {len(subject.tensors) - 4} more"
    # What a guess is goes without saying twice: the tensors stand before it.
    origin = subject.inputs_source.partition(": ")[0]
    yield (
        "Inputs",
        Text.assemble(
            f"{shown or 'none'}; {origin}" if origin else shown or "none",
            (randomness(subject.inputs_random, origin), WARN),
        ),
    )
    if subject.batches > 1 or subject.data_source not in ("", subject.inputs_source):
        batches = plural(subject.batches, "batch", "batches")
        yield (
            "Data",
            f"{batches} like this one"
            if subject.data_random and subject.data_source == subject.inputs_source
            else f"{batches} from there"
            if subject.data_source == subject.inputs_source
            else Text.assemble(
                subject.data_source
                if str(subject.batches) in subject.data_source.split()
                else f"{batches}: {subject.data_source}",
                (randomness(subject.data_random, subject.data_source), WARN),
            ),
        )
