"""Runs what the feature table claims: ampconvert's commands as they stand, and peers' probes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import ROOT
from benchmarks.features.cells import (
    FAILED,
    NOT_RUN,
    UNCLEAR,
    Call,
    Converts,
    Documented,
    Feature,
    Found,
    FromResult,
    Lacks,
    PartlyMetError,
    Ran,
    Run,
    UnmetError,
)
from benchmarks.features.models import MODELS, build

SCRIPTS = Path(__file__).parent / "scripts"
LIMIT_S = 400.0
FIRST_LINE = 200  # characters of a message that are kept as evidence
OURS = "ampconvert"


@dataclass(frozen=True)
class Places:
    """Where things are: scratch folders, the Python of each converter, the folder of linters."""

    work: Path
    pythons: Mapping[str, Path]
    linters: Path

    def python(self, peer: str) -> Path | None:
        """The interpreter that has the peer, or None where there is none."""
        path = self.pythons.get(peer)
        return path if path is not None and path.exists() else None


def ours(feature: Feature, places: Places) -> Found:
    """Run ampconvert's commands for one feature, in a fresh folder with the models it needs."""
    cell = feature.ours
    if isinstance(cell, Run):
        folder = places.work / "ours" / slug(feature.name)
        return _run(cell, feature.models, folder, places, failing=FAILED)
    if isinstance(cell, FromResult):
        return _from_result(cell, OURS)
    work = places.work / "ours"
    work.mkdir(parents=True, exist_ok=True)
    task = {"id": 0, "call": cell.name, **cell.options}
    answer = _asked(Path(sys.executable), OURS, [task], "", work)[0]
    return _judged(cell, answer, work, work)


def peer_cells(features: Sequence[Feature], peer: str, places: Places) -> dict[str, Found]:
    """The peer's answer to every feature that asks it, by the feature's name."""
    answers: dict[str, Found] = {}
    asked = [(f, f.peers[peer]) for f in features if peer in f.peers]
    programs = [(f, cell) for f, cell in asked if isinstance(cell, Converts | Call | Lacks)]
    answers |= _converters(programs, peer, places)
    for feature, cell in asked:
        if isinstance(cell, Run):
            folder = places.work / slug(peer) / slug(feature.name)
            answers[feature.name] = _run(cell, feature.models, folder, places, failing="no")
        elif isinstance(cell, Documented):
            answers[feature.name] = Found(cell.verdict, cell.says, "documentation", cell.link)
        elif isinstance(cell, FromResult):
            answers[feature.name] = _from_result(cell, peer)
    return answers


def slug(name: str) -> str:
    """A feature's or a peer's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _from_result(cell: FromResult, tool: str) -> Found:
    verdict, detail, path = cell.read(tool)
    return Found(verdict, detail, "result file", path)


def _run(cell: Run, models: Iterable[str], folder: Path, places: Places, *, failing: str) -> Found:
    """Run the commands of a cell; `failing` is the verdict where its check does not hold."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in models:
        build(name, folder)
    shown = "; ".join(cell.commands)
    codes, outs, errors = [], [], []
    for command in cell.commands:
        words, environment = _parsed(command, places)
        if words is None:
            return Found(NOT_RUN, f"{command.split()[0]} is not installed here", "not run", shown)
        try:
            done = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True,
                timeout=LIMIT_S, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Found(failing, f"over {LIMIT_S:.0f} s: {command}", "command", shown)
        codes.append(done.returncode)
        outs.append(done.stdout)
        errors.append(done.stderr)
    ran = Ran(folder, tuple(codes), tuple(outs), tuple(errors))
    try:
        _same_codes(cell, ran)
        detail = cell.check(ran)
        verdict = cell.figure(ran) if cell.figure is not None else str(cell.verdict)
    except Exception as error:  # whatever is wrong with what they wrote is the evidence
        detail, verdict = _first_line(error), failing
    (folder / "outputs.json").write_text(json.dumps([codes, outs, errors]), encoding="utf-8")
    if folder.stat().st_size and any(p.stat().st_size > 1e9 for p in folder.iterdir()):
        shutil.rmtree(folder)  # gigabytes of weights are not worth keeping
    return Found(verdict, detail, "command", shown)


def _same_codes(cell: Run, ran: Ran) -> None:
    """Raise UnmetError for the first command with another exit code than was wanted."""
    for command, wanted, code, error in zip(
        cell.commands, cell.wanted, ran.codes, ran.errors, strict=True
    ):
        if code != wanted:
            last = (error.strip().splitlines() or [""])[-1]
            raise UnmetError(f"`{command}` exits with {code}, not {wanted}: {last}")


