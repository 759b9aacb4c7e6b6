"""A long fuzzing run, outside of the test suite.

    python -m tests.robustness.fuzz --examples 2000            # every target, by hypothesis
    python -m tests.robustness.fuzz --examples 2000 --target onnx --seed 7
    python -m tests.robustness.fuzz --target rules --atheris 60 # seconds, coverage-guided

Each target runs in a process of its own, which is ended after --limit seconds: a crash of native
code and a hang are findings too, and the input that was read last stays in --keep. What atheris
finds it needs a Python that it has a wheel for, in a virtual environment of its own:
`pip install atheris hypothesis` beside the project's dependencies. An input that broke something
becomes a line of tests/robustness/regressions.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.robustness.mutations import damaged
from tests.robustness.targets import TARGETS, Target


def main() -> int:
    options = _options()
    if options.atheris:
        _with_atheris(TARGETS[options.target], options.atheris)
    if options.here:
        _examples(options.target, options.examples, options.seed, options.keep)
        return 0
    failed = []
    print(f"{'target':<20} {'examples':>8} {'refused':>8} {'seconds':>8}")
    for name in [options.target] if options.target else TARGETS:
        words = ["--here", "--target", name, "--examples", str(options.examples)]
        words += ["--seed", str(options.seed), "--keep", str(options.keep)]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.robustness.fuzz", *words],
                capture_output=True, text=True, timeout=options.limit,
            )  # fmt: skip
            told, code = done.stdout.strip(), done.returncode
            errors = done.stderr
        except subprocess.TimeoutExpired:
            told, code, errors = "", 1, f"did not end in {options.limit} s"
        counts = told.splitlines()[-1].split() if told and not code else ["-", "-"]
        print(f"{name:<20} {counts[0]:>8} {counts[1]:>8} {time.perf_counter() - start:>8.1f}")
        if code:
            failed.append(name)
            print(errors[-3000:], f"the input: {options.keep}/{name}", sep="\n")
    return 1 if failed else 0


def _examples(name: str, count: int, number: int, keep: Path) -> None:
    """Read `count` damaged files, and print how many were read and how many refused."""
    target = TARGETS[name]
    keep.mkdir(parents=True, exist_ok=True)
    tally = [0, 0]

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(damaged(target.seeds()))
    def read(data: bytes) -> None:
        (keep / name).write_bytes(data)
        tally[0] += 1
        tally[1] += bool(target.survives(data))

    read()
    print(*tally)


def _with_atheris(target: Target, seconds: int) -> None:
    import atheris  # type: ignore[import-not-found]

    for data in target.seeds():  # import all that a sound file needs
        target.survives(data)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}"], target.survives)
    atheris.Fuzz()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Feed damaged files to every reader.")
    parser.add_argument("--target", choices=list(TARGETS))
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=900, help="seconds for one target")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-last-inputs"))
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.atheris and not options.target:
        parser.error("--atheris needs --target")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
