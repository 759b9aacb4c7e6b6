"""Hard models: what is input, output, initialiser or several of them, names, and loose ends."""

from __future__ import annotations

import numpy as np
import onnx

from tests.onnx_cases import case, parsed, small

W = "float[2, 2] w = {0.1, 0.2, 0.3, 0.4}"


@case(low="mm", exact="w")
def initialiser_is_output() -> str:
    """The caller gets the weight unrounded."""
    return f"""g (float[2, 2] x) => (float[2, 2] y, float[2, 2] w) <{W}> {{
        [mm] y = MatMul(x, w)
    }}"""


@case(low="mm", exact="x")
def input_is_output() -> str:
    """An input that is handed through untouched, and read in the low type as well."""
    return f"""g (float[2, 2] x) => (float[2, 2] x, float[2, 2] y) <{W}> {{
        [mm] y = MatMul(x, w)
    }}"""


@case(low=("mm", "mm2"))
def output_is_consumed() -> str:
    """An output is also read inside: by an operator of each type."""
    return f"""g (float[2, 2] x) => (float[2, 2] a, float[2, 2] y, float[2, 2] e) <{W}> {{
        [mm] a = MatMul(x, w)
        [mm2] y = MatMul(a, w)
        [exp] e = Exp(a)
    }}"""


@case(low="mm")
def output_twice() -> str:
    """One value has two places among the outputs."""
    return f"""g (float[2, 2] x) => (float[2, 2] a, float[2, 2] y, float[2, 2] a) <{W}> {{
        [mm] a = MatMul(x, w)
        [exp] y = Exp(a)
    }}"""


@case(fp32="max", exact="y")
def denied_makes_output() -> str:
    """An operator that keeps FP32 makes an output, with nothing between."""
    return """g (float[2, 2] x) => (float[2, 2] y) <float tiny = {1e-08}> {
        [max] y = Max(x, tiny)
    }"""


@case(low="mm", opset=8, ir_version=3, ruled={"bfloat16": "opset 8 has none"})
def ir_3_initialisers_as_inputs() -> str:
    """IR version 3 lists every initialiser among the inputs: they are weights all the same."""
    return """g (float[2, 2] x, float[2, 2] w, float[2] b) => (float[2, 2] y)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}, float[2] b = {0.5, -0.5}> {
        [mm] a = MatMul(x, w)
        [add] y = Add(a, b)
    }"""


@case({}, {"scale": np.array([3.0, 4.0], np.float32)}, low="mm")
def input_with_default() -> str:
    """The caller may give another value than the initialiser's: the interface stays FP32."""
    return f"""g (float[2, 2] x, float[2] scale = {{0.1, 0.7}})
        => (float[2, 2] y, float[2] z) <{W}> {{
        [mm] a = MatMul(x, w)
        [mul] y = Mul(a, scale)
        [exp] z = Exp(scale)
    }}"""


@case()
def unread_initialisers() -> str:
    """Nobody reads some of the inputs, initialisers and results."""
    return f"""g (float[2, 2] x, float[2] unused) => (float[2, 2] y)
        <{W}, float[3] spare = {{1.5, 1e-09, 1e+09}}, int64 count = {{7}}> {{
        [mm] y = MatMul(x, w)
        [dead] e = Exp(x)
        [dead2] f = Relu(e)
    }}"""


@case()
def empty_graph() -> str:
    """No node at all."""
    return "g (float[2] x) => (float[2] x) { }"


@case()
def no_inputs() -> str:
    """Everything is constant: initialiser and Constant node, an output without any node."""
    return """g () => (float[2] y, float[2] c) <float[2] w = {0.1, 0.2}> {
        c = Constant<value = float[2] {0.3, 0.4}>()
        y = Add(w, c)
    }"""


