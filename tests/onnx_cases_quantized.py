"""Hard models: quantized ones. Scales are float32 up to opset 18, of any float type from 19 on."""

from __future__ import annotations

import onnx

from tests.onnx_cases import case, parsed

W = "float[2, 2] w = {0.1, 0.2, 0.3, 0.4}"
Q8 = "int8[2, 2] q = {10, -20, 30, 127}, float s = {0.01}, int8 z = {0}"


def _qdq(opset: int) -> str:
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{W}, {Q8}> {{
        [mm] a = MatMul(x, w)
        [q] b = QuantizeLinear(a, s, z)
        [dq] c = DequantizeLinear(b, s, z)
        [dqw] v = DequantizeLinear(q, s, z)
        [mm2] y = MatMul(c, v)
    }}"""


@case(opset=13, ir_version=7, fp32=("q", "dq", "dqw"), low=("mm", "mm2"))
def qdq_opset_13() -> str:
    """A float16 scale is not legal here."""
    return _qdq(13)


@case(opset=19, ir_version=9, fp32=("q", "dq", "dqw"), low=("mm", "mm2"))
def qdq_opset_19() -> str:
    """Here it is; the scale's type is also the result's."""
    return _qdq(19)


@case(fp32=("q", "dq", "dqw"), low=("mm", "mm2"))
def qdq_opset_21() -> str:
    """Two types at once: the operand's and the scale's."""
    return _qdq(21)


@case(low="mm")
def qdq_blocked_int4() -> onnx.ModelProto:
    """A weight of four bits with a scale per block; the text format does not pack such a weight."""
    model = parsed("""g (float[2, 4] x) => (float[2, 2] y)
        <float[2, 2] s = {0.1, 0.2, 0.3, 0.05}> {
        [dqw] v = DequantizeLinear<axis = 0, block_size = 2>(q, s)
        [mm] y = MatMul(x, v)
    }""")
    packed = onnx.helper.make_tensor("q", onnx.TensorProto.INT4, (4, 2), (1, -2, 3, 7, -8, 0, 2, 5))
    model.graph.initializer.append(packed)
    return model


@case(fp32="dql")
def dynamic_quantize() -> str:
    """DynamicQuantizeLinear is float32 by its schema; its scale is a float32 result."""
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{W},
        uint8[2, 2] q = {{1, 2, 3, 200}}, float ws = {{0.02}}, uint8 wz = {{100}}> {{
        [mm] a = MatMul(x, w)
        [dql] b, s, z = DynamicQuantizeLinear(a)
        [mmi] m = MatMulInteger(b, q, z, wz)
        [cast] f = Cast<to = 1>(m)
        scale = Mul(s, ws)
        y = Mul(f, scale)
    }}"""


@case(fp32=("qmm", "q", "dq"))
def q_linear_mat_mul() -> str:
    """Operators on integers whose scales are float32."""
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{Q8}> {{
        r = Relu(x)
        [q] a = QuantizeLinear(r, s, z)
        [qmm] b = QLinearMatMul(a, s, z, q, s, z, s, z)
        [dq] y = DequantizeLinear(b, s, z)
    }}"""
