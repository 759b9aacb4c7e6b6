"""What targets say of kernels: their files, the answers, and ONNX Runtime's CPU provider itself."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from ampconvert.classify import classify
from ampconvert.cost import Target, load_target, target_names
from ampconvert.errors import UserError
from ampconvert.ranges.calibrate import Range
from ampconvert.rules import LOWS, OpRule, RuleBook, data_directory
from ampconvert.targets import Kernels, kernels_in
from ampconvert.verify.runtimes import low_nodes_run
from benchmarks.kernels.lists import _spans, _spelled
from benchmarks.kernels.registry import OPEN_END, Kernel
from benchmarks.kernels.tensorrt import read_matrix
from tests.graphs import graph

RUNTIMES = ("ort-cpu", "ort-cuda", "trt")
TABLE = {
    "kernels": {"version": "Runtime 1", "source": "its page"},
    "elsewhere": {"float16": ["Acos", "MaxPool@22+", "Clip@7-11", "Clip@13"], "bfloat16": []},
    "nowhere": {"float16": [], "bfloat16": ["Pad", "com.microsoft::Gelu"]},
    "unsupported": {"ops": ["Det"]},
    "reasons": {
        "elsewhere": "{op} goes elsewhere in {low} ({version}).",
        "nowhere": "No {low} {op} ({version}).",
        "unsupported": "No {op} ({version}).",
    },
}
KERNELS = kernels_in(TABLE)


@pytest.mark.parametrize(
    ("op", "low", "opset", "refused"),
    [
        ("onnx::Acos", "float16", 7, True),
        ("onnx::Acos", "float16", None, True),
        ("onnx::Acos", "bfloat16", None, False),
        ("onnx::MaxPool", "float16", 21, False),
        ("onnx::MaxPool", "float16", 22, True),
        ("onnx::MaxPool", "float16", None, True),  # the newest opset
        ("onnx::Clip", "float16", 11, True),
        ("onnx::Clip", "float16", 12, False),
        ("onnx::Clip", "float16", 13, True),
        ("onnx::Clip", "float16", None, False),
        ("com.microsoft::Gelu", "bfloat16", 17, True),
        ("onnx::Gelu", "bfloat16", 17, False),
        ("aten::acos", "float16", None, False),
        ("acme::Acos", "float16", None, False),
    ],
)
def test_a_missing_kernel_is_refused_at_its_opsets(
    op: str, low: Any, opset: int | None, refused: bool
) -> None:
    assert bool(KERNELS.refuses(op, low, opset=opset)) == refused


def test_the_user_may_have_what_loads() -> None:
    assert KERNELS.refuses("onnx::Acos", "float16") == "Acos goes elsewhere in float16 (Runtime 1)."
    assert KERNELS.refuses("onnx::Acos", "float16", insisted=True) == ""
    refused = KERNELS.refuses("com.microsoft::Gelu", "bfloat16", insisted=True)
    assert refused == "No bfloat16 com.microsoft::Gelu (Runtime 1)."


def test_what_runs_in_no_type_is_no_reason_to_stay_in_float32() -> None:
    assert KERNELS.lacks("onnx::Det") == "No Det (Runtime 1)."
    assert KERNELS.lacks("onnx::Pad") == KERNELS.refuses("onnx::Det", "float16") == ""


@pytest.mark.parametrize("entry", ["Max Pool", "MaxPool@", "MaxPool@22-", "MaxPool@new", ""])
def test_a_damaged_entry_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="no operator"):
        kernels_in({"nowhere": {"float16": [entry]}})


RULES = tuple(
    OpRule(name, dict.fromkeys(LOWS, cls), "reason", aten=(name,), user=user)  # type: ignore[arg-type]
    for name, cls, user in (
        ("acos", "infer", False),
        ("pad", "allow", True),
        ("pow", "allow", True),
    )
)


def refuse(op: str, low: str, insisted: bool) -> str:
    """pad and acos have no kernel; acos would load."""
    if op == "aten::pad" or (op == "aten::acos" and not insisted):
        return f"no {low} kernel"
    return ""


def test_a_missing_kernel_denies_and_ranges_come_after() -> None:
    built = graph("a = acos(x)", "b = pad(a)", "c = pow(b)", outputs="c")
    high = {"a": Range(0.0, 1e6, 1e6, 1.0, elements=9)}
    found = classify(built, RuleBook(RULES), "float16", high, refuses=refuse).decisions
    assert (found["a"].cls, found["a"].rule, found["a"].evidence) == ("deny", "no-kernel", "rule")
    assert found["a"].reason == "no float16 kernel"
    assert (found["b"].cls, found["b"].rule) == ("deny", "no-kernel")  # it would not load
    assert (found["c"].cls, found["c"].evidence) == ("allow", "user")
    plain = classify(built, RuleBook(RULES), "float16", high).decisions
    assert plain["a"].rule == "range" and plain["b"].cls == "allow"


def test_the_user_overrules_a_kernel_elsewhere() -> None:
    mine = OpRule("mine", dict.fromkeys(LOWS, "allow"), "mine", aten=("acos",), user=True)
    built = graph("a = acos(x)", outputs="a")
    found = classify(built, RuleBook((mine, *RULES)), "float16", refuses=refuse).decisions
    assert (found["a"].cls, found["a"].rule) == ("allow", "mine")


def test_a_target_binds_to_classify() -> None:
    built = graph("a = onnx::Tanh(x)", outputs="a")
    rule = OpRule("tanh", dict.fromkeys(LOWS, "infer"), "reason", onnx=("Tanh",))
    refuses = partial(load_target("ort-cpu").refuses, opset=17)
    classes = [classify(built, RuleBook([rule]), low, refuses=refuses).decisions["a"].cls
               for low in LOWS]  # fmt: skip
    assert classes == ["infer", "deny"]


def test_every_target_is_known_by_name() -> None:
    assert set(target_names()) == {"h100", "torch-cpu", *RUNTIMES}
    assert load_target().name == "h100" and load_target().kernels == Kernels()
    with pytest.raises(UserError, match="no target is named 'abacus': there are h100, ort-cpu"):
        load_target("abacus")


@pytest.mark.parametrize("name", ["ort-cuda", "trt"])
def test_a_runtime_counts_with_its_device(name: str) -> None:
    target = load_target(name)
    assert (target.name, target.bandwidth) == (name, load_target("h100").bandwidth)


def test_16_bits_are_no_faster_on_the_cpu() -> None:
    target = load_target("ort-cpu")
    assert target.rate["float16"] == target.rate["float32"] > target.vector["float32"]
    assert "no faster" in target.notes["float16"]


def listed(name: str) -> list[str]:
    """Every operator that a target's file names."""
    table = tomllib.loads((data_directory() / "targets" / f"{name}.toml").read_text("utf-8"))
    lists = [names for key in ("elsewhere", "nowhere", "unsupported")
             for names in table.get(key, {}).values()]  # fmt: skip
    return [entry.partition("@")[0] for names in lists for entry in names]


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_file_names_its_source_and_operators_that_exist(name: str) -> None:
    table = tomllib.loads((data_directory() / "targets" / f"{name}.toml").read_text("utf-8"))
    assert set(table["kernels"]) == {"version", "date", "source"}
    assert "https://" in table["kernels"]["source"]
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert [op for op in listed(name) if "::" not in op and op not in known] == []
    for why in {"elsewhere", "nowhere"} & set(table):
        assert "{op}" in table["reasons"][why] and "{version}" in table["reasons"][why]


