"""Finding the model: every way to name one, and what a file offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from ampconvert.errors import UserError
from ampconvert.frontends.entry import find
from tests.model_files import NET, load, message, write


def test_the_only_class(tmp_path: Path) -> None:
    entry = load(tmp_path, NET)
    assert entry.name == "Net"
    assert entry.how == f"class Net at {tmp_path}/model.py:4"
    assert entry.path == tmp_path / "model.py"
    assert isinstance(entry.model, nn.Module)
    assert not entry.model.training


@pytest.mark.parametrize(
    "name", ["build_model", "get_model", "load_model", "create_model", "make_model"]
)
def test_a_builder_wins_over_variables_and_classes(tmp_path: Path, name: str) -> None:
    body = NET + f"model = Net()\ndef {name}(width=7):\n    return nn.Linear(width, 1)\n"
    entry = load(tmp_path, body)
    assert entry.how == f"function {name} at {tmp_path}/model.py:11"
    assert entry.name == "Linear"
    assert entry.model.in_features == 7


def test_a_builder_that_needs_arguments_is_passed_over(tmp_path: Path) -> None:
    assert load(tmp_path, NET + "def load_model(path):\n    raise OSError\n").name == "Net"


def test_two_builders_are_listed(tmp_path: Path) -> None:
    text = "def get_model():\n    return nn.Linear(1, 1)\ndef make_model():\n    return nn.ReLU()\n"
    said = message(load, tmp_path, text)
    assert "--model NAME" in said
    assert f"function get_model at {tmp_path}/model.py:3" in said
    assert f"function make_model at {tmp_path}/model.py:5" in said


@pytest.mark.parametrize("name", ["model", "net"])
def test_a_variable_wins_over_classes(tmp_path: Path, name: str) -> None:
    entry = load(tmp_path, NET + f"{name} = nn.Sequential(nn.Linear(4, 4))\n")
    assert entry.how == f"variable {name} at {tmp_path}/model.py:10"
    assert entry.name == "Sequential"


def test_two_variables_of_one_object_are_one(tmp_path: Path) -> None:
    assert load(tmp_path, NET + "model = net = Net()\n").name == "Net"


def test_an_instance_under_another_name(tmp_path: Path) -> None:
    assert load(tmp_path, NET + "mine = Net()\nloss = nn.MSELoss()\n").how.startswith(
        "variable mine"
    )


def test_a_class_used_inside_another_is_no_candidate(tmp_path: Path) -> None:
    text = """
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
        def forward(self, x):
            return self.fc(x)
    def stack():
        return nn.Sequential(Block(), Block())
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = stack()
        def forward(self, x):
            return self.body(x)
    """
    assert load(tmp_path, text).name == "Outer"


def test_a_part_found_only_in_the_built_tree_is_no_candidate(tmp_path: Path) -> None:
    text = """
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
        def forward(self, x):
            return self.fc(x)
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = globals()["Blo" + "ck"]()
        def forward(self, x):
            return self.body(x)
    """
    assert load(tmp_path, text).name == "Outer"


def test_a_loss_is_no_candidate_beside_a_model(tmp_path: Path) -> None:
    text = "class MyLoss(nn.Module):\n    def forward(self, a, b):\n        return (a - b).sum()\n"
    assert load(tmp_path, NET + text).name == "Net"


def test_a_base_class_without_forward_is_no_candidate(tmp_path: Path) -> None:
    text = NET.replace("nn.Module", "Base")
    base = "class Base(nn.Module):\n    def size(self):\n        return 1\n"
    assert load(tmp_path, base + text).name == "Net"


def test_two_models_are_listed_with_lines(tmp_path: Path) -> None:
    text = NET.replace("Net", "Generator") + NET.replace("Net", "Discriminator")
    said = message(load, tmp_path, text)
    assert f"class Generator at {tmp_path}/model.py:4" in said
    assert f"class Discriminator at {tmp_path}/model.py:11" in said
    assert "--model Generator" in said
    assert load(tmp_path, text, "Discriminator").name == "Discriminator"


def test_imported_classes_do_not_count(tmp_path: Path) -> None:
    assert load(tmp_path, "from torch.nn import Linear, Transformer\n" + NET).name == "Net"


def test_a_class_that_needs_arguments(tmp_path: Path) -> None:
    text = NET.replace("__init__(self)", "__init__(self, hidden, *, heads, drop=0.1)")
    for name in (None, "Net"):
        said = message(load, tmp_path, text, name)
        assert f"{tmp_path}/model.py:4: class Net needs arguments" in said
        assert "hidden, heads" in said
        assert "def build_model():\n        return Net(hidden=..., heads=...)" in said


def test_nothing_to_convert(tmp_path: Path) -> None:
    assert "defines no torch.nn.Module" in message(load, tmp_path, "x = 1\n")


def test_named_function_instance_class_and_attribute(tmp_path: Path) -> None:
    text = NET + "small = Net()\ndef big():\n    return nn.Linear(9, 9)\nclass N:\n    a = Net\n"
    assert load(tmp_path, text, "small").how.startswith("variable small")
    assert load(tmp_path, text, "big").model.in_features == 9
    assert load(tmp_path, text, "Net").how.startswith("class Net")
    assert load(tmp_path, text, "N.a").name == "N.a"
    assert find(f"{tmp_path}/model.py:big").name == "Linear"


def test_named_wrongly(tmp_path: Path) -> None:
    said = message(load, tmp_path, NET, "Nett")
    assert "no 'Nett'" in said
    assert "did you mean Net?" in said
    assert f"class Net at {tmp_path}/model.py:4" in said
    assert "is a int" in message(load, tmp_path, NET + "size = 3\n", "size")
    assert "needs arguments" in message(load, tmp_path, NET + "def big(n):\n    return n\n", "big")
    path = write(tmp_path, NET)
    with pytest.raises(UserError, match="give one"):
        find(f"{path}:Net", "Other")


def test_a_function_that_gives_no_module(tmp_path: Path) -> None:
    said = message(load, tmp_path, "def build_model():\n    return nn.Linear(1, 1), 'tokenizer'\n")
    assert "model.py:3: gives a tuple" in said


def test_wrappers_are_taken_off_and_torchscript_is_refused(tmp_path: Path) -> None:
    wrapped = NET + "model = nn.DataParallel(torch.compile(Net()))\n"
    assert load(tmp_path, wrapped).name == "Net"
    scripted = NET + "model = torch.jit.trace(Net(), torch.ones(1, 3))\n"
    assert "TorchScript" in message(load, tmp_path, scripted)
    assert "meta device" in message(load, tmp_path, NET + "model = Net().to('meta')\n")
