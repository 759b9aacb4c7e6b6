"""Hard models: If, Loop and Scan."""

from __future__ import annotations

import numpy as np

from tests.onnx_cases import case

BOTH = ({"c": np.array(True)}, {"c": np.array(False)})
W = "float[2, 2] w = {0.1, 0.2, 0.3, 0.4}"


@case(*BOTH, low="mm")
def if_captures_outer() -> str:
    """A branch reads a value of the graph around it, which is in the low type there."""
    return f"""g (bool c, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [choose] y = If (c) <
            then_branch = t () => (float[2, 2] u) {{ [mm_then] u = MatMul(a, w) }},
            else_branch = e () => (float[2, 2] v) {{ [add] v = Add(a, w) }}>
    }}"""


@case(
    {"c": np.array(True), "d": np.array(True)},
    {"c": np.array(True), "d": np.array(False)},
    {"c": np.array(False), "d": np.array(False)},
    fp32="exp",
    low="mm",
)
def if_nested() -> str:
    """Two levels deep a body reads values of every level, by readers of both types."""
    return f"""g (bool c, bool d, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [outer] y = If (c) <
            then_branch = t () => (float[2, 2] u) {{
                [mm1] b = MatMul(a, w)
                [inner] u = If (d) <
                    then_branch = tt () => (float[2, 2] p) {{ [mm2] p = MatMul(b, a) }},
                    else_branch = te () => (float[2, 2] q) {{ [exp] q = Exp(b) }}>
            }},
            else_branch = e () => (float[2, 2] v) {{ v = Relu(x) }}>
    }}"""


@case(*BOTH, fp32="exp", low="mm_then")
def if_same_names() -> str:
    """Both branches use the same value, initialiser and node names for different things."""
    return """g (bool c, float[2, 2] x) => (float[2, 2] y) {
        [choose] y = If (c) <
            then_branch = b () => (float[2, 2] r) <float[2, 2] k = {0.1, 0.2, 0.3, 0.4}> {
                [mm_then] h = MatMul(x, k)
                [last] r = Add(h, k)
            },
            else_branch = b () => (float[2, 2] r) <float[2, 2] k = {1.5, 2.5, 3.5, 4.5}> {
                [exp] h = Exp(x)
                [last] r = Add(h, k)
            }>
    }"""


@case(*BOTH, fp32="exp", low=("mm", "mm_else", "mm_after"))
def if_denied_branch() -> str:
    """An FP32-required operator in one branch only; both branches must give one type."""
    return f"""g (bool c, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [choose] b = If (c) <
            then_branch = t () => (float[2, 2] u) {{ [exp] u = Exp(a) }},
            else_branch = e () => (float[2, 2] v) {{ [mm_else] v = MatMul(a, w) }}>
        [mm_after] y = MatMul(b, w)
    }}"""


@case(*BOTH, low="mm")
def if_gives_outer_value() -> str:
    """A branch hands an outer value, and an outer initialiser, through an Identity."""
    return f"""g (bool c, float[2, 2] x) => (float[2, 2] y, float[2, 2] z) <{W}> {{
        [mm] a = MatMul(x, w)
        [choose] y, z = If (c) <
            then_branch = t () => (float[2, 2] u, float[2, 2] k) {{
                u = Identity(a)
                k = Identity(w)
            }},
            else_branch = e () => (float[2, 2] v, float[2, 2] l) {{
                v = Identity(x)
                l = MatMul(a, w)
            }}>
    }}"""


@case(*BOTH, low="mm")
def if_constant_branches() -> str:
    """The branches hold nothing but constants: an initialiser and a Constant node."""
    return f"""g (bool c, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [choose] k = If (c) <
            then_branch = t () => (float[2, 2] u) <float[2, 2] m = {{1.0, 2.0, 3.0, 4.0}}> {{
                u = Identity(m)
            }},
            else_branch = e () => (float[2, 2] v) {{
                v = Constant<value = float[2, 2] {{5.0, 6.0, 7.0, 8.0}}>()
            }}>
        [mm] y = MatMul(x, k)
    }}"""