@pytest.mark.parametrize(
    ("name", "op", "opset", "lows"),
    [
        ("ort-cuda", "Conv", 22, ""),
        ("ort-cuda", "MatMul", 13, ""),
        ("ort-cuda", "MaxPool", 21, "bfloat16"),
        ("ort-cuda", "MaxPool", 22, "float16 bfloat16"),
        ("ort-cuda", "BatchNormalization", 15, "float16 bfloat16"),
        ("ort-cuda", "BatchNormalization", 13, "bfloat16"),
        ("ort-cuda", "Resize", 19, "bfloat16"),
        ("ort-cuda", "HardSwish", 22, ""),  # a function: its body has the kernels
        ("ort-cpu", "Conv", 22, "bfloat16"),
        ("ort-cpu", "LayerNormalization", 17, ""),
        ("ort-cpu", "Reshape", 21, ""),
        ("trt", "GridSample", 20, "bfloat16"),
        ("trt", "STFT", 17, "float16 bfloat16"),
        ("trt", "Det", 22, ""),  # it has no Det in any type
    ],
)
def test_what_the_files_say(name: str, op: str, opset: int, lows: str) -> None:
    target = load_target(name)
    assert [low for low in LOWS if target.refuses(f"onnx::{op}", low, opset=opset)] == lows.split()


