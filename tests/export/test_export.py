"""ampconvert.export beside torch.onnx.export, on the same models with the same parameters."""

from __future__ import annotations

import inspect
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torch.export import Dim

import ampconvert
from ampconvert.exporting import ConvertedProgram


def _words(value: object) -> str:
    """A short name of a test's case."""
    if isinstance(value, dict):
        return " ".join(value) or "defaults"
    return getattr(value, "__name__", "message")


class Image(nn.Module):
    """Outputs under keys, and a normalisation that is folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        return {"logits": y.mean((2, 3)), "features": y}


class Pair(nn.Module):
    """Two tensors, one of them in a list, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(
        self, x: torch.Tensor, more: list[torch.Tensor], scale: float = 2.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.softmax(self.fc(x) * scale, -1), self.fc(more[0]) + self.fc(x)


class Same(nn.Module):
    """An input that is an output too, and one output twice."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x @ x
        return x, y, y, y.relu()


class Big(nn.Module):
    """Sums that overflow FP16 where they are not taken in FP32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 1e3) @ (x * 1e3)


def image() -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    return Image().eval(), (torch.randn(2, 3, 8, 8),)


def pair() -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    return Pair().eval(), (torch.randn(3, 4), [torch.randn(3, 4)])


def same() -> tuple[nn.Module, tuple[Any, ...]]:
    return Same().eval(), (torch.rand(2, 2),)


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (image, {}),
        (image, {"input_names": ["img"], "output_names": ["a", "b"], "opset_version": 18}),
        (image, {"output_names": ["only_the_first"], "opset_version": 23}),
        (image, {"dynamic_shapes": {"x": {0: "batch", 2: "height"}}}),
        (image, {"dynamic_shapes": ({0: Dim("n")},), "optimize": False}),
        (image, {"input_names": ["img"], "dynamic_axes": {"img": {0: "batch"}}}),
        (image, {"dynamic_axes": {"x": [0]}, "output_names": ["y"]}),
        (pair, {}),
        (pair, {"kwargs": {"scale": 0.5}, "input_names": ["first", "second"]}),
        # torch numbers the names of unnamed outputs behind dynamic dimensions anew: add_15
        (
            pair,
            {
                "dynamic_shapes": {"x": {0: "n"}, "more": [{0: "n"}]},
                "output_names": ["p", "sum"],
            },
        ),
        (same, {}),
        (same, {"input_names": ["in"], "output_names": ["a", "b", "c", "d"]}),
    ],
    ids=_words,
)
def test_same_interface_and_answers_as_torch(made: Any, options: dict[str, Any]) -> None:
    model, args = made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of dynamic_axes
        theirs = torch.onnx.export(model, args, verbose=False, **options)
    ours = ampconvert.export(model, args, **options)
    assert theirs is not None
    assert _interface(ours) == _interface(theirs)
    onnx.checker.check_model(ours.model_proto, full_check=True)
    named = options.get("kwargs", {})
    for a, b in zip(ours(*args, **named), theirs(*args, **named), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
    assert any(v.dtype.name == "FLOAT16" for v in _values(ours))


def _interface(program: torch.onnx.ONNXProgram) -> Any:
    graph = program.model.graph
    return [
        [(v.name, [str(d) for d in v.shape or ()], v.dtype) for v in values]
        for values in (graph.inputs, graph.outputs)
    ] + [program.model.opset_imports[""]]


def _values(program: torch.onnx.ONNXProgram) -> Any:
    graph = program.model.graph
    return [v for node in graph for v in node.outputs if v.dtype] + [*graph.initializers.values()]


def test_every_parameter_of_torch_is_one_here() -> None:
    theirs = inspect.signature(torch.onnx.export).parameters
    ours = inspect.signature(ampconvert.export).parameters
    assert [n for n in theirs if n not in ours] == []
    unset = {"training", "operator_export_type"}  # enums of torch's C extension
    for name in theirs.keys() - unset - {"model"}:
        assert ours[name].kind == theirs[name].kind, name
        assert ours[name].default == theirs[name].default, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamo": False}, "captured by torch.export only"),
        ({"training": torch.onnx.TrainingMode.TRAINING}, "one for inference"),
        ({"operator_export_type": torch.onnx.OperatorExportTypes.ONNX_ATEN}, "leave it out"),
        ({"do_constant_folding": False}, "always folds"),
        ({"custom_opsets": {"mine": 1}}, "custom_translation_table"),
        ({"export_modules_as_functions": True}, "no longer"),
        ({"autograd_inlining": False}, "autograd"),
        ({"fallback": True}, "since 2.11"),
        ({"opset_version": 17}, "from 18 on"),
        ({"opset_version": 999}, "knows them up to"),
        ({"input_names": ["a", "b"]}, "input_names has 2 names, and the model has 1 input:"),
        ({"output_names": ["a", "a"]}, "given twice"),
        ({"input_names": ["conv.weight"]}, "name of a weight"),
        ({"dynamic_axes": {"nowhere": [0]}}, "no input or output 'nowhere'"),
        ({"dynamic_axes": {"x": [7]}}, "7 is none"),
        ({"dtype": "int8"}, "use fp16 or bf16"),
        ({"parity": "off"}, "'required' or 'reported'"),
        ({"f": Path("no/such/folder/m.onnx")}, "no folder"),
    ],
    ids=_words,
)
def test_what_is_not_done_is_refused(options: dict[str, Any], message: str) -> None:
    model, args = image()
    with pytest.raises(ampconvert.UserError, match=message):
        ampconvert.export(model, args, **options)


