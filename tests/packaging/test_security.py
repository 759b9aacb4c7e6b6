"""What docs/security.md says: which inputs can run code, and that the others can't."""

from __future__ import annotations

import ast
import json
import os
import pickle
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ampconvert import cli
from tests.model_files import NET

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "ampconvert"
MARK = "was-run"
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m"


class Payload:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (MARK,))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_payload_does_its_work() -> None:
    pickle.loads(pickle.dumps(Payload()))
    assert Path(MARK).is_dir()


@pytest.mark.parametrize(
    "words", [["lint"], ["lint", "--fix"], ["rewrite"], ["rewrite", "--write"]]
)
def test_sources_are_read_and_never_imported(words: list[str]) -> None:
    source = f"import os\nimport torch\nos.mkdir({MARK!r})\nraise SystemExit(77)\n"
    Path("script.py").write_text(source, encoding="utf-8")
    assert cli.main([*words, "script.py"]) in (0, 1, 2)
    assert not Path(MARK).exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_pickled_objects_in_checkpoints_are_refused(
    suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.py").write_text(f"import torch\nfrom torch import nn\n{NET}", encoding="utf-8")
    torch.save({"fc.weight": torch.zeros(2, 3), "more": Payload()}, f"w{suffix}")
    assert cli.main(["analyze", "net.py", "--weights", f"w{suffix}"]) == 2
    assert "pickled Python objects" in capsys.readouterr().err
    assert not Path(MARK).exists()


def test_pickled_objects_in_inputs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    save_model("net.onnx")
    np.savez("inputs.npz", x=np.array([Payload()], dtype=object))
    assert cli.main(["analyze", "net.onnx", "--inputs", "inputs.npz"]) == 2
    assert "inputs.npz" in capsys.readouterr().err
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "shard", ["../w.safetensors", "/etc/hostname", "sub/w.bin", "..\\w.bin", "w.index.json", 3]
)
def test_an_index_of_weights_names_files_beside_it(
    shard: object, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.py").write_text(f"import torch\nfrom torch import nn\n{NET}", encoding="utf-8")
    index = {"weight_map": {"fc.weight": shard}}
    Path("w.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert cli.main(["analyze", "net.py", "--weights", "w.index.json"]) == 2
    assert "no weights file beside it" in capsys.readouterr().err


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "link.bin"])
def test_external_data_stays_in_the_model_s_folder(
    tmp_path: Path, location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(256))
    (folder / "link.bin").symlink_to("../w.bin")
    model = save_model(folder / "net.onnx")
    weight = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    for words in (["net.onnx"], ["analyze", "net.onnx", "--no-verify"],
                  ["verify", "net.onnx", "net.onnx"]):  # fmt: skip
        assert cli.main([str(folder / w) if w == "net.onnx" else w for w in words]) == 2
        assert "weight 'w'" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["link.bin", "net.onnx"]


def test_rules_and_plans_are_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Python in a rule's example and witness is for tests of the rules; a plan holds names."""
    save_model("net.onnx")
    code = f"__import__('os').mkdir({MARK!r})"
    Path("mine.toml").write_text(
        f'[[op]]\nname = "mine"\nclass = "deny"\nreason = "a test"\nonnx = ["MatMul"]\n'
        f'source = "a test"\nwitness = "{code}"\nexample_torch = "{code}"\n',
        encoding="utf-8",
    )
    assert cli.main(["net.onnx", "--no-verify", "--rules", "mine.toml"]) == 0
    assert "mine" in Path("net.fp16.plan.json").read_text(encoding="utf-8")
    Path("bad.json").write_bytes(pickle.dumps(Payload()))
    assert cli.main(["net.onnx", "--no-verify", "--plan", "bad.json", "-o", "again"]) == 2
    assert "bad.json" in capsys.readouterr().err
    assert not Path(MARK).exists()


def test_reports_show_hostile_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    save_model("net.onnx", name=HOSTILE)
    assert cli.main(["net.onnx", "--report", "r.html"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    page = Path("r.html").read_text(encoding="utf-8")
    assert "onerror=alert(1)" in page  # it is there, as text
    seen = Seen()
    seen.feed(page)
    assert "img" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    fetched = [v for n, v in seen.attributes if n in ("src", "href") and "//" in (v or "")]
    assert not fetched
    policy = next(v for n, v in seen.attributes if n == "content" and v and "default-src" in v)
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy
    assert "script-src 'sha256-" in policy


def test_the_package_evaluates_no_text_and_opens_no_connection() -> None:
    """Of the ways to run text, bytes or programs only those that docs/security.md names."""
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in dangers(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found <= {
        ("frontends/run_source.py", "exec_module"),  # model.py
        ("distributed.py", "pickle.loads"),  # what this process has just pickled itself
        ("frontends/entry.py", "torch.export.load"),  # .pt2
        ("verify/runtimes.py", "subprocess.run"),  # nvidia-smi
        ("verification_torch.py", "torch.export.load"),
    }


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("eval(x)", ["eval"]),
        ("import socket", ["socket"]),
        ("from urllib.request import urlopen", ["urllib"]),
        ("pickle.load(f)", ["pickle.load"]),
        ("torch.load(f, weights_only=True)", []),
        ("torch.load(f)", ["torch.load"]),
        ("np.load(f, allow_pickle=True)", ["np.load"]),
        ("model.eval()", []),
    ],
)
def test_dangers_are_seen(source: str, found: list[str]) -> None:
    assert list(dangers(ast.parse(source))) == found


NETWORK = {"socket", "urllib", "http", "requests", "httpx", "ftplib", "smtplib", "ssl", "asyncio"}
CALLS = {
    "eval", "exec", "compile", "__import__", "exec_module", "pickle.load", "pickle.loads",
    "os.system", "os.popen", "subprocess.run", "subprocess.Popen", "subprocess.call",
    "subprocess.check_output", "torch.export.load", "marshal.loads", "torch.jit.load",
    "register_custom_ops_library",
}  # fmt: skip


def dangers(tree: ast.AST) -> list[str]:
    """Calls that run what they are given, and modules that open connections."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            found += [
                n.split(".")[0] for n in names if n and n.split(".")[0] in NETWORK - {"urllib"}
            ]
            found += ["urllib" for n in names if n and n.startswith("urllib.request")]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            method = name.rpartition(".")[2]
            if name in CALLS or method in {"exec_module", "register_custom_ops_library"}:
                found.append(name if name in CALLS else method)
            elif (name == "torch.load" and given.get("weights_only") != "True") or (
                name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False"
            ):
                found.append(name)
    return found


class Seen(HTMLParser):
    """All tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def save_model(path: str | Path, name: str = "product") -> onnx.ModelProto:
    """A matrix product with the weight `w`, whose node is called `name`."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]>\n'
        "net (float[2, 8] x) => (float[2, 8] y) <float[8, 8] w> { y = MatMul(x, w) }"
    )
    weight = np.full((8, 8), 0.5, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model.graph.node[0].name = name
    onnx.save(model, str(path))
    return model