NATIVE = """Identity(x); Transpose(x); Flatten(x); Squeeze(u); Unsqueeze(x, axes)
    Reshape(x, sizes); Concat<axis = 0>(x, x); Gather(x, axes); Slice(x, axes, axes); Max(x, x)
    Expand(x, sizes); Round(x); Sign(x); Mod<fmod = 1>(x, x); LayerNormalization(x, w)
    Split<num_outputs = 2>(x); GatherND(x, index); RMSNormalization(x, w); Clip(x, one, one)"""
EMULATED = """Abs(x); Add(x, x); Mul(x, x); MatMul(x, x); Relu(x); Sigmoid(x); Tanh(x); Exp(x)
    Log(x); Sqrt(x); Erf(x); Softmax(x); LogSoftmax(x); ReduceSum(x); ReduceMean(x); ReduceMax(x)
    Gelu(x); Elu(x); LeakyRelu(x); PRelu(x, x); Pow(x, x); Where(flag, x, x); Neg(x); Floor(x)
    GlobalAveragePool(x); MaxPool<kernel_shape = [2, 2]>(x); Conv(x, x); ConvTranspose(x, x)
    InstanceNormalization(x, w, w); ArgMax(x); CumSum(x, axis); Trilu(x); Sin(x)
    AveragePool<kernel_shape = [2, 2]>(x); Greater(x, x); Tile(x, sizes); Cos(x); HardSwish(x)
    Mish(x); Softplus(x); LRN<size = 3>(x); Hardmax(x); Reciprocal(x); ReduceL2(x)"""


def calls(text: str) -> list[str]:
    return [call.strip() for line in text.splitlines() for call in line.split(";")]


@pytest.mark.parametrize("call", calls(NATIVE) + calls(EMULATED))
def test_the_cpu_provider_is_as_its_file_says(call: str) -> None:
    """Also what the note says: float16 without a kernel is computed between inserted casts."""
    onnxruntime = pytest.importorskip("onnxruntime")
    target = load_target("ort-cpu")
    if f"onnxruntime {onnxruntime.__version__}" != target.kernels.version:
        pytest.skip(f"the file is of {target.kernels.version}")
    op = f"onnx::{call.partition('(')[0].partition('<')[0]}"
    assert target.refuses(op, "float16", opset=22) == ""
    assert (low_nodes_run(model(call, "float16")).inserted_casts == 0) == (call in calls(NATIVE))
    assert loads(model(call, "bfloat16")) == (target.refuses(op, "bfloat16", opset=22) == "")