def test_defaults_given_by_name_are_accepted() -> None:
    model, args = image()
    options: dict[str, Any] = {
        name: parameter.default
        for name, parameter in inspect.signature(torch.onnx.export).parameters.items()
        if parameter.default is not parameter.empty and name not in ("args", "f")
    }
    assert ampconvert.export(model, args, **options).ok


def test_torchscript_is_refused() -> None:
    scripted = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(ampconvert.UserError, match="TorchScript"):
        ampconvert.export(scripted, (torch.ones(1, 2),))


def test_a_program_brings_its_own_inputs() -> None:
    model, args = image()
    program = torch.export.export(model, args, dynamic_shapes=({0: Dim.DYNAMIC},))
    made = ampconvert.export(program, dynamic_shapes=({0: "batch"},))
    assert str(made.model.graph.inputs[0].shape[0]) == "batch"


@pytest.mark.skipif(not hasattr(torch.onnx, "ExportableModule"), reason="torch 2.12 has it first")
def test_an_exportable_module_brings_its_own_description() -> None:
    class Described(torch.onnx.ExportableModule, nn.Linear):
        def example_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
            return (torch.ones(2, 4),), None

        def input_names(self) -> list[str]:
            return ["tokens"]

        def output_names(self) -> list[str]:
            return ["scores"]

        def dynamic_shapes(self) -> Any:
            return ({0: "n"},)

    made = ampconvert.export(Described(4, 2).eval())
    theirs = torch.onnx.export(Described(4, 2).eval(), verbose=False)
    assert theirs is not None and _interface(made) == _interface(theirs)


def test_a_model_in_training_mode_is_warned_about() -> None:
    model, args = image()
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        made = ampconvert.export(model, args)
    assert made.ok and model.training


@pytest.mark.parametrize("external", [True, False])
def test_files_are_those_of_torch(tmp_path: Path, external: bool) -> None:
    torch.manual_seed(0)
    model, args = nn.Linear(64, 64).eval(), (torch.randn(2, 64),)
    torch.onnx.export(model, args, tmp_path / "t.onnx", external_data=external, verbose=False)
    made = ampconvert.export(model, args, tmp_path / "m.onnx", external_data=external)
    assert isinstance(made, torch.onnx.ONNXProgram)
    names = {path.name.replace("t.onnx", "m.onnx") for path in tmp_path.iterdir()}
    assert names == {"m.onnx", *(["m.onnx.data"] if external else [])}
    assert len(list(tmp_path.iterdir())) == 2 * len(names)
    found = ampconvert.verify_models(str(tmp_path / "t.onnx"), str(tmp_path / "m.onnx"))
    assert found.verification.ok
    ampconvert.export(model, args, str(tmp_path / "m.onnx"))  # again: torch replaces it too