@case(low="mm")
def scalars() -> str:
    """Tensors of rank 0, empty tensors and a product that gives a scalar."""
    return """g (float x, float[2] v) => (float y, float[0] z)
        <float[2] w = {0.1, 0.2}, float half = {0.5}, float[0] none = {}> {
        [mm] a = MatMul(v, w)
        [mul] b = Mul(a, half)
        [add] y = Add(b, x)
        [nothing] z = Tanh(none)
    }"""


@case(low="mm", runs="ONNX Runtime refuses two nodes of one name")
def names_missing_and_double() -> str:
    """Nodes without a name, and two of one name."""
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        b = Exp(a)
        c = Tanh(b)
        [same] d = MatMul(c, w)
        [same] e = Exp(d)
        y = MatMul(e, w)
    }}"""


@case(low="/layer.0/mm:1")
def names_unusual() -> str:
    """Slashes, colons, spaces, brackets and letters of other alphabets in every kind of name."""
    return """g (float[2, 2] "in/x:0") => (float[2, 2] "y [0] ü*?")
        <float[2, 2] "модель/w" = {0.1, 0.2, 0.3, 0.4}> {
        ["/layer.0/mm:1"] "层/1" = MatMul("in/x:0", "модель/w")
        ["a b[c]*"] "e::0" = Exp("层/1")
        ["ü"] "y [0] ü*?" = MatMul("e::0", "модель/w")
    }"""


@case(low="mm", fp32="exp")
def names_taken() -> str:
    """Names that a converter likes to give are taken already."""
    return """g (float[2, 2] x) => (float[2, 2] y)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}, float[2, 2] w_float16 = {1.0, 2.0, 3.0, 4.0},
         float[2, 2] "w/float16" = {1.0, 2.0, 3.0, 4.0}> {
        [mm] x_float16 = MatMul(x, w)
        [exp] "x/float16" = Exp(w)
        [a] "x_float16/float32" = MatMul(x_float16, w_float16)
        [b] x_cast = MatMul("x/float16", "w/float16")
        [x_cast] "Cast" = Add("x_float16/float32", x_cast)
        [Cast_0] y = MatMul("Cast", w)
    }"""


@case(low="mm")
def metadata() -> onnx.ModelProto:
    """Notes of every kind on model, graph, nodes and values stay where they are."""
    model = parsed(f"""g (float[2, 2] x) => (float[2, 2] y) <{W}, float[2, 2] a> {{
        [mm] a = MatMul(x, w)
        [exp] e = Exp(a)
        [mm2] y = MatMul(e, w)
    }}""")
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.test"
    model.model_version = 7
    graph = model.graph
    for number, owner in enumerate((model, graph, *graph.node, *graph.input, *graph.output,
                                    *graph.value_info, *graph.initializer)):  # fmt: skip
        entry = owner.metadata_props.add()
        entry.key, entry.value = "note", f"number {number}"
        owner.doc_string = f"text {number}"
    return model


@case({"shape": np.array([2, -1])}, low="mm")
def types_missing() -> str:
    """A Reshape whose shape is an input, and no type but those of inputs and outputs."""
    return f"""g (float[2, 6] x, int64[2] shape) => (float[A, B] y)
        <float[6, 2] w = {small(12)}> {{
        [reshape] r = Reshape(x, shape)
        [mm] a = MatMul(r, w)
        [exp] e = Exp(a)
        [same] y = Reshape(e, shape)
    }}"""


@case(low="mm", valid="the checker wants every output to have a rank")
def ranks_missing() -> onnx.ModelProto:
    """Outputs without a shape."""
    model = parsed(f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [exp] y = Exp(a)
    }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@case(low=("mm", "mm2"))
def unsorted_value_info() -> str:
    """The file says the type of every value between: those that change must change there too."""
    return f"""g (float[N, 2] x) => (float[N, 2] y)
        <float[N, 2] d, float[N, 2] a, float[N, 2] e, {W}> {{
        [mm] a = MatMul(x, w)
        [exp] e = Exp(a)
        [tanh] d = Tanh(e)
        [mm2] y = MatMul(d, w)
    }}"""
