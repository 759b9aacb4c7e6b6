"""Progress of a long run on stderr: one line with the stage, gone when the run is over."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

STAGES = {
    "load": "Loading the model",
    "inputs": "Preparing its inputs",
    "capture": "Capturing the graph",
    "read": "Reading the graph",
    "calibrate": "Running the FP32 model for ranges",
    "error per op": "Estimating the error per operator",
    "measure ops": "Measuring the error of each operator",
    "prove": "Proving bounds",
    "hazards": "Looking for hazards",
    "loss scale": "Looking at the gradients",
    "try plans": "Trying plans",
    "front": "Measuring the front of time and error",
    "repair": "Rewriting the model",
    "correct bias": "Measuring what layers are off on average",
    "load test": "Loading the converted model",
    "differences": "Comparing the results inside",
    "classify": "Classifying operators",
    "plan": "Planning types and casts",
    "apply": "Rewriting the graph",
    "export": "Exporting to ONNX",
    "parity": "Measuring parity",
    "write": "Writing files",
    "reference": "Running the reference",
    "candidate": "Running the candidate",
    "lint": "Linting",
}


class StageLine:
    """A progress line; called with the stage, steps done and steps in all (0: unknown).

    Silent where stderr is no terminal and when `quiet`. Use it as a context manager: leaving it
    erases the line. Another plan in one run is a further attempt and is shown as one.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, markup=False, highlight=False)
        self.shown = self.console.is_terminal and not quiet
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[steps]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=8,  # the machine has better things to do
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._plans = 0

    def __enter__(self) -> Self:
        if self.shown:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.shown:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `stage` are finished."""
        if not self.shown:
            return
        if stage != self._stage:
            self._begin(stage)
        if self._task is not None:
            steps = f"{done}/{total}" if total > 1 else ""
            self._progress.update(self._task, completed=done, total=total or None, steps=steps)

    def _begin(self, stage: str) -> None:
        self._stage = stage
        self._plans += stage == "plan"
        text = STAGES.get(stage, stage.capitalize())
        if self._plans > 1:
            text += f" (attempt {self._plans})"
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(text, total=None, steps="")