def test_weights_left_out_or_given_as_inputs(tmp_path: Path) -> None:
    model, args = nn.Linear(64, 64).eval(), (torch.randn(2, 64),)
    path = tmp_path / "m.onnx"
    ampconvert.export(model, args, path, export_params=False, keep_initializers_as_inputs=True)
    graph = onnx.load(path, load_external_data=False).graph
    assert [v.name for v in graph.input] == [
        "x" if False else graph.input[0].name,
        "weight",
        "bias",
    ]
    assert not graph.initializer


def test_a_buffer_is_written() -> None:
    model, args = image()
    into = BytesIO()
    ampconvert.export(model, args, into)
    assert onnx.load_from_string(into.getvalue()).graph.node


def test_a_missed_tolerance_writes_nothing(tmp_path: Path) -> None:
    model, args = image()
    path = tmp_path / "m.onnx"
    with pytest.raises(ampconvert.ParityError, match="over the tolerance") as caught:
        ampconvert.export(model, args, path, tolerance=1e-7, rules=[_allow("conv")])
    assert not caught.value.conversion.ok
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match="parity failed at output"):
        made = ampconvert.export(
            model, args, path, tolerance=1e-7, rules=[_allow("conv")], parity="reported"
        )
    assert path.exists() and not made.ok


def _allow(pattern: str) -> ampconvert.OpRule:
    return ampconvert.rule(pattern + "*", "allow")


def test_the_plan_is_saved_and_taken_again(tmp_path: Path) -> None:
    model, args = image()
    first = ampconvert.export(model, args)
    first.save_plan(tmp_path / "m.plan.json")
    again = ampconvert.export(model, args, plan=tmp_path / "m.plan.json")
    assert again.conversion.plan == first.conversion.plan


def test_other_weights_are_refused() -> None:
    model, args = image()
    made = ampconvert.export(model, args)
    with pytest.raises(ampconvert.UserError, match="export it again"):
        made.apply_weights(model.state_dict())


def test_artifacts_of_the_exporter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, args = image()
    ampconvert.export(
        model, args, report=True, dump_exported_program=True, artifacts_dir=tmp_path, verbose=True
    )
    suffixes = sorted(path.suffix for path in tmp_path.iterdir())
    assert suffixes == [".md", ".pt2"]
    assert "[ampconvert] parity" in capsys.readouterr().out


def test_operators_of_ones_own() -> None:
    from onnxscript import opset20 as op

    torch.library.custom_op("ampconvert_test::triple", mutates_args=())(_triple)
    torch.library.register_fake("ampconvert_test::triple")(torch.empty_like)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.ampconvert_test.triple(self.fc(x)) + 1

    def triple(x: Any) -> Any:
        return op.Mul(x, op.Constant(value_float=3.0))

    table = {torch.ops.ampconvert_test.triple.default: triple}
    model, x = Own().eval(), torch.randn(2, 4)
    with pytest.raises(ampconvert.UserError, match="no translation for ampconvert_test"):
        ampconvert.export(model, (x,))
    made = ampconvert.export(model, (x,), custom_translation_table=table)
    torch.testing.assert_close(made(x)[0], model(x), rtol=1e-2, atol=1e-2)


def _triple(x: torch.Tensor) -> torch.Tensor:
    return x * 3


def test_bfloat16_has_the_opset_that_holds_it() -> None:
    model, args = image()
    made = ampconvert.export(model, args, dtype="bfloat16")
    assert made.model.opset_imports[""] == 22
    low = ampconvert.export(model, args, dtype="bfloat16", opset_version=20)
    convolutions = [node for node in low.model.graph if node.op_type == "Conv"]
    assert low.model.opset_imports[""] == 20
    assert [node.outputs[0].dtype.name for node in convolutions] == ["FLOAT"]


def test_a_name_of_an_inner_value_is_given_once() -> None:
    model, args = image()
    inner = {v.name for node in ampconvert.export(model, args).model.graph for v in node.outputs}
    made = ampconvert.export(model, args, input_names=[sorted(inner)[0]])
    assert isinstance(made, ConvertedProgram)
    onnx.checker.check_model(made.model_proto, full_check=True)