def _parsed(command: str, places: Places) -> tuple[list[str] | None, dict[str, str]]:
    """A command's words with its program found, and its environment; no words without a program."""
    words = shlex.split(command)
    environment = os.environ | {
        "COLUMNS": "120", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2",
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    # The checkout that this benchmark is of, whatever is installed beside it.
    path = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = f"{path}{os.pathsep if path else ''}{ROOT}"
    programs = {
        OURS: [sys.executable, "-m", "ampconvert"],
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }
    if words[0] in programs:
        return programs[words[0]] + words[1:], environment
    linter = (places.linters / words[0]).absolute()
    return ([str(linter), *words[1:]] if linter.exists() else None), environment


def _converters(
    asked: Sequence[tuple[Feature, Converts | Call | Lacks]], peer: str, places: Places
) -> dict[str, Found]:
    """Put all tasks of one peer to processes of its environment, and judge what they wrote."""
    python = places.python(peer)
    if python is None:
        return {
            f.name: Found(NOT_RUN, f"{peer} is not installed here", "not run") for f, _ in asked
        }
    sources, targets = places.work / "models", places.work / slug(peer)
    targets.mkdir(parents=True, exist_ok=True)
    tasks: dict[str, list[dict[str, Any]]] = {}
    for i, (_, cell) in enumerate(asked):
        task: dict[str, Any] = {"id": i}
        if isinstance(cell, Converts):
            task |= _task(cell, sources, targets / f"{i}.onnx")
        elif isinstance(cell, Call):
            task |= {"call": cell.name, **cell.options}
        else:
            task |= {"call": "lacks", "pattern": cell.pattern}
        tasks.setdefault(getattr(cell, "blocked", ""), []).append(task)
    answers: dict[int, dict[str, Any]] = {}
    for block, some in tasks.items():
        answers |= _asked(python, peer, some, block, targets)
    return {
        feature.name: _judged(cell, answers[i], sources, targets / f"{i}.onnx")
        for i, (feature, cell) in enumerate(asked)
    }


def _task(cell: Converts, sources: Path, target: Path) -> dict[str, Any]:
    sources.mkdir(parents=True, exist_ok=True)
    build(cell.model, sources)
    target.unlink(missing_ok=True)
    data = {"inputs": str(sources / f"{cell.model}-data")} if cell.model in MODELS else {}
    source = str(sources / f"{cell.model}.onnx")
    return {"call": cell.call, "source": source, "target": str(target), **data, **cell.options}


def _asked(
    python: Path, peer: str, tasks: Sequence[dict[str, Any]], block: str, folder: Path
) -> dict[int, dict[str, Any]]:
    """Each task's answer by its id; one that ends the process is blamed, and the rest go on."""
    environment = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "2"}
    if block:
        environment["PYTHONPATH"] = str(SCRIPTS / f"no_{block}")
    answers: dict[int, dict[str, Any]] = {}
    while waiting := [task for task in tasks if task["id"] not in answers]:
        file = folder / "tasks.json"
        file.write_text(json.dumps(waiting), encoding="utf-8")
        program = str(Path(__file__).parent / "peer.py")
        try:
            done = subprocess.run(
                [str(python.absolute()), program, peer, str(file)], env=environment, cwd=folder,
                capture_output=True, text=True, timeout=LIMIT_S * 2, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            out, why = done.stdout, f"the process ended with exit code {done.returncode}"
        except subprocess.TimeoutExpired as late:
            out, why = _text(late.stdout), f"over {LIMIT_S * 2:.0f} s"
        answers |= {answer["id"]: answer for answer in _lines(out)}
        left = [task for task in waiting if task["id"] not in answers]
        if left:
            answers[left[0]["id"]] = {"error": why, "log": ""}
    return answers


def _lines(out: str) -> Iterator[dict[str, Any]]:
    for line in out.splitlines():
        if line.startswith('{"id"'):
            yield json.loads(line)


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _judged(
    cell: Converts | Call | Lacks, answer: dict[str, Any], sources: Path, target: Path
) -> Found:
    """What a peer's answer comes to."""
    error = answer.get("error")
    if isinstance(cell, Lacks):
        if error or answer["hits"]:
            return Found(UNCLEAR, error or answer["first"], "source", cell.pattern)
        said = f"no line of {answer['where']} speaks of it"
        return Found("no", said, "source", cell.pattern)
    if isinstance(cell, Call):
        if error:
            return Found(UNCLEAR, error, "probe", cell.name)
        return Found(answer.get("verdict", "yes"), answer["detail"], "probe", cell.name)
    shown = _shown(cell)
    if error:
        return Found("no", error, "converted", shown)
    try:
        return Found("yes", cell.check(sources / f"{cell.model}.onnx", target, answer["log"]),
                     "converted", shown)  # fmt: skip
    except PartlyMetError as partly:
        return Found("part", _first_line(partly), "converted", shown)
    except Exception as wrong:
        return Found("no", _first_line(wrong), "converted", shown)


def _shown(cell: Converts) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in cell.options.items())
    return f"{cell.call}({cell.model}.onnx{', ' if options else ''}{options})"


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:FIRST_LINE]
    return text if isinstance(error, UnmetError) else f"{type(error).__name__}: {text}"