@case(*BOTH, low="mm")
def if_condition_from_floats() -> str:
    """The condition compares floats; several outputs, one of them an integer, one unused."""
    return f"""g (bool c, float[2, 2] x) => (float[2, 2] y, int64[2] n)
        <{W}, float zero = {{0.0}}> {{
        [mm] a = MatMul(x, w)
        [max] m = ReduceMax<keepdims = 0>(a)
        [test] gt = Greater(m, zero)
        [either] d = Or(gt, c)
        [choose] y, n, unused = If (d) <
            then_branch = t () => (float[2, 2] u, int64[2] i, float[2, 2] e1) {{
                u = Relu(a)
                i = Shape(a)
                e1 = Exp(a)
            }},
            else_branch = e () => (float[2, 2] v, int64[2] j, float[2, 2] e2) {{
                v = Neg(a)
                j = Shape(x)
                e2 = Log(x)
            }}>
    }}"""


@case({"n": np.array(3), "go": np.array(True)}, low="mm")
def loop_float_state() -> str:
    """The carried state has one type at entry, inside and at exit."""
    return f"""g (int64 n, bool go, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [loop] y = Loop (n, go, x) <body = b (int64 i, bool ci, float[2, 2] s)
            => (bool co, float[2, 2] t) {{
                co = Identity(ci)
                [mm] t = MatMul(s, w)
            }}>
    }}"""


@case({"n": np.array(3)}, fp32="exp", low="mm")
def loop_denied_state() -> str:
    """The state is made by an FP32-required operator and read by a product; then both outside."""
    return f"""g (int64 n, float[2, 2] x) => (float[2, 2] y) <{W}, float tenth = {{0.1}}> {{
        [loop] s = Loop (n, , x) <body = b (int64 i, bool ci, float[2, 2] s0)
            => (bool co, float[2, 2] s1) {{
                co = Identity(ci)
                [mm] h = MatMul(s0, w)
                scaled = Mul(h, tenth)
                [exp] s1 = Exp(scaled)
            }}>
        [mm_after] y = MatMul(s, w)
    }}"""


@case({"n": np.array(4), "go": np.array(True)}, low="mm")
def loop_scan_outputs() -> str:
    """Scan outputs, captured weights, two states that swap their places, an integer counter."""
    return f"""g (int64 n, bool go, float[2, 2] x)
        => (float[2, 2] y, float[2, 2] z, int64 k, float[N, 2, 2] all, float[N, 2] rows)
        <{W}, int64 zero = {{0}}, int64[1] first = {{0}}> {{
        [loop] y, z, k, all, rows = Loop (n, go, x, w, zero) <
            body = b (int64 i, bool ci, float[2, 2] s, float[2, 2] t, int64 j)
            => (bool co, float[2, 2] s1, float[2, 2] t1, int64 j1, float[2, 2] o, float[2] r) {{
                co = Identity(ci)
                [mm] s1 = MatMul(t, w)
                t1 = Identity(s)
                j1 = Add(j, i)
                [exp] o = Exp(s)
                [sum] r = ReduceSum<keepdims = 0>(t, first)
            }}>
    }}"""


@case({"n": np.array(50)}, low="mm")
def loop_until_compare() -> str:
    """The loop goes on while a float is small: the comparison steers how often it runs."""
    return """g (int64 n, float[1, 2] x) => (float[1, 2] y, int64 k)
        <float[2, 2] w = {1.5, 0.0, 0.0, 1.25}, float limit = {20.0},
         float[1, 2] start = {1.0, 1.0}, bool go = {1}, int64 zero = {0}, int64 one = {1}> {
        [loop] y, k = Loop (n, go, start, zero) <body = b (int64 i, bool ci, float[1, 2] s, int64 j)
            => (bool co, float[1, 2] s1, int64 j1) {
                [mm] s1 = MatMul(s, w)
                m = ReduceMax<keepdims = 0>(s1)
                [test] co = Less(m, limit)
                j1 = Add(j, one)
            }>
        unused = Relu(x)
    }"""


@case({"n": np.array(0)}, {"n": np.array(2)}, low="mm")
def loop_without_rounds() -> str:
    """No round is run: the state goes straight from entry to exit, and still has one type."""
    return f"""g (int64 n, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [exp] e = Sigmoid(x)
        [loop] s = Loop (n, , e) <body = b (int64 i, bool ci, float[2, 2] s0)
            => (bool co, float[2, 2] s1) {{
                co = Identity(ci)
                [mm] s1 = MatMul(s0, w)
            }}>
        y = Add(s, x)
    }}"""


