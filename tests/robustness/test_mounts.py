"""Disks that are full, and disks that are read-only: real ones, where this user may mount them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.robustness.command import ended
from tests.text_graphs import model_of_text

NET = (
    "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        self.fc = torch.nn.Linear(64, 64)\n"
    "    def forward(self, x):\n        return self.fc(x)\n"
)
TRAIN = (
    "import torch\nfrom torch import nn\n\nmodel = nn.Linear(4, 2)\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "for x, y in [(torch.randn(8, 4), torch.randn(8, 2))]:\n    optimizer.zero_grad()\n"
    "    loss = nn.functional.mse_loss(model(x), y)\n    loss.backward()\n    optimizer.step()\n"
)
OLD = "from torch.cuda.amp import autocast\n\nwith autocast():\n    pass\n" + "# more\n" * 700

Disk = Callable[[int], Path]


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    tool = shutil.which("mount")
    if tool is None:
        pytest.skip("there is no `mount` here")
    made = subprocess.run(
        [tool, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"this user may not mount anything: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes a disk of so many kilobytes, gone after the test."""
    with ExitStack() as disks:
        yield lambda kilobytes: disks.enter_context(mounted(tmp_path / "disk", kilobytes))


def fill(folder: Path) -> None:
    """Write a file that leaves no room."""
    with suppress(OSError), (folder / "other").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)


def read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A model with 64 kB of weights."""
    model = model_of_text("net (float[2,128] x) => (float[2,128] y) { y = MatMul(x, w) }")
    weight = np.random.default_rng(0).standard_normal((128, 128), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kilobytes", [4, 8, 20, 32, 36])
def test_a_full_disk_leaves_no_part_of_a_file(disk: Disk, net: Path, kilobytes: int) -> None:
    place = disk(kilobytes)
    done = ended([str(net / "net.onnx"), "-o", str(place)])
    assert done.code == 2 and "No space left on device" in done.message
    left = names(place)
    assert left in ([], ["net.fp16.onnx"])
    for name in left:  # the model was written whole before there was no room for the plan
        onnx.checker.check_model(onnx.load(place / name), full_check=True)


@pytest.mark.parametrize("kilobytes", [4, 16, 24])
def test_a_full_disk_leaves_no_part_of_a_program(disk: Disk, net: Path, kilobytes: int) -> None:
    place = disk(kilobytes)
    done = ended([str(net / "net.py"), "-o", str(place), "--input", "x:2x64"])
    assert done.code == 2 and "No space left on device" in done.message
    assert not [name for name in names(place) if name.endswith(".part")]


def test_files_that_were_there_stay_when_the_disk_is_full(disk: Disk, net: Path) -> None:
    place = disk(60)
    assert ended([str(net / "net.onnx"), "-o", str(place), "-q"]).code == 0
    before = {name: (place / name).read_bytes() for name in names(place)}
    done = ended([str(net / "net.onnx"), "-o", str(place), "--force"])
    assert done.code == 2 and "No space left on device" in done.message
    assert {name: (place / name).read_bytes() for name in names(place)} == before


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_a_report_that_does_not_fit_is_not_there(disk: Disk, net: Path, ending: str) -> None:
    assert ended([str(net / "net.onnx"), "-o", str(net), "-q"]).code == 0
    place = disk(4)
    fill(place)
    plan = str(net / "net.fp16.plan.json")
    done = ended(["report", plan, "-o", str(place / f"report.{ending}")])
    assert done.code == 2 and "No space left on device" in done.message
    assert names(place) == ["other"]


@pytest.mark.parametrize("words", [["lint", "--fix", "--no-cache"], ["rewrite", "--write"]])
def test_sources_stay_whole_when_the_disk_is_full(disk: Disk, words: list[str]) -> None:
    place = disk(32)
    source = place / "train.py"
    text = OLD if words[0] == "lint" else TRAIN + "# more\n" * 500
    source.write_text(text)
    fill(place)
    done = ended([words[0], str(source), *words[1:]])
    assert done.code == 2 and "No space left on device" in done.message
    assert source.read_text() == text and names(place) == ["other", "train.py"]


@pytest.mark.parametrize("model", ["net.onnx", "net.py"])
def test_a_read_only_disk_is_refused(disk: Disk, net: Path, model: str) -> None:
    place = disk(64)
    read_only(place)
    done = ended([str(net / model), "-o", str(place), "--input", "x:2x64"])
    assert done.code == 2 and str(place) in done.message and "read-only" in done.message.lower()
    done = ended(["analyze", str(net / "net.onnx"), "--report", str(place / "r.html")])
    assert done.code == 2 and str(place) in done.message


def test_sources_on_a_read_only_disk_are_read_and_not_mended(disk: Disk) -> None:
    place = disk(64)
    (place / "train.py").write_text(OLD)
    read_only(place)
    assert ended(["lint", str(place / "train.py"), "-q"]).code == 1
    done = ended(["lint", str(place / "train.py"), "--fix", "-q"])
    assert done.code == 2 and "train.py" in done.message and "ead-only" in done.message
