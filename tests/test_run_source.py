"""Importing the user's file: its folder, its errors, files that are none, training scripts."""

from __future__ import annotations

import ast
import pickle
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from ampconvert.errors import UserError
from ampconvert.frontends.entry import find
from ampconvert.frontends.static_check import training_marks
from tests.model_files import HEAD, NET, load, message, write


def test_siblings_are_found_and_not_mixed_up_between_folders(tmp_path: Path) -> None:
    for folder, width in (("a", 3), ("b", 5)):
        write(tmp_path / folder, f"WIDTH = {width}\n", "layers_of_mine.py")
        late = "def build_model():\n    from layers_of_mine import WIDTH\n"
        path = write(tmp_path / folder, late + "    return nn.Linear(WIDTH, 1)\n")
        before = list(sys.path)
        assert find(str(path)).model.in_features == width
        assert sys.path == before


def test_relative_imports_inside_a_package(tmp_path: Path) -> None:
    write(tmp_path / "pack_of_mine", "", "__init__.py")
    write(tmp_path / "pack_of_mine", "WIDTH = 6\n", "parts.py")
    text = "from .parts import WIDTH\nmodel = nn.Linear(WIDTH, 1)\n"
    assert find(str(write(tmp_path / "pack_of_mine", text))).model.in_features == 6


def test_dataclasses_and_pickles_work(tmp_path: Path) -> None:
    text = """
    from __future__ import annotations
    from dataclasses import dataclass, field
    @dataclass
    class Config:
        width: int = 4
        names: list[str] = field(default_factory=list)
    """
    path = tmp_path / "with_config.py"
    path.write_text(textwrap.dedent(text) + HEAD + "model = nn.Linear(Config().width, 1)\n")
    entry = find(str(path))
    config = entry.namespace.Config(8)
    assert pickle.loads(pickle.dumps(config)) == config
    assert entry.namespace.__name__ == "with_config"


def test_a_file_named_like_a_library_does_not_replace_it(tmp_path: Path) -> None:
    import json

    entry = find(str(write(tmp_path, NET, "json.py")))
    assert entry.name == "Net"
    assert sys.modules["json"] is json


def test_the_same_command_builds_the_same_weights(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, second = (load(tmp_path, NET).model.fc.weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_prints_of_the_file_stay_off_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path, "print('hello')\n" + NET)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_our_options_are_hidden_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ampconvert", "model.py", "--dtype", "fp16"])
    parser = "import argparse\nargs = argparse.ArgumentParser().parse_args()\n"
    assert load(tmp_path, parser + NET).name == "Net"
    assert sys.argv[1:] == ["model.py", "--dtype", "fp16"]


def test_an_exception_at_import_names_the_users_line(tmp_path: Path) -> None:
    said = message(load, tmp_path, "\nimport no_such_library_at_all\n")
    assert said.startswith(f"{tmp_path}/model.py:4: importing model.py failed")
    assert "provides 'no_such_library_at_all'" in said
    inside = message(load, tmp_path, "nn.Linear('a', 2)\n")
    assert f"{tmp_path}/model.py:3: " in inside
    half_loaded = getattr(sys.modules.get("model"), "__file__", None)
    assert half_loaded != str(tmp_path / "model.py")


def test_an_exception_in_a_builder_names_the_users_line(tmp_path: Path) -> None:
    said = message(
        load, tmp_path, "def build_model():\n    x = 1\n    return open('/no/such/weights')\n"
    )
    assert f"{tmp_path}/model.py:5: calling build_model() failed: FileNotFoundError" in said


def test_sys_exit_at_import(tmp_path: Path) -> None:
    said = message(load, tmp_path, "import sys\nsys.exit(3)\n")
    assert f"{tmp_path}/model.py:4: " in said
    assert "sys.exit(3)" in said


def test_a_syntax_error(tmp_path: Path) -> None:
    said = message(load, tmp_path, "def f(:\n    pass\n")
    assert said.startswith(f"{tmp_path}/model.py:3: SyntaxError")


def test_a_syntax_error_in_a_sibling(tmp_path: Path) -> None:
    write(tmp_path, "def f(:\n", "broken_sibling.py")
    assert f"{tmp_path}/broken_sibling.py:3: " in message(load, tmp_path, "import broken_sibling\n")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        ("x = 'é'\n".encode("latin-1"), "UTF-8"),
        (b"x = 1\0\n", "null bytes"),
    ],
)
def test_files_that_are_no_source(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "model.py"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        find(str(path))
    assert str(path) in str(caught.value)


def test_a_declared_encoding_is_honoured(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    text = "# -*- coding: latin-1 -*-\nname = 'é'\n" + HEAD + NET
    path.write_bytes(text.encode("latin-1"))
    assert find(str(path)).namespace.name == "é"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weights.pt", "--weights"),
        ("net.safetensors", "--weights"),
        ("net.onnx", "ONNX"),
        ("net.ipynb", "notebook"),
        ("net.keras", "KERAS_BACKEND"),
        ("net.txt", "not a .py"),
    ],
)
def test_wrong_kinds_of_files(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=words):
        find(str(tmp_path / name))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    write(tmp_path, NET)
    with pytest.raises(UserError, match=r"no such file; did you mean model.py\?"):
        find(str(tmp_path / "modle.py"))
    with pytest.raises(UserError, match=r"one of model\.py"):
        find(str(tmp_path))
    with pytest.raises(UserError, match="no file and no Python module"):
        find("no_such_package_at_all.models:Net")
    with pytest.raises(UserError, match="no such file"):
        find("no_such_file.py")


