"""Hard models: model-local functions, sequences and optionals."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

from tests.onnx_cases import case, numbers

W = "float[2, 2] w = {0.1, 0.2, 0.3, 0.4}"
HEAD = '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>\n'


def _with_functions(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + text)


@case(fp32="exp")
def function_nested() -> onnx.ModelProto:
    """A function that calls a function; both are called more than once."""
    return _with_functions(f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [exp] e = Exp(x)
        [one] a = local.layer(e, w)
        [two] b = local.layer(a, w)
        [three] y = local.twice(b)
    }}
    <domain: "local", opset_import: ["" : 21, "local" : 1]>
    layer (a, k) => (b) {{
        [mm] m = MatMul(a, k)
        [call] b = local.twice(m)
    }}
    <domain: "local", opset_import: ["" : 21]>
    twice (a) => (b) {{ b = Add(a, a) }}""")


@case({"i": np.array([[1, 2], [3, 4000]]), "d": np.array([[0.1, 0.2], [0.3, 0.4]])})
def function_of_several_types() -> onnx.ModelProto:
    """One function called with float, double and integer operands."""
    return _with_functions("""g (float[2, 2] x, double[2, 2] d, int64[2, 2] i)
        => (float[2, 2] a, double[2, 2] b, int64[2, 2] c) {
        a = local.square(x)
        b = local.square(d)
        c = local.square(i)
    }
    <domain: "local", opset_import: ["" : 21]>
    square (a) => (b) { b = MatMul(a, a) }""")


@case()
def function_attribute_references() -> onnx.ModelProto:
    """Attributes by reference: with a default, without one, one that names a type, a float."""
    return _with_functions("""g (float[2, 2] x) => (float[2, 2] y, float[2, 2] z, double[2, 2] d) {
        y = local.scaled <factor = 0.5, axis = 0> (x)
        z = local.scaled <axis = 1> (x)
        d = local.to_type <kind = 11> (x)
    }
    <domain: "local", opset_import: ["" : 21]>
    scaled <axis, factor: float = 2.0> (a) => (b) {
        f = Constant<value_float: float = @factor>()
        s = Softmax<axis: int = @axis>(a)
        b = Mul(s, f)
    }
    <domain: "local", opset_import: ["" : 21]>
    to_type <kind> (a) => (b) { b = Cast<to: int = @kind>(a) }""")


@case(low="mm")
def function_of_older_opset() -> onnx.ModelProto:
    """The body imports opset 18, the model 21; its operators are the same in both."""
    return _with_functions(f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        y = local.act(a)
    }}
    <domain: "local", opset_import: ["" : 18]>
    act (a) => (b) {{
        t = Tanh(a)
        b = Mul(t, a)
    }}""")


@case({"c": np.array(True)}, {"c": np.array(False)})
def function_with_body() -> onnx.ModelProto:
    """A function that holds an If, called from the body of another."""
    return _with_functions(f"""g (bool c, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        y = If (c) <
            then_branch = t () => (float[2, 2] u) {{ u = local.choose(c, x, w) }},
            else_branch = e () => (float[2, 2] v) {{ v = local.choose(c, w, x) }}>
    }}
    <domain: "local", opset_import: ["" : 21]>
    choose (c, a, k) => (b) {{
        b = If (c) <
            then_branch = t () => (u) {{ u = MatMul(a, k) }},
            else_branch = e () => (v) {{ v = Exp(a) }}>
    }}""")


@case()
def function_never_called() -> onnx.ModelProto:
    """Nothing calls the function."""
    return _with_functions(f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{ y = MatMul(x, w) }}
    <domain: "local", opset_import: ["" : 21]>
    unused (a) => (b) {{ b = Exp(a) }}""")


@case(low="mm")
def sequence_split() -> str:
    """SplitToSequence, SequenceAt, ConcatFromSequence between products."""
    return f"""g (float[2, 2] x) => (float[2, 2] y, float[2, 1] z) <{W}, int64 first = {{0}}> {{
        [mm] a = MatMul(x, w)
        [split] s = SplitToSequence<axis = 1>(a)
        [at] z = SequenceAt(s, first)
        [cat] b = ConcatFromSequence<axis = 1>(s)
        [mm2] y = MatMul(b, w)
    }}"""


