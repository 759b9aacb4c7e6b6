"""Hard models: operators that are not ONNX's own, and classical machine learning."""

from __future__ import annotations

import numpy as np

from tests.onnx_cases import case, small

W = "float[2, 2] w = {0.1, 0.2, 0.3, 0.4}"
MS = {"com.microsoft": 1}
ROWS = "float[1, 2, 4] x"
W4 = f"float[4, 4] w = {small(16)}"


@case(domains=MS, low=("fused", "mm"))
def contrib_fused_mat_mul() -> str:
    """Both of its operands change together; its alpha is an attribute and stays a float."""
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [fused] a = com.microsoft.FusedMatMul<alpha = 0.125, transB = 1>(x, w)
        [exp] e = Exp(a)
        [mm] y = MatMul(e, w)
    }}"""


@case(domains=MS, low="mm")
def contrib_gelu() -> str:
    """Gelu, BiasGelu and QuickGelu between products."""
    return f"""g ({ROWS}) => (float[1, 2, 4] y) <{W4}, float[4] b = {{0.1, -0.2, 0.3, 0.0}}> {{
        [mm] a = MatMul(x, w)
        [gelu] g0 = com.microsoft.Gelu(a)
        [bias] g1 = com.microsoft.BiasGelu(g0, b)
        [quick] g2 = com.microsoft.QuickGelu<alpha = 1.702>(g1)
        [mm2] y = MatMul(g2, w)
    }}"""


@case(domains=MS, low="mm")
def contrib_skip_layer_norm() -> str:
    """Results that are left out in the middle, and one that is the sum of the operands."""
    return f"""g ({ROWS}) => (float[1, 2, 4] y, float[1, 2, 4] z)
        <{W4}, float[4] g0 = {{1.0, 0.9, 1.1, 1.0}}, float[4] b = {{0.1, -0.2, 0.3, 0.0}}> {{
        [mm] a = MatMul(x, w)
        [norm] n, , , z = com.microsoft.SkipLayerNormalization<epsilon = 0.00001>(a, x, g0, b)
        [mm2] y = MatMul(n, w)
    }}"""


@case({"mask": np.array([[1, 0]], np.int32)}, domains=MS, low="attention")
def contrib_attention() -> str:
    """Weights, bias and an integer mask; operands that are left out behind them."""
    return f"""g ({ROWS}, int32[1, 2] mask) => (float[1, 2, 4] y)
        <float[4, 12] w = {small(48)}, float[12] b = {small(12, 1)}> {{
        [attention] y = com.microsoft.Attention<num_heads = 2>(x, w, b, mask)
    }}"""


@case(domains=MS, low="mm")
def contrib_fused_conv() -> str:
    """An activation's name is an attribute of the operator."""
    return f"""g (float[1, 1, 4, 4] x) => (float[1, 4, 4] y)
        <float[1, 1, 1, 1] k = {{0.7}}, int64[1] axes = {{1}}, {W4}> {{
        [conv] c = com.microsoft.FusedConv<activation = "Relu">(x, k)
        s = Squeeze(c, axes)
        [mm] y = MatMul(s, w)
    }}"""


@case(domains={"my.company": 1}, runs="nobody has its operator", low=("mm", "mm2"))
def custom_domain() -> str:
    """No one knows what types an unknown operator takes: what it reads and makes stays FP32."""
    return f"""g (float[2, 2] x) => (float[2, 2] y)
        <{W}, float[2] k = {{0.5, 0.25}}, float[2, 2] mine> {{
        [mm] a = MatMul(x, w)
        [custom] mine = my.company.Mystery<alpha = 1.5>(a, w, k)
        [mm2] y = MatMul(mine, w)
    }}"""


@case(domains={"my.company": 1}, runs="nobody has its operator", low="mm")
def custom_domain_untyped() -> str:
    """Its result's type is not in the file, and what is computed from that neither."""
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [custom] b, n = my.company.Mystery(a)
        [act] c = Tanh(b)
        [cast] y = Cast<to = 1>(c)
    }}"""


@case(domains={"ai.onnx.ml": 3}, low="mm")
def ml_scaler() -> str:
    """An ai.onnx.ml operator behind a product: its result is float32 by the schema."""
    return f"""g (float[2, 2] x) => (float[2, 2] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [scale] b = ai.onnx.ml.Scaler<offset = [0.1, 0.2], scale = [2.0, 0.5]>(a)
        [mm2] y = MatMul(b, w)
    }}"""


@case(domains={"ai.onnx.ml": 3}, fp32="classify")
def ml_classifier() -> str:
    """Labels and scores of a classifier."""
    return f"""g (float[2, 2] x) => (int64[2] label, float[2, 2] p) <{W}> {{
        a = Mul(x, w)
        [classify] label, p = ai.onnx.ml.LinearClassifier<classlabels_ints = [0, 1],
            coefficients = [0.5, -0.5, -0.5, 0.5], intercepts = [0.0, 0.1],
            post_transform = "SOFTMAX">(a)
    }}"""


@case(domains={"ai.onnx.ml": 3}, fp32="trees")
def ml_trees() -> str:
    """Thresholds in attributes are compared with float32 features."""
    return f"""g (float[2, 2] x) => (float[2, 1] y) <{W}> {{
        a = MatMul(x, w)
        [trees] y = ai.onnx.ml.TreeEnsembleRegressor<n_targets = 1, nodes_falsenodeids = [2, 0, 0],
            nodes_featureids = [0, 0, 0], nodes_hitrates = [1.0, 1.0, 1.0],
            nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_nodeids = [0, 1, 2],
            nodes_treeids = [0, 0, 0], nodes_truenodeids = [1, 0, 0],
            nodes_values = [0.1, 0.0, 0.0], target_ids = [0, 0], target_nodeids = [1, 2],
            target_treeids = [0, 0], target_weights = [0.25, 0.75]>(a)
    }}"""


@case({"words": np.array(["b", "a"], dtype=object)}, domains={"ai.onnx.ml": 3}, exact="y")
def ml_labels() -> str:
    """Strings become floats that mean what they say."""
    return """g (string[2] words) => (float[2] y) {
        [encode] f = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"],
            values_floats = [5001.0, 0.1], default_float = -1.0>(words)
        y = Identity(f)
    }"""
