"""Workers that share the calibration: the same result as one, and no hang when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampconvert import cli, distributed
from ampconvert.distributed import Place, Released, Workers, calibrated, go_on_alone, merged
from ampconvert.errors import UserError
from ampconvert.ranges.calibrate import Range, array_range

ROOT = Path(__file__).parent.parent
NET = """
import torch
from torch import nn

print("printed by the model's file")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(8, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))
"""
GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,8] x) => (float[N,2] p) <float[8,2] w = {1,-2,3,1,-1,2,5,-4,1,1,2,-3,0,1,-2,3}> {
  h = MatMul(x, w)  p = Softmax(h)
}
"""


class Fake:
    """Workers in threads of one process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.given: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)

    def run(self, work: Callable[[], Any]) -> list[Any]:
        """What each worker's `work` gives or raises."""
        found: list[Any] = [None] * self.size

        def one(rank: int) -> None:
            workers = Workers(Place(rank, self.size), lambda own: self._exchange(rank, own))
            distributed._workers.set(workers)  # a thread's own context
            try:
                try:
                    found[rank] = work()
                except Exception as error:  # as `joined` does
                    workers.fail(error)
            except (Exception, Released) as error:
                found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def _exchange(self, rank: int, own: Any) -> Sequence[Any]:
        self.given[rank] = own
        self.barrier.wait(10)
        found = list(self.given)
        self.barrier.wait(10)
        return found


def see(batches: Sequence[float], tell: Callable[[int], None]) -> distributed.Seen:
    """Calibration of numbers: NaN is an error that names its batch's number."""
    ranges: dict[str, Range] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for i, number in enumerate(batches):
        if number != number:
            raise UserError(f"NaN, {i} batches after the first")
        found = array_range(np.full(3, number, np.float32), "float16")
        ranges["v"] = ranges.get("v", Range()).merge(found)
        shapes.setdefault("v", (int(number * 0) + len(batches),))
        tell(i + 1)
    return ranges, shapes


def told(*_: int) -> None:
    """Progress that nobody hears."""


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=9), st.integers(2, 4))
def test_workers_see_what_one_process_sees(numbers: list[float], size: int) -> None:
    alone = calibrated(numbers, see, told)
    for ranges, _ in Fake(size).run(lambda: calibrated(numbers, see, told)):
        assert repr(ranges) == repr(alone[0])


def test_the_first_part_gives_the_shapes() -> None:
    parts: list[distributed.Seen] = [({}, {"a": (1,)}), ({}, {"a": (2,), "b": (3,)})]
    assert merged(parts) == ({}, {"a": (1,), "b": (3,)})


def test_the_first_worker_goes_on_alone() -> None:
    def work() -> int:
        calibrated([1.0, 2.0], see, told)
        go_on_alone()
        go_on_alone()
        return 7

    first, *others = Fake(3).run(work)
    assert first == 7 and all(isinstance(other, Released) for other in others)
    go_on_alone()  # without others nothing happens


def test_the_earliest_error_is_the_one_that_is_told() -> None:
    """As one process would have met it: batch 3 before 4, though worker 1 has more done by then."""
    numbers = [0.0, 1.0, 2.0, float("nan"), float("nan"), 5.0]
    first, *others = Fake(3).run(lambda: calibrated(numbers, see, told))
    assert isinstance(first, UserError) and str(first) == "NaN, 1 batches after the first"
    assert all(isinstance(other, Released) for other in others)
    numbers = [0.0, float("nan"), 2.0, float("nan")]
    first, *others = Fake(2).run(lambda: calibrated(numbers, see, told))
    assert str(first) == "NaN, 0 batches after the first" and isinstance(others[0], Released)


def test_an_error_before_the_data_ends_all() -> None:
    def work() -> None:
        workers = distributed._workers.get()
        assert workers is not None
        if workers.place.rank == 1:
            raise OSError(5, "disk on fire", "w.bin")
        calibrated([1.0, 2.0, 3.0], see, told)

    first, *others = Fake(3).run(work)
    assert isinstance(first, OSError) and first.filename == "w.bin"
    assert all(isinstance(other, Released) for other in others)


def test_an_error_after_the_others_left_is_the_first_workers_own() -> None:
    def work() -> None:
        go_on_alone()
        raise UserError("no room")

    first, *others = Fake(2).run(work)
    assert str(first) == "no room" and isinstance(others[0], Released)