def model(call: str, low: str) -> onnx.ModelProto:
    """One call at opset 23; x is 4-D and `low`, and other operands have values."""
    weights = f"{low}[2] w = {{1, 1}}, {low} one = {{1}}, int64[1] axes = {{1}}, int64 axis = {{1}}"
    indices = "int64[4] sizes = {2, 2, 2, 2}, int64[1,1] index = {1}, bool flag = {1}"
    made = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 23]>
        g ({low}[2,2,2,2] x, {low}[1,2,2,2] u) => ({low} y) <{weights}, {indices}> {{
            {"y, z" if call.startswith(("Split", "TopK")) else "y"} = {call} }}""")
    kind = made.graph.output[0].type.tensor_type
    kind.ClearField("shape")
    if call.startswith(("ArgMax", "Greater")):
        kind.elem_type = onnx.TensorProto.INT64 if call.startswith("Arg") else onnx.TensorProto.BOOL
    return made


def loads(made: onnx.ModelProto) -> bool:
    try:
        low_nodes_run(made)
    except UserError as error:
        assert "Could not find an implementation" in str(error)
        return False
    return True


def test_an_open_kernel_serves_the_schema_it_was_written_for() -> None:
    assert Kernel(12, OPEN_END, {}).serves(12) and not Kernel(12, OPEN_END, {}).serves(22)
    assert Kernel(7, 13, {}).serves(9) and not Kernel(7, 13, {}).serves(14)
    norm = Kernel(15, OPEN_END, {"T": frozenset({"float16"}), "T1": frozenset({"float16"})})
    assert norm.takes({"T": "float16", "T1": "float16", "U": "int64"})
    assert not norm.takes({"T": "float16", "T1": "float"})


def test_opsets_are_spelled_as_spans() -> None:
    found: dict[int, Any] = {
        7: None,
        8: "there",
        9: "nowhere",
        10: None,
        11: "there",
        12: "nowhere",
    }
    assert _spans(found) == [(8, 8, "there"), (9, 10, "nowhere"), (11, 11, "there"),
                             (12, 12, "nowhere")]  # fmt: skip
    assert _spelled(("", "Op"), found, "nowhere") == ["Op@9-10", "Op@12+"]
    assert _spelled(("", "Op"), found, "there") == ["Op@8", "Op@11"]
    assert _spelled(("acme", "Op"), {7: None, 8: "nowhere"}, "nowhere") == ["acme::Op"]


def test_tensorrts_page_is_read() -> None:
    matrix = read_matrix("""TensorRT 10.15 supports operators in the inclusive range of opset 9
| Operator | Supported  | Supported Types | Restrictions |
|----------|------------|-----------------|--------------|
| Abs      | Y          | FP32, FP16, BF16, INT32 |
| Selu     | Y          | FP32, FP16, BF16, |
| Det      | N          |
| And      | Y          | BOOL |
| NonMaxSuppression | Y [EXPERIMENTAL] | FP32, FP16 | some
| STFT     | Y          | FP32 | `window` must be FP16 |
""")
    assert matrix.version == "10.15" and matrix.unsupported == ["Det"]
    assert matrix.without("float16") == ["STFT"]
    assert matrix.without("bfloat16") == ["NonMaxSuppression", "STFT"]
    with pytest.raises(ValueError, match=r"no docs/operators\.md"):
        read_matrix("# Operators")


@pytest.mark.slow
def test_the_cpu_file_is_what_its_program_writes() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if f"onnxruntime {onnxruntime.__version__}" != load_target("ort-cpu").kernels.version:
        pytest.skip("the file is of another ONNX Runtime")
    from benchmarks.kernels.lists import CPU, Build, lacking
    from benchmarks.kernels.registry import Registry

    written = tomllib.loads(Path(data_directory(), "targets", "ort-cpu.toml").read_text("utf-8"))
    for low in LOWS:
        assert lacking(Build(Registry(), (CPU,)), low, "nowhere") == written["nowhere"][low]


def test_a_target_is_usable_without_lists() -> None:
    target = Target("mine", 1e12, 1e-6, {}, {}, "a data sheet")
    assert target.refuses("onnx::Conv", "float16") == ""
