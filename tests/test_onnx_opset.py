"""Raising a model's opset keeps its answers and all that it says of itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser
from onnx.backend import test as backend

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_opset import extends, lowest_version, raise_opset
from ampconvert.frontends.onnx_opset_steps import REWRITES, STUDIED
from tests.opset_cases import CHANGED, SAME

Array = np.ndarray[Any, Any]
STANDARD = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
DATA = Path(backend.__file__).parent / "data"
FILES = sorted((*DATA.rglob("model.onnx"), *DATA.glob("light/*.onnx")))
# ONNX Runtime 1.32 runs RoiAlign up to opset 21 on a CPU.
TARGETS = {"RoiAlign": 21}


def model(text: str, opset: int, ir_version: int = 7, more: str = "") -> onnx.ModelProto:
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{more}]>\n'
    return parser.parse_model(head + text)


def raised(source: onnx.ModelProto, version: int = 22) -> onnx.ModelProto:
    """The raised model, valid by the full checker; the source stays as it was."""
    given = ir.from_proto(source)
    before = ir.to_proto(given).SerializeToString(deterministic=True)
    result = ir.to_proto(raise_opset(given, version))
    assert ir.to_proto(given).SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result, full_check=True)
    return result


def run(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """The outputs by ONNX Runtime, without its graph optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def random_feeds(proto: onnx.ModelProto) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    weights = {one.name for one in proto.graph.initializer}
    feeds = {}
    for one in proto.graph.input:
        if one.name not in weights:
            tensor = one.type.tensor_type
            shape = [d.dim_value or 4 for d in tensor.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            feeds[one.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def assert_alike(expected: list[Any], got: list[Any], rtol: float = 1e-6) -> None:
    for a, b in zip(expected, got, strict=True):
        if isinstance(a, list):
            assert_alike(a, b, rtol)
        elif a.dtype.kind in "fc":
            assert a.dtype == b.dtype
            np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol)
        else:
            np.testing.assert_array_equal(b, a)


def titles(cases: list[tuple[int, str]]) -> list[str]:
    return [
        f"{number}-{opset}-{text.split('=>')[1][:60]}" for number, (opset, text) in enumerate(cases)
    ]


@pytest.mark.parametrize(("opset", "text"), CHANGED + SAME, ids=titles(CHANGED + SAME))
def test_answers_stay(opset: int, text: str) -> None:
    source = model(text, opset)
    op = source.graph.node[-1].op_type
    result = raised(source, TARGETS.get(op, 22))
    feeds = random_feeds(source)
    assert_alike(run(source, feeds), run(result, feeds))


@pytest.mark.parametrize(("opset", "text"), SAME, ids=titles(SAME))
def test_a_number_is_all_that_changes(opset: int, text: str) -> None:
    source = model(text, opset)
    result = raised(source)
    assert result.opset_import[0].version == 22
    assert ir.from_proto(source).graph.num_nodes() == len(result.graph.node)
    result.opset_import[0].version, result.ir_version = opset, source.ir_version
    assert result == ir.to_proto(ir.from_proto(source))


def test_every_rewrite_has_a_case() -> None:
    for op, version in REWRITES:
        if 7 < version <= 22 and (op, version) != ("Scan", 9):  # which is refused, see below
            assert any(opset < version and f" {op} " in text for opset, text in CHANGED), op


@pytest.mark.parametrize("op", sorted({s.name for s in STANDARD}))
def test_every_change_of_a_schema_is_known(op: str) -> None:
    """What no rewrite is for must take all that it took before, with the same defaults."""
    history = sorted((s for s in STANDARD if s.name == op), key=lambda s: s.since_version)
    for old, new in itertools.pairwise(history):
        if 6 < new.since_version <= STUDIED and (op, new.since_version) not in REWRITES:
            assert extends(old, new), f"{op} {new.since_version}"


def test_every_rewrite_is_of_a_change() -> None:
    assert set(REWRITES) <= {(s.name, s.since_version) for s in STANDARD}


def test_a_changed_default_is_not_taken_for_an_addition() -> None:
    def at(op: str, version: int) -> Any:
        return onnx.defs.get_schema(op, version, "")

    assert extends(at("Conv", 11), at("Conv", 22))
    assert extends(at("Shape", 13), at("Shape", 15))  # two optional attributes more
    for op, old, new in (
        ("Softmax", 11, 13),  # another default
        ("Erf", 9, 13),  # fewer types
        ("TopK", 1, 10),  # an attribute less
        ("BatchNormalization", 9, 14),  # fewer outputs
        ("Upsample", 9, 10),  # gone
    ):
        assert not extends(at(op, old), at(op, new))


SIX: list[tuple[str, Callable[..., Array]]] = [
    (
        "g (float[N,3,4,4] x, float[3] s) => (float[N,3,4,4] y) "
        "{ y = Add <broadcast=1, axis=1> (x, s) }",
        lambda x, s: x + s[:, None, None],
    ),
    (
        "g (float[2,3,4] x, float[3,4] s) => (float[2,3,4] y) { y = Sub <broadcast=1> (x, s) }",
        lambda x, s: x - s,
    ),
    (
        "g (float[2,3,4] x, float[3,4] s) => (bool[2,3,4] y) "
        "{ y = Less <broadcast=1, axis=1> (x, s) }",
        lambda x, s: x < s,
    ),
    (
        "g (float[2,3,4] x, float[3] s) => (float[2,3,4] y) { y = PRelu (x, s) }",
        lambda x, s: np.where(x < 0, x * s[:, None], x),
    ),
    (
        "g (float[2,3,4] x, float[1] s) => (float[2,3,4] y) { y = PRelu (x, s) }",
        lambda x, s: np.where(x < 0, x * s, x),
    ),
    (
        "g (float[2,3] x, float[3,4] w, float[4] b) => (float[2,4] y) "
        "{ y = Gemm <broadcast=1> (x, w, b) }",
        lambda x, w, b: x @ w + b,
    ),
    (
        "g (float[1,1,2,2] x) => (float[1,1,4,6] y) "
        "{ y = Upsample <height_scale=2.0, width_scale=3.0> (x) }",
        lambda x: x.repeat(2, 2).repeat(3, 3),
    ),
    ("g (float[2,3] x) => (float[2,3] y) { y = Dropout <is_test=1> (x) }", lambda x: x),
]


@pytest.mark.parametrize(("text", "meaning"), SIX, ids=[t.split("y = ")[1][:40] for t, _ in SIX])
def test_opset_6_keeps_its_meaning(text: str, meaning: Callable[..., Array]) -> None:
    source = model(text, 6, ir_version=3)
    feeds = random_feeds(source)
    assert_alike([meaning(*feeds.values())], run(raised(source), feeds))


def test_attributes_and_types_that_are_gone() -> None:
    """The full checker in `raised` sees them."""
    lstm = "g (float[5,2,3] x, float[1,16,3] w, float[1,16,4] r) => (float[5,1,2,4] y) "
    raised(model(lstm + "{ y = LSTM <hidden_size=4, output_sequence=1> (x, w, r) }", 6))
    mask = "g (float[2,3] x) => (float[2,3] y) <float[2,3] m> { y, m = Dropout (x) }"
    raised(model(mask, 9), 11)


NOTED = """
g (float[2,3,4] x) => (float[2,3,4] y, float[2,3] z) <float[2,3,4] h> {
  [one] h = Relu (x)
  [two] y = Softmax <axis=1> (h)
  [three] z = ReduceMax <axes=[-1], keepdims=0> (y)
}"""


def test_names_notes_and_types_stay() -> None:
    source = model(NOTED, 12)
    for node in source.graph.node:
        node.doc_string = f"about {node.name}"
        node.metadata_props.add(key="scope", value=f"encoder.{node.name}")
    source.graph.value_info[0].metadata_props.add(key="of", value="h")
    source.graph.doc_string, source.doc_string, source.producer_name = "graph", "model", "me"
    source.metadata_props.add(key="licence", value="free")
    source = ir.to_proto(ir.from_proto(source))  # writes out what is empty
    result = raised(source)
    assert [i.name for i in result.graph.input] == ["x"]
    assert list(result.graph.output) == list(source.graph.output)
    assert list(result.graph.value_info) == list(source.graph.value_info)
    assert result.graph.node[0] == source.graph.node[0]
    kept = {n.name: n for n in result.graph.node}
    for before in source.graph.node:
        after = kept[before.name]
        assert (after.op_type, after.doc_string) == (before.op_type, before.doc_string)
        assert after.metadata_props == before.metadata_props
    scopes = {n.metadata_props[0].value for n in result.graph.node}
    assert scopes == {"encoder.one", "encoder.two", "encoder.three"}
    assert len(kept) == len(result.graph.node) == 7
    del result.graph.node[:], source.graph.node[:]
    result.opset_import[0].version, result.ir_version = 12, source.ir_version
    assert result == source


def test_new_names_avoid_those_of_the_model() -> None:
    text = """g (float[2,3,4] x, bool c) => (float[2,3,4] y) {
      [s] h = Softmax (x)
      y = If <then_branch = t () => (float[2,3,4] p) { p = Softmax (h) },
              else_branch = e () => (float[2,3,4] q) { [u] r = Relu (h) q = Relu (r) }> (c)
    }"""
    given = ir.from_proto(model(text, 12))
    relu = next(node for node in given.graph.all_nodes() if node.name == "u")
    relu.name, relu.outputs[0].name = "s/Flatten", "s/Flatten_output"
    result = ir.from_proto(raised(ir.to_proto(given)))
    values = [v.name for node in result.graph.all_nodes() for v in node.outputs]
    nodes = [node.name for node in result.graph.all_nodes() if node.name]
    assert len(values) == len(set(values)) and len(nodes) == len(set(nodes))


@pytest.mark.parametrize("size", [10, 2**30])
def test_weights_are_neither_read_nor_copied(size: int) -> None:
    """The file of the weights does not exist; the larger one would have 4 GiB."""
    given = ir.from_proto(model(NOTED.replace("Relu (x)", "Add (x, x)"), 12))
    tensor = ir.ExternalTensor(
        "nowhere.data", 0, 4 * size, ir.DataType.FLOAT, name="w", shape=ir.Shape([size])
    )
    weight = ir.Value(name="w", const_value=tensor, type=ir.TensorType(ir.DataType.FLOAT))
    given.graph.register_initializer(weight)
    result = raise_opset(given, 22)
    assert result.graph.initializers["w"].const_value is tensor
    assert result.opset_imports[""] == 22 and given.opset_imports[""] == 12


def test_initialisers_that_are_inputs_stay_so() -> None:
    source = model(
        "g (float[2,3] x, float[3] w) => (float[2,3] y) { a = Add (x, w) y = Clip <min=0.0> (a) }",
        9,
        ir_version=3,
    )
    source.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    result = raised(source)
    assert [i.name for i in result.graph.input] == ["x", "w"]
    assert result.graph.initializer[0] == source.graph.initializer[0]
    assert result.ir_version == 10


def test_other_domains_are_left_alone() -> None:
    source = model(
        "g (float[2,3,4] x) => (float[2,3,4] y) "
        "{ [s] h = Softmax (x) [g] y = com.microsoft.Gelu (h) }",
        12,
        more=', "com.microsoft" : 1, "mine" : 7',
    )
    given = ir.to_proto(raise_opset(ir.from_proto(source), 22))
    assert {o.domain: o.version for o in given.opset_import} == {
        "": 22, "com.microsoft": 1, "mine": 7,
    }  # fmt: skip
    assert given.graph.node[-1] == source.graph.node[-1]
    feeds = random_feeds(source)
    assert_alike(run(source, feeds), run(given, feeds))


def test_the_other_spelling_of_the_domain() -> None:
    source = model("g (float[2,3] x) => (float[2,3] y) { y = Clip <min=0.0> (x) }", 9)
    source.opset_import[0].domain = "ai.onnx"
    result = raised(source)
    assert [(o.domain, o.version) for o in result.opset_import] == [("", 22)]
    assert len(result.graph.node[-1].input) == 2


def test_a_model_without_the_domain_gets_it() -> None:
    source = parser.parse_model(
        '<ir_version: 7, opset_import: ["com.microsoft" : 1]>\n'
        "g (float[2] x) => (float[2] y) { y = com.microsoft.Gelu (x) }"
    )
    assert raise_opset(ir.from_proto(source), 22).opset_imports == {"com.microsoft": 1, "": 22}


@pytest.mark.parametrize("opset", [22, 24])
def test_a_later_model_is_copied(opset: int) -> None:
    source = model("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset)
    assert raised(source) == ir.to_proto(ir.from_proto(source))


REFUSED = [
    (8, "y = Scan <num_scan_inputs=1, body = b (float[3] t) => (float[3] o) "
        "{ o = Relu (t) }> (, x)", "batch dimension"),
    (10, "s = Relu (v) [r] y = Resize (x, s)", "computes its scales"),
    (10, "s = Constant <value_floats = [2.0, 0.5]> () [r] y = Resize (x, s)", "grows and shrinks"),
    (11, 'r = Constant <value = float[0] {}> () [r] y = Resize <mode = "linear", '
         'coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, v)', "is gone"),
    (9, "[r] y, m = Dropout (x) z = Not (m)", "mask is read"),
    (8, "[r] y = BatchNormalization <spatial=0> (x, v, v, v, v)", "spatial=0"),
    (9, "[r] y, a, b = BatchNormalization (x, v, v, v, v)", "training"),
    (6, "[r] y = BatchNormalization <is_test=0> (x, v, v, v, v)", "training"),
    (6, "h = Relu (x) s = Relu (v) [r] y = Add <broadcast=1, axis=0> (h, s)", "ranks"),
    (9, "c = Cast <to=6> (x) [r] y = Erf (c)", "floating-point"),
    (12, "[r] y = Affine <alpha=2.0> (x)", "no operator Affine"),
    (5, "[r] y = Relu (x)", "from opset 6 on"),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "text", "why"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_has_no_equal_is_refused_by_name(opset: int, text: str, why: str) -> None:
    source = model(f"g (float[2,2] x, float[2] v) => (y) {{ {text} }}", opset)
    with pytest.raises(UserError, match=why) as error:
        raise_opset(ir.from_proto(source), 22)
    assert "'r'" in str(error.value) or opset == 5 or "Scan" in text


def test_an_unknown_opset_is_refused() -> None:
    source = ir.from_proto(model("g (float[2] x) => (float[2] y) { y = Relu (x) }", 12))
    with pytest.raises(UserError, match=f"opset {STUDIED + 1} is not known"):
        raise_opset(source, STUDIED + 1)


@pytest.mark.parametrize(
    ("op", "domain", "low", "version", "expected"),
    [
        ("Conv", "", "bfloat16", 7, 22),
        ("Conv", "ai.onnx", "float16", 7, 7),
        ("MatMul", "", "bfloat16", 9, 13),
        ("MatMul", "", "bfloat16", 17, 17),
        ("BatchNormalization", "", "bfloat16", 9, 14),
        ("Upsample", "", "bfloat16", 9, 13),  # as Resize
        ("Resize", "", "float16", 10, 10),
        ("CumSum", "", "float16", 11, 14),
        ("DequantizeLinear", "", "float16", 13, 19),
        ("If", "", "bfloat16", 11, 16),
        ("Shrink", "", "bfloat16", 9, None),
        ("NonMaxSuppression", "", "float16", 11, None),
        ("Gelu", "com.microsoft", "bfloat16", 1, 1),
        ("Own", "mine", "float16", 1, None),
    ],
)
def test_lowest_version(op: str, domain: str, low: Any, version: int, expected: int | None) -> None:
    assert lowest_version(op, domain, low, version) == expected


def test_lowest_version_of_chosen_operands() -> None:
    assert lowest_version("Pow", "", "bfloat16", 12) == 15  # base and exponent
    assert lowest_version("Pow", "", "bfloat16", 12, inputs=[0]) == 13


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_models_of_the_standard(path: Path) -> None:
    """Answers as ONNX Runtime gave before; for opset 6, which it does not run, as the files say."""
    source = onnx.load(path)
    result = raised(source)
    if any(o.domain == "ai.onnx.preview.training" for o in source.opset_import):
        pytest.skip("ONNX Runtime has no operator Gradient")
    if "strnorm" in str(path):
        pytest.skip("needs a locale that is not installed everywhere")
    stored = path.parent / "test_data_set_0"
    given = [read(stored / f"input_{i}.pb", one) for i, one in enumerate(wanted(source))]
    feeds = dict(zip((one.name for one in wanted(source)), given, strict=True))
    if source.opset_import[0].version > 6:
        assert_alike(run(source, feeds), run(result, feeds), 1e-5)
    else:
        expected = [read(stored / f"output_{i}.pb", o) for i, o in enumerate(source.graph.output)]
        assert_alike(expected, run(result, feeds), 1e-3)


def wanted(source: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {one.name for one in source.graph.initializer}
    return [one for one in source.graph.input if one.name not in weights]


def read(path: Path, declared: onnx.ValueInfoProto) -> Any:
    """What the file holds; random numbers where there is none."""
    if not path.exists():
        return next(iter(random_feeds(onnx.ModelProto(graph={"input": [declared]})).values()))
    if declared.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))