@case(low="mm", fp32="exp")
def sequence_construct() -> str:
    """What a sequence holds is of one type: here a product's and an exponential's results."""
    return f"""g (float[2, 2] x) => (float[2, 2] y, int64 n) <{W}, int64 last = {{-1}}> {{
        [mm] a = MatMul(x, w)
        [exp] e = Exp(x)
        [make] s = SequenceConstruct(a, e)
        [insert] t = SequenceInsert(s, x)
        [erase] u = SequenceErase(t, last)
        [length] n = SequenceLength(u)
        [at] y = SequenceAt(u, last)
    }}"""


@case()
def sequence_empty() -> str:
    """SequenceEmpty names its element type in an attribute that it does not have to have."""
    return f"""g (float[2, 2] x) => (float[N, 2] y) <{W}> {{
        [empty] s = SequenceEmpty()
        [typed] t = SequenceEmpty<dtype = 1>()
        [mm] a = MatMul(x, w)
        [one] s1 = SequenceInsert(s, a)
        [two] s2 = SequenceInsert(s1, x)
        [three] t1 = SequenceInsert(t, a)
        b = ConcatFromSequence<axis = 0>(s2)
        c = ConcatFromSequence<axis = 0>(t1)
        y = Concat<axis = 0>(b, c)
    }}"""


@case({"n": np.array(3)})
def sequence_in_loop() -> str:
    """A loop's state is a sequence that grows by a product in each round."""
    return f"""g (int64 n, float[2, 2] x) => (float[N, 2] y) <{W}> {{
        [empty] s0 = SequenceEmpty()
        [loop] s, last = Loop (n, , s0, x) <
            body = b (int64 i, bool ci, seq(float[2, 2]) s1, float[2, 2] a)
            => (bool co, seq(float[2, 2]) s2, float[2, 2] a1) {{
                co = Identity(ci)
                [mm] a1 = MatMul(a, w)
                s2 = SequenceInsert(s1, a1)
            }}>
        y = ConcatFromSequence<axis = 0>(s)
    }}"""


@case({"s": [numbers(2, 2), numbers(2, 2, seed=1)]})
def sequence_map() -> str:
    """SequenceMap runs its body for each element."""
    return f"""g (seq(float[2, 2]) s) => (seq(float[2, 2]) t) <{W}> {{
        [map] t = SequenceMap (s) <body = b (float[2, 2] a) => (float[2, 2] c) {{
            [mm] c = MatMul(a, w)
        }}>
    }}"""


@case({"s": [numbers(2, 2), numbers(2, 2, seed=1)]})
def sequence_interface() -> str:
    """Sequences as graph input and output keep their element type."""
    return f"""g (seq(float[2, 2]) s, float[2, 2] x) => (seq(float[2, 2]) t, float[2, 2] y)
        <{W}, int64 first = {{0}}> {{
        [at] a = SequenceAt(s, first)
        [mm] b = MatMul(a, w)
        t = SequenceInsert(s, b)
        [exp] e = Exp(b)
        y = Add(e, x)
    }}"""


@case({"c": np.array(True)}, {"c": np.array(False)})
def sequence_in_if() -> str:
    """Two branches give a sequence each."""
    return f"""g (bool c, float[2, 2] x) => (float[N, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [choose] s = If (c) <
            then_branch = t () => (seq(float[2, 2]) u) {{ u = SequenceConstruct(a, x) }},
            else_branch = e () => (seq(float[2, 2]) v) {{ v = SequenceConstruct(x, x, a) }}>
        y = ConcatFromSequence<axis = 0>(s)
    }}"""


@case({"o": numbers(2, 2)}, {"o": None})
def optional_input() -> str:
    """An optional tensor as graph input: its element type is the interface's."""
    return f"""g (optional(float[2, 2]) o, float[2, 2] x) => (float[2, 2] y, bool b) <{W}> {{
        [has] b = OptionalHasElement(o)
        y = If (b) <
            then_branch = t () => (float[2, 2] u) {{
                [get] g0 = OptionalGetElement(o)
                [mm] u = MatMul(g0, w)
            }},
            else_branch = e () => (float[2, 2] v) {{ v = Exp(x) }}>
    }}"""


@case(low="mm")
def optional_inside() -> str:
    """An Optional made of a product's result and opened again."""
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [wrap] o = Optional(a)
        [get] b = OptionalGetElement(o)
        [mm2] y = MatMul(b, w)
    }}"""