class Stubborn(Exception):
    """An error that does not survive being sent."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    def work() -> None:
        workers = distributed._workers.get()
        assert workers is not None
        if workers.place.rank == 1:
            raise Stubborn(1, 2)
        workers.gather(None)

    first, _ = Fake(2).run(work)
    assert isinstance(first, RuntimeError) and str(first) == "Stubborn: 1 and 2"


def test_workers_with_other_data_are_refused() -> None:
    def work() -> None:
        workers = distributed._workers.get()
        assert workers is not None
        calibrated([0.0] * (4 - workers.place.rank), see, told)

    first, other = Fake(2).run(work)
    assert "4, 3 batches by rank" in str(first) and isinstance(other, Released)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "x", "RANK": "0"}, "WORLD_SIZE is 'x'"),
        ({"WORLD_SIZE": "2"}, "RANK ''"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "start workers with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT not set"),
    ],
)
def test_an_environment_that_makes_no_sense(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught, distributed.joined(environment):
        pass
    assert said in str(caught.value)


def test_without_torch_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    environment = {"WORLD_SIZE": "2", "RANK": "0"}
    with pytest.raises(UserError, match="pip install torch"), distributed.joined(environment):
        pass


def test_one_process_meets_nobody() -> None:
    code = (
        "import sys\nfrom ampconvert import cli\ncli.main(['rules', 'softmax', '-q'])\n"
        "from ampconvert.distributed import joined\nwith joined(): pass\n"
        "print([m for m in sys.modules if m.startswith('torch')])"
    )
    for size in ({}, {"WORLD_SIZE": "1", "RANK": "0"}):
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
            env={**plain_environment(), **size},
        )  # fmt: skip
        assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("words", ["rules", "analyze", "--help", "verify a.onnx b.onnx", "rulse x"])
def test_other_workers_are_silent_about_what_the_first_one_says(
    words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert cli.main(words.split()) == 0
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A PyTorch and an ONNX model, and seven files of data."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    onnx.save(onnx.parser.parse_model(GRAPH), tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    random = np.random.default_rng(0)
    for i in range(7):
        numbers = random.standard_normal((3, 8)) * 10.0 ** random.integers(-9, 3)
        np.savez(tmp_path / f"data/{i}.npz", x=numbers.astype(np.float32))
    return tmp_path


def plain_environment() -> dict[str, str]:
    """Ours, without what a launcher may have set; one thread, so that sums have one order."""
    launcher = (
        "WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(
    folder: Path, words: str, workers: int = 0, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """`python -m ampconvert WORDS` in `folder`, under torchrun where there are workers."""
    launched = f"-m torch.distributed.run --standalone --nproc-per-node {workers} " * bool(workers)
    return subprocess.run(
        [sys.executable, *launched.split(), "-m", "ampconvert", *words.split()],
        capture_output=True, text=True, cwd=folder, env=plain_environment(), timeout=timeout,
    )  # fmt: skip


def report(found: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The printed JSON without the seconds, which are never the same."""
    assert found.returncode == 0, found.stderr
    data: dict[str, Any] = json.loads(found.stdout)
    return {key: value for key, value in data.items() if "seconds" not in key}


def test_torchrun_gives_what_one_process_gives(folder: Path) -> None:
    words = "analyze net.onnx --data data --json"
    shared = run(folder, words, 2)
    assert report(shared) == report(run(folder, words))
    assert "ampconvert" not in shared.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", ["net.py", "net.onnx"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_torchrun_gives_the_same_for_all_models_and_types(
    folder: Path, model: str, dtype: str
) -> None:
    words = f"analyze {model} --data data --json --dtype {dtype}"
    shared = run(folder, words, 3)
    assert report(shared) == report(run(folder, words))
    assert shared.stderr.count("printed by the model's file") == (model == "net.py")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["net.py", "net.onnx"])
def test_an_error_on_one_worker_is_said_once_and_ends_all(folder: Path, model: str) -> None:
    np.savez(folder / "data/3.npz", x=np.full((3, 8), np.nan, np.float32))
    found = run(folder, f"analyze {model} --data data", 2)
    assert found.returncode != 0 and found.stdout == ""
    assert found.stderr.count("ampconvert: error: data/3.npz: ") == 1, found.stderr
    assert "exitcode  : 2" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", ["net.py", "net.onnx", "net.onnx --no-verify"])
def test_one_worker_converts(folder: Path, words: str) -> None:
    data = "" if "--no-verify" in words else "--data data"
    found = run(folder, f"{words} {data} -o out --json", 2)
    shared = report(found)
    assert sorted(p.name for p in (folder / "out").iterdir()) == sorted(
        Path(file["path"]).name for file in shared["files"].values()
    )
    assert shared["ok"] is (True if data else None)
