"""The lists of operators that autocast takes to one type, held against torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ampconvert.lint.modes import float32_operators, low_operators
from ampconvert.lint.names import data

# Calls of listed operators: h(...) makes a tensor of that shape, i(...) one of integers.
LOSSES = """
cosine_embedding_loss(h(2, 2), h(2, 2), h(2)); hinge_embedding_loss(h(2), h(2))
huber_loss(h(2), h(2)); nll_loss(h(2, 2), i(2)); cross_entropy(h(2, 2), i(2))
poisson_nll_loss(h(2), h(2)); kl_div(h(2), h(2)); l1_loss(h(2), h(2)); smooth_l1_loss(h(2), h(2))
mse_loss(h(2), h(2)); soft_margin_loss(h(2), h(2)); margin_ranking_loss(h(2), h(2), h(2))
multilabel_margin_loss(h(2, 2), i(2, 2)); triplet_margin_loss(h(2, 2), h(2, 2), h(2, 2))
multi_margin_loss(h(2, 2), i(2)); binary_cross_entropy_with_logits(h(2), h(2))
multilabel_soft_margin_loss(h(2, 2), h(2, 2))
triplet_margin_with_distance_loss(h(2, 2), h(2, 2), h(2, 2)); binary_cross_entropy(h(2), h(2))
"""
OPERATORS = (
    LOSSES
    + """