@case(low="mm")
def scan_state_and_inputs() -> str:
    """State, scan inputs and scan outputs; the body's product reads both."""
    return f"""g (float[2, 2] s0, float[5, 2, 2] xs) => (float[2, 2] y, float[5, 2, 2] all) <{W}> {{
        [scan] y, all = Scan <num_scan_inputs = 1, body = b (float[2, 2] s, float[2, 2] x)
            => (float[2, 2] t, float[2, 2] o) {{
                [mm] m = MatMul(x, w)
                [add] t = Add(m, s)
                [tanh] o = Tanh(t)
            }}> (s0, xs)
    }}"""


@case({"ids": np.arange(10).reshape(2, 5) * 600}, fp32="exp")
def scan_reverse() -> str:
    """Reverse directions, other axes, an integer scan input, no state."""
    return """g (float[2, 5] xs, int64[2, 5] ids) => (float[2, 5] y, int64[5, 2] z) {
        [scan] y, z = Scan <num_scan_inputs = 2, scan_input_axes = [1, 1],
            scan_input_directions = [1, 0], scan_output_axes = [1, 0],
            scan_output_directions = [1, 1],
            body = b (float[2] x, int64[2] i) => (float[2] o, int64[2] j) {
                [exp] e = Exp(x)
                [half] h = Sigmoid(e)
                o = Add(h, x)
                j = Neg(i)
            }> (xs, ids)
    }"""


@case({"c": np.array(True), "n": np.array(3)}, {"c": np.array(False), "n": np.array(3)}, low="mm")
def loop_in_if() -> str:
    """A Loop in a branch, whose body reads values of both graphs around it."""
    return f"""g (bool c, int64 n, float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [before] a = Tanh(x)
        [choose] y = If (c) <
            then_branch = t () => (float[2, 2] u) <float[2, 2] k = {{1.0, 0.5, 0.25, 0.125}}> {{
                [loop] u = Loop (n, , x) <body = b (int64 i, bool ci, float[2, 2] s)
                    => (bool co, float[2, 2] s1) {{
                        co = Identity(ci)
                        [mm] m = MatMul(s, k)
                        [add] s1 = Add(m, a)
                    }}>
            }},
            else_branch = e () => (float[2, 2] v) {{ v = Exp(a) }}>
    }}"""


@case({"n": np.array(3)}, fp32="exp", low="mm")
def if_in_loop() -> str:
    """An If in a loop's body chooses by the round, and its result is the next state."""
    return f"""g (int64 n, float[2, 2] x) => (float[2, 2] y) <{W}, int64 one = {{1}}> {{
        [loop] y = Loop (n, , x) <body = b (int64 i, bool ci, float[2, 2] s)
            => (bool co, float[2, 2] s1) {{
                co = Identity(ci)
                odd = Equal(i, one)
                [choose] s1 = If (odd) <
                    then_branch = t () => (float[2, 2] u) {{ [mm] u = MatMul(s, w) }},
                    else_branch = e () => (float[2, 2] v) {{ [exp] v = Exp(s) }}>
            }}>
    }}"""


@case({"n": np.array(2)}, low="mm")
def loop_passes_state() -> str:
    """A state that the body only hands on, and one that it replaces by a captured value."""
    return f"""g (int64 n, float[2, 2] x) => (float[2, 2] y, float[2, 2] z) <{W}> {{
        [mm] a = MatMul(x, w)
        [loop] y, z = Loop (n, , a, x) <
            body = b (int64 i, bool ci, float[2, 2] s, float[2, 2] t)
            => (bool co, float[2, 2] s1, float[2, 2] t1) {{
                co = Identity(ci)
                s1 = Identity(s)
                t1 = Identity(a)
            }}>
    }}"""


@case({"n": np.array(3)}, low="mm")
def loop_in_loop() -> str:
    """The inner loop's state starts from the outer one's and ends in it."""
    return f"""g (int64 n, float[2, 2] x) => (float[2, 2] y, float[N, 2, 2] all) <{W}> {{
        [outer] y, all = Loop (n, , x) <body = b (int64 i, bool ci, float[2, 2] s)
            => (bool co, float[2, 2] s2, float[2, 2] o) {{
                co = Identity(ci)
                [inner] s1 = Loop (n, , s) <body = bb (int64 j, bool cj, float[2, 2] t)
                    => (bool ck, float[2, 2] t1) {{
                        ck = Identity(cj)
                        [mm] t1 = MatMul(t, w)
                    }}>
                s2 = Tanh(s1)
                o = Exp(s1)
            }}>
    }}"""
