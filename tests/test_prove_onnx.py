"""Transfer functions against sampling, on ONNX models under random plans: no bound is ever left."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings

from ampconvert.dtypes import Low
from ampconvert.frontends.onnx import read
from ampconvert.graph import Graph
from ampconvert.ranges.prove import prove
from tests.low_plans import OnnxRun, fitting, outside
from tests.onnx_random import Sample, samples
from tests.text_graphs import model_of_text

TYPES = {"float32": 1, "int64": 7, "bool": 9}


def numbers(count: int) -> str:
    """Numbers of both signs for a weight, as text."""
    return ", ".join(f"{0.37 * ((i * 7) % 11 - 5):.3f}" for i in range(count))


W43 = "float[4,3] w = {0.5, -1.25, 2, 0.1, 3, -0.7, 1.5, 0.33, -2, 0.01, 1, -1}"
W33 = "float[2,4,3] w = {" + numbers(24) + "}"
T33 = "float[4,2,3] w = {" + numbers(24) + "}"
UNARY = [
    "Relu", "Neg", "Abs", "Exp", "Tanh", "Sigmoid", "Erf", "Sin", "Cos", "Atan", "Softsign",
    "Softplus", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Floor",
    "Ceil", "Round", "Sign", "Identity", "Gelu", "Cosh", "Sinh", "Sqrt", "Log", "Reciprocal",
]  # fmt: skip
REDUCE = ["Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod"]
# Weights and nodes by name; x and z are float[2,3,4].
STEPS: dict[str, tuple[str, str]] = {
    "add": ("", "y = Add(x, z)"),
    "sub": ("", "y = Sub(x, z)"),
    "mul": ("", "y = Mul(x, z)"),
    "square": ("", "y = Mul(x, x)"),
    "div": ("float c = {7.0}", "a = Add(z, c)\n y = Div(x, a)"),
    "max": ("", "y = Max(x, z)"),
    "min": ("", "y = Min(x, z)"),
    "sum_all": ("", "y = Sum(x, z, x)"),
    "mean_all": ("", "y = Mean(x, z, x)"),
    "pow_2": ("float c = {2.0}", "y = Pow(x, c)"),
    "pow_3": ("float c = {3.0}", "y = Pow(x, c)"),
    "pow_half": ("float c = {0.5}", "a = Abs(x)\n y = Pow(a, c)"),
    "pow_odd": ("float c = {0.3}", "a = Abs(x)\n y = Pow(a, c)"),
    "mod": ("float c = {2.5}", "y = Mod<fmod = 1>(x, c)"),
    "clip": ("float c = {-1.5}, float d = {2.25}", "y = Clip(x, c, d)"),
    "prelu": ("float[4] c = {0.25, -2, 1.5, 0}", "y = PRelu(x, c)"),
    "matmul": (W43, "y = MatMul(x, w)"),
    "matmul_rounded": ("float[4,3] w = {" + ", ".join(["1.005"] * 12) + "}", "y = MatMul(x, w)"),
    "matvec": ("float[4] w = {1, -2, 0.5, 3}", "y = MatMul(x, w)"),
    "vecmat": ("float[3] w = {1, -2, 0.5}", "y = MatMul(w, x)"),
    "matmul_both": ("", "t = Transpose<perm = [0, 2, 1]>(z)\n y = MatMul(x, t)"),
    "gemm": (f"{W43}, int64[2] s = {{6, 4}}, float[3] c = {{1, 0.3, -7}}",
             "a = Reshape(x, s)\n y = Gemm<alpha = 0.5, beta = 2.0>(a, w, c)"),
    "gemm_turned": (f"{W43}, int64[2] s = {{3, 8}}",
                    "a = Reshape(x, s)\n y = Gemm<transA = 1, transB = 1>(a, w)"),
    "conv": (W33.replace("4,3]", "3,4]"), "y = Conv<pads = [1, 2]>(x, w)"),
    "conv_above_zero": (W33.replace("4,3]", "3,4]"), "a = Exp(x)\n y = Conv(a, w)"),
    "conv_padded": ("float[2,3,2] w = {" + ", ".join("1" * 12) + "}",
                    "a = Exp(x)\n y = Conv<pads = [1, 1]>(a, w)"),
    "pool_padded": ("", "a = Exp(x)\n y = AveragePool<kernel_shape = [3], pads = [1, 1],"
                    " count_include_pad = 1>(a)"),
    "pool_above_zero": ("", "a = Exp(x)\n y = AveragePool<kernel_shape = [2]>(a)"),
    "prelu_channels": ("float[3,1] c = {0.25, -2, 1.5}", "y = PRelu(x, c)"),
    "conv_grouped": ("float[3,1,2] w = {1, -2, 0.3, 4, -1, 0.7}", "y = Conv<group = 3>(x, w)"),
    "conv_transpose": (T33.replace("4,2,3", "3,2,4"),
                       "y = ConvTranspose<strides = [2]>(x, w)"),
    "max_pool": ("", "y = MaxPool<kernel_shape = [2]>(x)"),
    "avg_pool": ("", "y = AveragePool<kernel_shape = [3], pads = [1, 1]>(x)"),
    "global_pool": ("", "y = GlobalAveragePool(x)"),
    "batch_norm": ("float[3] g = {1, -2, 0.5}, float[3] b = {0, 1, 5}, float[3] m = {0.1, 2, -1},"
                   " float[3] v = {0.3, 1, 4}", "y = BatchNormalization(x, g, b, m, v)"),
    "instance_norm": ("float[3] g = {1, -2, 0.5}, float[3] b = {0, 1, 5}",
                      "y = InstanceNormalization(x, g, b)"),
    "layer_norm": ("float[4] g = {1, -2, 0.5, 3}, float[4] b = {0, 1, 5, -1}",
                   "y = LayerNormalization(x, g, b)"),
    "layer_norm_linear": (f"float[4] g = {{1, -2, 0.5, 3}}, float[4] b = {{0, 1, 5, -1}}, {W43}",
                          "a = LayerNormalization(x, g, b)\n y = MatMul(a, w)"),
    "layer_norm_two_axes": ("float[3,4] g = {1, -2, 0.5, 3, 1, 1, 1, 1, 2, 2, 2, 2}",
                            "y = LayerNormalization<axis = 1>(x, g)"),
    "lp_norm": ("", "y = LpNormalization(x)"),
    "softmax": ("", "y = Softmax<axis = 1>(x)"),
    "log_softmax": ("", "y = LogSoftmax<axis = -1>(x)"),
    "softmax_matmul": ("", "t = Transpose<perm = [0, 2, 1]>(z)\n s = MatMul(x, t)\n"
                           " p = Softmax<axis = -1>(s)\n y = MatMul(p, z)"),
    "softmax_by_hand": ("int64[1] k = {-1}", "m = ReduceMax(x, k)\n d = Sub(x, m)\n e = Exp(d)\n"
                        " s = ReduceSum(e, k)\n y = Div(e, s)"),
    "rms_norm_by_hand": ("int64[1] k = {-1}, float c = {2.0}, float eps = {0.00001}",
                         "q = Pow(x, c)\n m = ReduceMean(q, k)\n a = Add(m, eps)\n r = Sqrt(a)\n"
                         " i = Reciprocal(r)\n y = Mul(x, i)"),
    "unit_by_hand": ("int64[1] k = {-1}, float eps = {0.001}",
                     "n = ReduceL2(x, k)\n a = Max(n, eps)\n y = Div(x, a)"),
    "reshape": ("int64[2] s = {6, 4}", "y = Reshape(x, s)"),
    "heads": (f"float[4] g = {{1, -2, 0.5, 3}}, float[4] b = {{0, 1, 5, -1}}, "
              f"float[4,6] w = {{{', '.join(str((i * 5) % 9 - 4) for i in range(24))}}}, "
              "int64[4] s = {2, 3, 2, 3}, int64[3] t = {2, 3, 6}",
              "n = LayerNormalization(x, g, b)\n q = MatMul(n, w)\n r = Reshape(q, s)\n"
              " h = Transpose<perm = [0, 2, 1, 3]>(r)\n k = Transpose<perm = [0, 2, 3, 1]>(r)\n"
              " y = MatMul(h, k)\n u = Transpose<perm = [0, 2, 1, 3]>(h)\n v = Reshape(u, t)"),
    "slice": ("int64[1] s = {1}, int64[1] e = {3}, int64[1] k = {2}", "y = Slice(x, s, e, k)"),
    "slice_back": ("int64[1] s = {-1}, int64[1] e = {-4}, int64[1] k = {2}, int64[1] t = {-2}",
                   "y = Slice(x, s, e, k, t)"),
    "split": ("int64[2] s = {1, 3}", "y, u = Split<axis = 2>(x, s)"),
    "concat": ("", "y = Concat<axis = 1>(x, z)"),
    "gather": ("int64[2] i = {3, -1}", "y = Gather<axis = 2>(x, i)"),
    "pad": ("int64[6] p = {0, 0, 1, 0, 1, 1}, float c = {9.5}", "y = Pad(x, p, c)"),
    "pad_reflect": ("int64[6] p = {0, 0, 1, 0, 0, 2}", 'y = Pad<mode = "reflect">(x, p)'),
    "tile": ("int64[3] r = {1, 2, 2}", "y = Tile(x, r)"),
    "expand": ("int64[4] s = {5, 1, 1, 1}", "y = Expand(x, s)"),
    "tril": ("", "y = Trilu<upper = 0>(x)"),
    "where": ("float c = {9.5}", "b = Greater(x, z)\n y = Where(b, x, c)"),
    "cumsum": ("int64 k = {2}", "y = CumSum(x, k)"),
    "topk": ("int64[1] k = {2}", "y, i = TopK(x, k)"),
    "cast": ("", "i = Cast<to = 7>(x)\n y = Cast<to = 1>(i)"),
    "variance": ("int64[1] k = {-1}, float c = {2.0}", "q = Pow(x, c)\n a = ReduceMean(q, k)\n"
                 " m = ReduceMean(x, k)\n b = Pow(m, c)\n y = Sub(a, b)"),
    "einsum": ("", 'y = Einsum<equation = "bij,bkj->bik">(x, z)'),
    "einsum_heads": ("", 'y = Einsum<equation = "bij,bkj->kbi">(x, z)'),
    "einsum_vector": ("float[4] v = {1, -2, 0.5, 3}", 'y = Einsum<equation = "bij,j->ib">(x, v)'),
    "einsum_all": ("", 'y = Einsum<equation = "bij,bij->b">(x, z)'),
    "gelu_by_hand": ("float r = {1.4142135}, float one = {1.0}, float half = {0.5}",
                     "a = Div(x, r)\n e = Erf(a)\n b = Add(e, one)\n c = Mul(x, b)\n"
                     " y = Mul(c, half)"),
    "lstm": (f"float[1,8,4] w = {{{numbers(32)}}}, float[1,8,2] r = {{{numbers(16)}}}",
             "y, h, c = LSTM<hidden_size = 2>(x, w, r)"),
    "gru": (f"float[1,6,4] w = {{{numbers(24)}}}, float[1,6,2] r = {{{numbers(12)}}}",
            "y, h = GRU<hidden_size = 2>(x, w, r)"),
    "resize": ("float[3] s = {1, 1, 2}", 'y = Resize<mode = "linear">(x, , s)'),
    "resize_cubic": ("float[3] s = {1, 1, 2.5}", 'y = Resize<mode = "cubic">(x, , s)'),
}  # fmt: skip
STEPS |= {
    op.lower(): ("", f"y = {op}(x)") for op in UNARY if op not in ("Sqrt", "Log", "Reciprocal")
}
STEPS |= {op.lower(): ("float c = {0.1}", f"a = Abs(x)\n b = Add(a, c)\n y = {op}(b)")
          for op in ("Sqrt", "Log", "Reciprocal")}  # fmt: skip
STEPS |= {f"reduce_{op}": ("int64[1] k = {1}", f"y = Reduce{op}(x, k)") for op in REDUCE}
SCALES = [6.0, 0.02]


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", STEPS)
def test_no_sample_leaves_its_bound(name: str, low: Low) -> None:
    weights, nodes = STEPS[name]
    held = f"<{weights}>" if weights else ""
    text = f"g (float[2,3,4] x, float[2,3,4] z) => (y) {held} {{ {nodes} }}"
    model = model_of_text(text, 20)
    random = np.random.default_rng(sum(map(ord, name)))
    bounded = 0
    for scale in SCALES:
        declared = {"x": (-scale, scale), "z": (-scale, scale / 2)}
        graph = read(ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString())), low)
        proof = prove(graph, declared, low)
        run = OnnxRun(model, low, fitting(graph, proof))
        bounded += all(out in proof.bounds for node in graph.nodes for out in node.outputs)
        for trial in range(12):
            feeds = {n: _draw(random, *declared[n], trial) for n in ("x", "z")}
            assert outside(proof, run(feeds, random)) == []
        assert not [note for note in proof.notes if "could not" in note], proof.notes
    assert bounded == len(SCALES), "a value has no bound"


def _draw(random: np.random.Generator, lo: float, hi: float, trial: int) -> Any:
    """Anywhere, at the ends, all alike, or tiny."""
    kinds = [
        random.uniform(lo, hi, (2, 3, 4)),
        random.choice([lo, hi], (2, 3, 4)),
        np.full((2, 3, 4), random.choice([lo, hi])),
        random.choice([0.0, 1e-6, -1e-7, hi], (2, 3, 4)),
    ]
    return kinds[trial % len(kinds)].astype(np.float32)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(samples())
def test_random_models_stay_within_their_bounds(sample: Sample) -> None:
    graph = read(
        ir.from_proto(onnx.ModelProto.FromString(sample.model.SerializeToString())), "float16"
    )
    limit = 4.0 if sample.exact else 1.0
    proof = prove(graph, {"x": (-limit, limit), "z": (-limit, limit)}, "float16")
    assert not [note for note in proof.notes if "could not" in note]
    for bound in proof.bounds.values():
        assert bound.lo <= bound.hi  # false for NaN as well
    random = np.random.default_rng(0)
    for feeds in sample.feeds:
        if _has_bodies(sample.model) or "Sequence" in sample.text:
            assert outside(proof, _run_whole(sample.model, graph, feeds)) == []
        else:
            run = OnnxRun(sample.model, "float16", fitting(graph, proof))
            assert outside(proof, run(feeds, random)) == []


def _has_bodies(model: onnx.ModelProto) -> bool:
    return any(a.HasField("g") for node in model.graph.node for a in node.attribute)


def _run_whole(model: onnx.ModelProto, graph: Graph, feeds: Any) -> dict[str, Any]:
    """What the outermost nodes make, in float32: bodies can't be run node by node."""
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    made = [name for node in whole.graph.node for name in node.output]
    tensors = [n for n in made if graph.values[n].shape is not None]  # sequences have none
    types = {n: TYPES[graph.values[n].dtype] for n in tensors if graph.values[n].dtype in TYPES}
    del whole.graph.output[:]
    whole.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    taken = {i.name for i in session.get_inputs()}
    given = {name: data for name, data in feeds.items() if name in taken}
    return dict(zip(types, session.run(None, given), strict=True))
