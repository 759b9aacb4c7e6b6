"""Rows on reading source code: ampconvert's linter beside TorchFix and ruff."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks.features.cells import Call, Feature, FromResult, Ran, Run, Section, UnmetError
from benchmarks.features.checks import all_of, says
from benchmarks.features.results import lint_seconds

TORCHFIX, RUFF = "TorchFix", "ruff"
RUFF_ALL = "ruff check --isolated --no-cache --select ALL --output-format concise"
TORCHFIX_ALL = "torchfix --select ALL"


def finding(name: str, code: str, line: int) -> Feature:
    """A mistake in mixed.py: a finding on its line, by a rule about it.

    A peer's finding counts on the same line if it speaks of the mistake, whatever its code.
    """
    ours = Run(("ampconvert lint mixed.py --format concise",), says(code), codes=(1,))
    peers = {
        TORCHFIX: Run((f"{TORCHFIX_ALL} mixed.py",), _speaks(line), codes=(0,)),
        RUFF: Run((f"{RUFF_ALL} mixed.py",), _speaks(line), codes=(1,)),
    }
    return Feature(name, ours, peers)


def _speaks(line: int) -> Callable[[Ran], str]:
    """A finding on that line which names autocast, a scaler, half precision or its range."""
    words = ("autocast", "scaler", "unscale", "float16", "half", "cuda.amp", "deprecat")

    def check(ran: Ran) -> str:
        lines = [x for x in ran.outs[-1].splitlines() if f"mixed.py:{line}:" in x]
        hits = [x for x in lines if any(word in x.lower() for word in words)]
        if not hits:
            other = ", ".join(x.split(": ", 1)[-1][:60] for x in lines)
            raise UnmetError(f"on that line: {other}" if lines else "nothing on that line")
        return hits[0][:120]

    return check


def _fixed(name: str, *words: str) -> Callable[[Ran], str]:
    def check(ran: Ran) -> str:
        text = (ran.folder / name).read_text(encoding="utf-8")
        missing = [word for word in words if word not in text]
        if missing:
            raise UnmetError(f"{name} does not have {missing[0]!r} afterwards")
        return f"{name} has {words[0]!r} afterwards"

    return check


def _sarif(ran: Ran) -> str:
    found = json.loads(ran.outs[-1])
    if found["version"] != "2.1.0" or not found["runs"][0]["results"]:
        raise UnmetError("no SARIF 2.1.0 with results")
    return f"SARIF 2.1.0, {len(found['runs'][0]['results'])} results"


def _count(ran: Ran) -> str:
    rules = json.loads(ran.outs[-1])
    if len(rules) < 100:
        raise UnmetError(f"{len(rules)} rules")
    return f"{len(rules)} rules"


def _only_precision(ran: Ran) -> str:
    from ampconvert.lint.catalogue import all_rules

    if ran.outs[-1].count("removed.py:"):
        raise UnmetError("it reports what has nothing to do with precision")
    return f"{len(all_rules())} rules, all about mixed precision"


def _whole(ran: Ran) -> str:
    return ran.out


def _last_word(ran: Ran) -> str:
    return ran.out.split()[-1]


LINT = Section(
    "Reading training code",
    (TORCHFIX, RUFF),
    (
        finding("Deprecated `torch.cuda.amp.autocast`", "AMP001", 12),
        finding("Deprecated `torch.cuda.amp.GradScaler`", "AMP002", 9),
        finding("Gradients clipped while they are scaled", "AMP204", 16),
        finding("A mask constant beyond FP16", "AMP401", 13),
        Feature(
            "Fixes in place",
            Run(
                ("ampconvert lint mixed.py --fix -q",),
                _fixed("mixed.py", "scaler.unscale_(optimizer)", "torch.amp"),
                codes=(1,),
            ),
            {
                TORCHFIX: Run(
                    ("torchfix --fix removed.py",), _fixed("removed.py", "weights_only=True")
                ),
                RUFF: Run(
                    ("ruff check --isolated --no-cache --fix notebook.ipynb",),
                    lambda ran: _without(ran, "import os"),
                ),
            },
            ("notebook.ipynb",),
        ),
        Feature(
            "Notebooks",
            Run(("ampconvert lint notebook.ipynb",), says("notebook.ipynb:cell 1:3"), codes=(1,)),
            {
                TORCHFIX: Run(("torchfix --select ALL notebook.ipynb",), says("notebook.ipynb:")),
                RUFF: Run(
                    ("ruff check --isolated --no-cache --output-format concise notebook.ipynb",),
                    says("notebook.ipynb:cell 1:"),
                    codes=(1,),
                ),
            },
            ("notebook.ipynb",),
        ),
        Feature(
            "SARIF",
            Run(("ampconvert lint mixed.py --format sarif",), _sarif, codes=(1,)),
            {
                TORCHFIX: Run(("torchfix --help",), says("sarif")),
                RUFF: Run(
                    ("ruff check --isolated --no-cache --output-format sarif notebook.ipynb",),
                    _sarif,
                    codes=(1,),
                ),
            },
            ("notebook.ipynb",),
        ),
        Feature(
            "A page for each rule, on the command line",
            Run(("ampconvert rule AMP204",), says("AMP204", "unscale_")),
            {
                TORCHFIX: Run(("torchfix --help",), says("Explain")),
                RUFF: Run(("ruff rule F401",), says("unused-import", "What it does")),
            },
        ),
        Feature(
            "An FP32 script rewritten for mixed precision",
            Run(
                ("ampconvert rewrite plain.py --write", "python plain.py"),
                all_of(_fixed("plain.py", "scaler.unscale_(optimizer)"), says("loss")),
            ),
            {
                TORCHFIX: Run(("torchfix --help",), says("rewrite")),
                RUFF: Run(("ruff --help",), says("rewrite")),
            },
        ),
        Feature(
            "Rules on other things than precision",
            Run(("ampconvert lint removed.py",), _only_precision, verdict="no"),
            {
                TORCHFIX: Run(("torchfix removed.py",), says("TOR001")),
                RUFF: Run(("ruff rule --all --output-format json",), _count),
            },
        ),
        Feature(
            "A language server for editors",
            Run(
                ("ampconvert lint --help",),
                lambda ran: _absent(ran, "server", "JSON from stdin is what editors get"),
                verdict="no",
            ),
            {
                TORCHFIX: Run(("torchfix --help",), says("server")),
                RUFF: Run(("ruff server --help",), says("Run the language server")),
            },
        ),
        Feature(
            "Version of the tool",
            Call("maturity"),
            {
                TORCHFIX: Run(("torchfix --version",), _whole, figure=_last_word),
                RUFF: Run(("ruff --version",), _whole, figure=_last_word),
            },
        ),
        Feature(
            "CPU seconds on a large package",
            FromResult(lint_seconds),
            {TORCHFIX: FromResult(lint_seconds), RUFF: FromResult(lint_seconds)},
        ),
    ),
)


def _without(ran: Ran, word: str) -> str:
    text = (ran.folder / "notebook.ipynb").read_text(encoding="utf-8")
    if word in text:
        raise UnmetError(f"{word!r} is there still")
    return f"takes {word!r} out, by a rule of its own"


def _absent(ran: Ran, word: str, instead: str) -> str:
    if word in ran.out:
        raise UnmetError(f"it does speak of a {word}")
    return instead
