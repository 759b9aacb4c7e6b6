"""Files are whole or not there: killed runs, full disks, folders that can't be written, links."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import onnx
import pytest

from ampconvert import temporary
from ampconvert.files import refuse_overwrite, write_text
from tests.robustness.command import ended
from tests.robustness.targets import MODEL, parsed

posix = pytest.mark.skipif(os.name == "nt", reason="signals, forks and limits of POSIX")
NET = (
    "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        self.fc = torch.nn.Linear(8, 8)\n"
    "    def forward(self, x):\n        return self.fc(x)\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(parsed(MODEL).SerializeToString())


# One process that forks: each child writes the model and the plan, and dies by SIGKILL at its n-th
# call that touches the disk; the last one gets through. Weights stand in a file of their own.
KILLED = """
import os, signal, sys
from pathlib import Path
from ampconvert import pipeline_onnx
from ampconvert.files import write_plan
from ampconvert.frontends import onnx_save
onnx_save.EXTERNAL_FROM = 0
onnx_save._SMALL = 8
done = pipeline_onnx.convert("m.onnx", verify=False)
out, old = Path("out"), sys.argv[1] == "old"
out.mkdir()

def write():
    onnx_save.save(done.onnx, out / "m.onnx")
    write_plan(done.plan, out / "m.plan.json")

if old:
    write()
    done.onnx.graph.doc_string = "new"