def test_an_importable_module() -> None:
    entry = find("torch.nn.modules.activation:ReLU")
    assert entry.name == "ReLU"
    assert isinstance(entry.model, nn.ReLU)


def test_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mypack_here", "", "__init__.py")
    write(tmp_path / "mypack_here", NET, "nets.py")
    monkeypatch.chdir(tmp_path)
    entry = find("mypack_here.nets")
    assert (entry.name, entry.path) == ("Net", tmp_path / "mypack_here" / "nets.py")


def test_a_saved_program(tmp_path: Path) -> None:
    path = tmp_path / "relu.pt2"
    torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(2),)), path)
    entry = find(str(path))
    assert isinstance(entry.model, torch.export.ExportedProgram)
    assert (entry.name, entry.namespace) == ("relu", None)
    with pytest.raises(UserError, match="leave out --weights"):
        find(str(path), weights=path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="damaged"):
        find(str(path))


TRAINS = [
    "optimizer = torch.optim.SGD([], 0.1)\noptimizer.step()",
    "o = torch.optim.AdamW(p)\nfor x in data:\n    o.step()",
    "loss.backward()",
    "model.fit(x, y)",
    "trainer = Trainer(model)\ntrainer.train()",
    "t = pl.Trainer()\nt.fit(model)",
    "name = input('which? ')",
    "for epoch in range(3):\n    pass",
    "for i in range(args.num_epochs):\n    pass",
    "if torch.cuda.is_available():\n    loss.backward()",
    "with open('x') as f:\n    try:\n        loss.backward()\n    finally:\n        pass",
    "if __name__ == '__main__':\n    pass\nelse:\n    loss.backward()",
    "if __name__ != '__main__':\n    loss.backward()",
    "def train():\n    loss.backward()\ntrain()",
    "def main():\n    train()\ndef train():\n    opt.step()\nmain()",
    "class A:\n    loss.backward()",
    "[loss.backward() for loss in losses]",
]
HARMLESS = [
    "def train():\n    loss.backward()",
    "if __name__ == '__main__':\n    loss.backward()\n    input()",
    "if '__main__' == __name__ and True:\n    loss.backward()",
    "if not __name__ != '__main__':\n    loss.backward()",
    "if False:\n    loss.backward()",
    "f = lambda: loss.backward()",
    "model.train()",
    "step = env.step(0)",
    "class A:\n    def training_step(self):\n        self.loss.backward()",
    "def input(n):\n    return n\ninput(3)",
    "from keras import Input as input\ninput((3,))",
    "for i in range(3):\n    layers.append(i)",
    "def build_model():\n    scaler.fit(x)\nmodel = build_model()",
    "text = 'loss.backward()'",
]


@pytest.mark.parametrize("text", TRAINS)
def test_training_is_seen_before_it_runs(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "open('ran', 'w').write('x')\n" + text + "\n")
    with pytest.raises(UserError, match="importing this file would") as caught:
        find(str(path))
    assert '__name__ == "__main__"' in str(caught.value)
    marked = next(iter(training_marks(ast.parse(path.read_text())))).line
    assert str(caught.value).startswith(f"{path}:{marked}: ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", HARMLESS)
def test_what_does_not_train_on_import(text: str) -> None:
    assert list(training_marks(ast.parse(text))) == []