conv1d(h(1, 2, 8), h(3, 2, 3)); conv2d(h(1, 2, 8, 8), h(3, 2, 3, 3))
conv_tbc(h(8, 1, 2), h(3, 2, 4), h(4)); conv3d(h(1, 2, 8, 8, 8), h(3, 2, 3, 3, 3))
conv_transpose1d(h(1, 2, 8), h(2, 3, 3)); conv_transpose2d(h(1, 2, 8, 8), h(2, 3, 3, 3))
conv_transpose3d(h(1, 2, 8, 8, 8), h(2, 3, 3, 3, 3)); prelu(h(2, 3), h(1))
addmm(h(2, 2), h(2, 2), h(2, 2)); addmv(h(2), h(2, 2), h(2)); addr(h(2, 2), h(2), h(2))
matmul(h(2, 2), h(2, 2)); einsum("ij,jk->ik", h(2, 2), h(2, 2)); mm(h(2, 2), h(2, 2))
mv(h(2, 2), h(2)); linear(h(2, 2), h(2, 2)); addbmm(h(2, 2), h(3, 2, 2), h(3, 2, 2))
baddbmm(h(3, 2, 2), h(3, 2, 2), h(3, 2, 2)); bmm(h(3, 2, 2), h(3, 2, 2))
chain_matmul(h(2, 2), h(2, 2)); tensordot(h(2, 2), h(2, 2), 1)
lstm_cell(h(1, 2), (h(1, 3), h(1, 3)), h(12, 2), h(12, 3), h(12), h(12))
rnn_tanh_cell(h(1, 2), h(1, 3), h(3, 2), h(3, 3), h(3), h(3)); linalg_vecdot(h(2, 2), h(2, 2))
rnn_relu_cell(h(1, 2), h(1, 3), h(3, 2), h(3, 3), h(3), h(3)); linalg_multi_dot([h(2, 2), h(2, 2)])
scaled_dot_product_attention(h(1, 1, 4, 8), h(1, 1, 4, 8), h(1, 1, 4, 8)); acos(h(2)); asin(h(2))
cosh(h(2)); erfinv(h(2)); exp(h(2)); expm1(h(2)); log(h(2)); log10(h(2)); log2(h(2)); log1p(h(2))
reciprocal(h(2)); rsqrt(h(2)); sinh(h(2)); tan(h(2)); pow(h(2), 2); square(h(2)); softplus(h(2))
layer_norm(h(2, 2), (2,)); rms_norm(h(2, 2), (2,)); group_norm(h(1, 2, 4), 1); dist(h(2), h(2))
pdist(h(3, 2)); cosine_similarity(h(2, 2), h(2, 2)); cdist(h(3, 2), h(3, 2))
pairwise_distance(h(2, 2), h(2, 2)); renorm(h(2, 2), 2, 0, 1); logsumexp(h(2), 0); prod(h(2))
softmax(h(2), 0); softmin(h(2), 0); log_softmax(h(2), 0); cumprod(h(2), 0); cumsum(h(2), 0)
norm(h(2)); normalize(h(2, 2)); sum(h(2)); linalg_vector_norm(h(2)); linalg_matrix_norm(h(2, 2))
linalg_norm(h(2)); gumbel_softmax(h(2), dim=0)
interpolate(h(1, 1, 4, 4), scale_factor=2, mode="bilinear"); upsample(h(1, 1, 4, 4), scale_factor=2)
local_response_norm(h(1, 2, 4), 2); mean(h(2)); var(h(2)); std(h(2)); sqrt(h(2)); sigmoid(h(2))
tanh(h(2)); logaddexp(h(2), h(2)); logcumsumexp(h(2), 0); logsigmoid(h(2)); gelu(h(2))
mul(h(2), h(2)); cos(h(2))
"""
)
CPU_ONLY = """
ctc_loss(h(4, 1, 3).log_softmax(-1), i(1, 2) + 1, torch.tensor([4]), torch.tensor([2]))
trace(h(2, 2)); avg_pool3d(h(1, 1, 4, 4, 4), 2); adaptive_avg_pool3d(h(1, 1, 4, 4, 4), 1)
max_pool3d(h(1, 1, 4, 4, 4), 2); grid_sampler(h(1, 1, 4, 4), h(1, 4, 4, 2), 0, 0, False)
grid_sample(h(1, 1, 4, 4), h(1, 4, 4, 2)); polar(h(2), h(2)); quantile(h(4), 0.5)
nanquantile(h(4), 0.5); stft(h(16), 4, return_complex=True); cholesky(e()); cholesky_inverse(e())
cholesky_solve(h(3, 3), e()); inverse(e()); pinverse(e()); linalg_cond(e())
linalg_solve(e(), h(3, 3)); linalg_cholesky(e()); linalg_cholesky_ex(e()); linalg_svdvals(e())
linalg_eigvals(e()); linalg_eigvalsh(e()); linalg_inv(e()); linalg_inv_ex(e())
linalg_tensorinv(e(4).reshape(2, 2, 2, 2)); linalg_qr(e()); linalg_svd(e()); linalg_eig(e())
linalg_eigh(e()); linalg_lstsq(e(), h(3, 3)); fft_fft(h(4)); fft_ifft(h(4)); fft_fft2(h(4, 4))
fft_ifft2(h(4, 4)); fft_fftn(h(4)); fft_ifftn(h(4)); fft_rfft(h(4)); fft_irfft(h(4))
fft_rfft2(h(4, 4)); fft_irfft2(h(4, 4)); fft_rfftn(h(4)); fft_irfftn(h(4)); fft_hfft(h(4))
fft_ihfft(h(4))
"""
# gru_cell asks for a real device, pdist has no kernel for bfloat16 on a CPU, a rank is an integer.
UNTRIED = {"gru_cell", "pdist", "linalg_matrix_rank"}


def calls(text: str) -> list[str]:
    return [call for line in text.splitlines() for call in line.split("; ") if call]


def ran(call: str, device: str, low: torch.dtype, *, full: bool) -> str:
    """What the operator gives: "low" where FP32 inputs become low, "float32" where low ones become
    FP32, "" where it gives what it was given.
    """
    dtype = torch.float32 if full else low

    def floats(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, device=device, dtype=dtype)

    def integers(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.long, device=device)

    def identity(size: int = 3) -> torch.Tensor:
        return torch.eye(size, device=device, dtype=dtype)

    name, arguments = call.split("(", 1)
    place, _, last = name.rpartition("_") if name.startswith("fft_") else ("", "", name)
    places: list[Any] = [torch.nn.functional, torch]
    if name.startswith("linalg_"):
        places, last = [torch.linalg], name.removeprefix("linalg_")
    elif place:
        places = [torch.fft]
    function = next(getattr(p, last) for p in places if hasattr(p, last))
    given = {"f": function, "h": floats, "i": integers, "e": identity, "torch": torch}
    result = eval(f"f({arguments}", given)
    result = result[0] if isinstance(result, tuple) else result
    kind = result.real.dtype if result.is_complex() else result.dtype
    if full:
        return "low" if kind == low else ""
    return "float32" if kind == torch.float32 else ""


def listed(name: str, mode: Any) -> str:
    if name in low_operators(mode):
        return "low"
    return "float32" if name in float32_operators(mode) else ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", [c for c in calls(OPERATORS) if "binary_cross_entropy(" not in c])
def test_cuda_lists_are_what_torch_does(call: str) -> None:
    with FakeTensorMode():  # tensors without data: no GPU is needed to see the types
        torch.set_autocast_enabled("cuda", True)
        try:
            found = {ran(call, "cuda", torch.float16, full=full) for full in (True, False)}
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert "".join(found) == listed(call.split("(")[0], "cuda-autocast")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "call", [c for c in calls(OPERATORS + CPU_ONLY) if c.split("(")[0] not in UNTRIED]
)
def test_cpu_lists_are_what_torch_does(call: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = {ran(call, "cpu", torch.bfloat16, full=full) for full in (True, False)}
    assert "".join(found) == listed(call.split("(")[0], "cpu-autocast")


def test_every_listed_operator_is_tried() -> None:
    tried = {call.split("(")[0] for call in calls(OPERATORS + CPU_ONLY)} | UNTRIED
    for mode in ("cuda-autocast", "cpu-autocast"):
        assert low_operators(mode) | float32_operators(mode) <= tried


def test_cuda_lists_are_those_of_the_header() -> None:
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    text = header.read_text()
    for macro, column in (("LOWER_PRECISION_FP", "low"), ("FP32", "float32"),
                          ("FP32_SET_OPT_DTYPE", "float32")):  # fmt: skip
        body = re.search(rf"#define AT_FORALL_{macro}\(_\)((?:.*\\\n)+.*)", text)
        assert body is not None
        names = {name for name in re.findall(r"_\((\w+)[,)]", body[1])
                 if hasattr(torch, name) or hasattr(torch.nn.functional, name)}  # fmt: skip
        inner = {"_convolution", "convolution", "native_layer_norm", "frobenius_norm",
                 "nuclear_norm", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "nll_loss2d",
                 "_scaled_dot_product_flash_attention"}  # fmt: skip
        assert names - inner <= set(data("autocast")["cuda"][column])
        assert len(names - inner) >= 6