whole = False
calls = 0
while not whole:
    calls += 1
    child = os.fork()
    if child == 0:
        left = [calls]
        def hook(event, args):
            if event in ("open", "os.rename", "os.remove", "os.scandir"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        write()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    whole = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    print(calls, sorted(os.listdir(out)), flush=True)
    sys.stdout.write(sys.stdin.readline())  # the test looks at the folder now
"""


@posix
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_killed_at_every_call_that_touches_the_disk(tmp_path: Path, before: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, before],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        looks = 0
        for line in process.stdout:
            if not line.strip():
                continue
            looks += 1
            names = {path.name for path in Path("out").iterdir() if not path.name.endswith(".part")}
            assert names <= {"m.onnx", "m.onnx.data", "m.plan.json"}
            if "m.onnx" in names:
                onnx.load(Path("out/m.onnx"))  # with its weights, and of their length
            if "m.plan.json" in names:
                json.loads(Path("out/m.plan.json").read_text())
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.wait(60) == 0
    assert looks > 6
    assert onnx.load(Path("out/m.onnx")).graph.doc_string == ("new" if before == "old" else "")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("model", ["m.onnx", "net.py"])
def test_killed_at_random_times(model: str) -> None:
    Path("net.py").write_text(NET + "def example_inputs():\n    return (torch.ones(2, 8),)\n")
    words = [sys.executable, "-m", "ampconvert", "convert", model, "-q"]
    start = time.perf_counter()
    subprocess.run([*words, "-o", "old"], env=_environment(), check=True)
    whole = time.perf_counter() - start
    rng = random.Random(3)
    for turn in range(21):
        out, old = Path(f"out{turn}"), {}
        if turn % 2:
            out.mkdir()
            for path in Path("old").iterdir():
                (out / path.name).write_bytes(path.read_bytes())
            old = {path.name: path.read_bytes() for path in out.iterdir()}
        process = subprocess.Popen(
            [*words, "-o", str(out), "--force", "--dtype", "fp16"],
            stderr=subprocess.PIPE, text=True, env=_environment(),
        )  # fmt: skip
        time.sleep(rng.uniform(0.0 if turn % 3 else 0.8 * whole, whole))
        sent = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[turn % 3]
        process.send_signal(sent)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, -sent, 128 + sent), err
        assert "a bug in ampconvert" not in err
        for path in out.iterdir() if out.exists() else ():
            left = path.name.endswith(".part")
            assert not (left and sent != signal.SIGKILL), path
            if not left and old.get(path.name) != path.read_bytes():
                _load(path)
    subprocess.run([*words, "-o", "out1", "--force"], env=_environment(), check=True)


@posix
def test_sigterm_ends_a_run_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from ampconvert import cli

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "ampconvert.pipeline_onnx.write_plan", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert cli.main(["convert", "m.onnx", "--no-verify", "-q"]) == 143
    assert not list(Path().glob("*.part"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_leftovers_are_swept_once_they_are_old(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    names = {f"a.txt.{process.pid}.part": True, f"a.txt.{os.getppid()}.part": False,
             f"b.txt.{process.pid}.part": False, "a.txt.x.part": False,
             f"a.txt.{'9' * 30}.part": True}  # fmt: skip
    for name in names:
        Path(name).write_text("half")
        os.utime(name, (0, 0))
    young = Path(f"a.txt.{process.pid + 1}.part")
    young.write_text("half")
    write_text("whole", Path("a.txt"))
    gone = {name for name in names if not Path(name).exists()}
    assert gone == {name for name, swept in names.items() if swept}
    assert young.exists() and Path("a.txt").read_text() == "whole"


def test_two_runs_do_not_share_a_temporary_name(monkeypatch: pytest.MonkeyPatch) -> None:
    first = temporary.part_of(Path("a"))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert temporary.part_of(Path("a")) != first


def test_two_runs_at_once_leave_one_whole_file() -> None:
    words = [sys.executable, "-m", "ampconvert", "convert", "m.onnx", "--no-verify", "-q"]
    runs = [
        subprocess.Popen([*words, "-o", "out.onnx", "--force", "--dtype", dtype],
                         env=_environment())
        for dtype in ("fp16", "bf16")
    ]  # fmt: skip
    assert [run.wait(120) for run in runs] == [0, 0]
    onnx.checker.check_model(onnx.load("out.onnx"))
    assert json.loads(Path("out.plan.json").read_text())["schema"] == 1
    assert not list(Path().glob("*.part"))


@posix
def test_a_full_disk_leaves_nothing() -> None:
    """A limit on the size of files stands for it: writes fail in the middle in the same way."""
    import resource

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    run = subprocess.run(
        [sys.executable, "-m", "ampconvert", "convert", "m.onnx", "--no-verify", "-o", "out"],
        capture_output=True, text=True, preexec_fn=small, env=_environment(),
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr == "ampconvert: error: out/m.fp16.onnx: File too large\n"
    assert list(Path("out").iterdir()) == []


def test_links_are_files_that_exist() -> None:
    for target in ("nowhere", "m.fp16.onnx"):
        Path("m.fp16.onnx").unlink(missing_ok=True)
        Path("m.fp16.onnx").symlink_to(target)
        done = ended(["convert", "m.onnx", "--no-verify"])
        assert done.code == 2 and "exists already" in done.message
    assert ended(["convert", "m.onnx", "--no-verify", "--force", "-q"]).code == 0
    assert not Path("m.fp16.onnx").is_symlink()


def test_folders_in_the_way_are_told_of_before_any_work() -> None:
    Path("m.fp16.plan.json").mkdir()
    for more in ([], ["--force"]):
        done = ended(["convert", "m.onnx", *more])
        assert done.code == 2 and "m.fp16.plan.json: this is a folder" in done.message
    assert not Path("m.fp16.onnx").exists()
    refuse_overwrite([Path("new")], overwrite=False)


def test_a_folder_that_goes_away_while_running(monkeypatch: pytest.MonkeyPatch) -> None:
    from ampconvert.frontends import onnx_save

    Path("out").mkdir()
    real = onnx_save.sweep
    monkeypatch.setattr(onnx_save, "sweep", lambda path: (real(path), path.parent.rmdir()))
    done = ended(["convert", "m.onnx", "--no-verify", "-o", "out"])
    assert (done.code, done.message) == (2, "out/m.fp16.onnx: No such file or directory")


def test_a_model_that_is_cut_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from ampconvert import pipeline_onnx
    from ampconvert.frontends import onnx_load, onnx_wire

    monkeypatch.setattr(onnx_load, "_READ_WHOLE", 0)
    monkeypatch.setattr(onnx_wire, "LARGE", 8)
    whole = parsed(MODEL)
    whole.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(whole.graph.initializer[0]), "w")
    )
    Path("m.onnx").write_bytes(whole.SerializeToString())
    real = pipeline_onnx.convert

    def cut(*given: object, **more: object) -> object:
        Path("m.onnx").write_bytes(b"\x08\x09")
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline_onnx, "convert", cut)
    done = ended(["convert", "m.onnx", "--no-verify", "-o", "out"])
    assert done.code == 2 and "was changed after loading" in done.message
    assert not list(Path().glob("out/*"))


def _load(path: Path) -> None:
    if path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path))
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    else:
        assert zipfile.ZipFile(path).testzip() is None


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root}
