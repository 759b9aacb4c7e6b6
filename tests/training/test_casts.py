"""Casts carry the loss scale: gradients against float32's, flags, and every way to run them."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from ampconvert.training.casts import rescale, to_full, to_low
from ampconvert.training.scaling import Scale, Scaling, Schedule

LOW = (torch.float16, torch.bfloat16)
SCALES = (1.0, 2.0**-8, 2.0**10, 65536.0)
BACKENDS = ("eager", "aot_eager", "inductor")


def scale(value: float = 1.0) -> Scale:
    return Scale(torch.full((1,), value), torch.zeros(1))


def product(x: Tensor, w: Tensor, s: Scale, dtype: torch.dtype = torch.float16) -> Tensor:
    """x times w in the low type."""
    low_x, low_w = to_low(dtype, s.factor, s.overflowed, x, w)
    return to_full(s.factor, low_x @ low_w)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("dtype", LOW)
def test_forward_is_a_plain_cast(dtype: torch.dtype) -> None:
    s, x = scale(1024.0), leaf(5, 3)
    tensors = [x, x.detach().t(), x[:, 1], x.detach()[0, 0], x.detach().expand(2, 5, 3)]
    for low, full in zip(to_low(dtype, s.factor, s.overflowed, *tensors), tensors, strict=True):
        assert torch.equal(low, full.to(dtype))
        assert torch.equal(to_full(s.factor, low), low.to(torch.float32))
        assert torch.equal(rescale(low, s.factor, s.factor), low)
    with torch.no_grad():
        assert torch.equal(to_low(dtype, s.factor, s.overflowed, x, x)[1], x.to(dtype))


@pytest.mark.parametrize("dtype", LOW)
def test_without_a_scale_casts_are_plain(dtype: torch.dtype) -> None:
    x = leaf(4)
    (low,) = to_low(dtype, None, None, x)
    to_full(None, low).sum().backward()
    assert type(low.grad_fn).__name__ == "ToCopyBackward0"
    assert x.grad is not None and torch.equal(x.grad, torch.ones(4))


@pytest.mark.parametrize("value", SCALES)
@given(
    gradient=st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=6),
    exponent=st.integers(-40, 20),
)
def test_gradients_are_float32s_within_rounding(
    value: float, gradient: Sequence[float], exponent: int
) -> None:
    """What comes back is the gradient at low precision around S, in range or flagged."""
    s, x = scale(value), torch.zeros(len(gradient), requires_grad=True)
    (low,) = to_low(torch.float16, s.factor, s.overflowed, x)
    grad = torch.tensor(gradient) * 2.0**exponent
    to_full(s.factor, low).backward(grad)
    assert x.grad is not None and x.grad.dtype == torch.float32
    scaled = grad.double() * value
    fits = scaled.abs() < 65520
    assert bool(s.overflowed) == (not fits.all())
    error = (x.grad.double() - grad.double())[fits].abs() * value
    assert (error <= torch.clamp(scaled[fits].abs() * 2.0**-11, min=2.0**-25)).all()


@given(exponents=st.lists(st.integers(-24, 15), min_size=1, max_size=8), s=st.integers(-20, 20))
def test_powers_of_two_come_back_exactly(exponents: Sequence[int], s: int) -> None:
    own = scale(2.0**s)
    x = torch.zeros(len(exponents), requires_grad=True)
    grad = torch.tensor([2.0 ** (e - s) for e in exponents])
    to_full(own.factor, *to_low(torch.float16, own.factor, own.overflowed, x)).backward(grad)
    assert x.grad is not None and torch.equal(x.grad, grad) and not own.overflowed


@given(st.integers(-10, 10), st.integers(-10, 10), st.floats(-4, 4, width=16))
def test_rescale_passes_a_gradient_from_scale_to_scale(a: int, b: int, grad: float) -> None:
    """Two regions in a row, each with its own S; 2**-14 is the smallest normal float16."""
    inner, outer = scale(2.0**a), scale(2.0**b)
    x = torch.ones(1, requires_grad=True)
    (low,) = to_low(torch.float16, inner.factor, inner.overflowed, x)
    out = to_full(outer.factor, rescale(low, inner.factor, outer.factor) * 1)
    out.backward(torch.tensor([grad]))
    smallest = min(abs(grad) * 2.0**a, abs(grad) * 2.0**b)
    assert x.grad is not None
    if smallest >= 2.0**-14 or grad == 0:
        assert x.grad.item() == grad
    else:
        assert abs(x.grad.item() - grad) <= 2.0 ** (-24 - min(a, b))


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", LOW)
def test_what_is_not_finite_sets_the_flag_and_stays_so(bad: float, dtype: torch.dtype) -> None:
    s, x, y = scale(4.0), leaf(3), leaf(2, 2)
    low_x, low_y = to_low(dtype, s.factor, s.overflowed, x, y)
    (low_x.sum() + low_y.sum()).backward()
    assert not s.overflowed
    low_x, low_y = to_low(dtype, s.factor, s.overflowed, x, y)
    torch.autograd.backward(
        [low_x, low_y], [torch.ones(3, dtype=dtype), torch.full((2, 2), bad, dtype=dtype)]
    )
    assert s.overflowed.item() == 1
    assert y.grad is not None and not y.grad.isfinite().any()
    product(leaf(2, 2), leaf(2, 2), s).sum().backward()
    assert s.overflowed.item() == 1, "a good gradient clears no flag"


def test_outputs_that_nobody_uses_have_no_gradient() -> None:
    s, x, y, frozen = scale(), leaf(3), leaf(3), torch.ones(3)
    low = to_low(torch.float16, s.factor, s.overflowed, x, y, frozen)
    to_full(s.factor, low[0] * low[2]).sum().backward()
    assert x.grad is not None and y.grad is None and frozen.grad is None
    assert [out.requires_grad for out in low] == [True, True, False]
    (low,) = to_low(torch.float16, s.factor, s.overflowed, frozen)
    assert not low.requires_grad


def test_gradients_of_frozen_tensors_are_nobodys_overflow() -> None:
    """x @ w: the gradient of x is out of range, that of w is not, and x needs none."""
    s, x, w = scale(1.0), torch.full((1, 1), 2.0**-10), torch.full((1, 1), 2.0**10)
    product(x, w.requires_grad_(), s).backward(torch.full((1, 1), 2.0**10))
    assert w.grad is not None and w.grad.item() == 1.0 and not s.overflowed
    x = x.clone().requires_grad_()
    product(x, w, s).backward(torch.full((1, 1), 2.0**10))
    assert s.overflowed


def test_double_gradients_and_shapes_without_dimension() -> None:
    s, x = scale(8.0), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (low,) = to_low(torch.float16, s.factor, s.overflowed, x)
    out = to_full(s.factor, low * low)
    out.backward()
    assert out.shape == () and x.grad is not None
    assert x.grad.item() == 4.0 and x.grad.dtype == torch.float64 and x.grad.shape == ()


def test_the_scale_is_read_when_gradients_flow() -> None:
    scaling = Scaling()
    s, x = scaling.group("", torch.device("cpu")), leaf(2, 2)
    out = product(x, leaf(2, 2), s).sum()
    scaling.join(x, Schedule())
    assert s.factor.item() == 65536
    out.backward(torch.tensor(2.0**-30))
    assert x.grad is not None and x.grad.abs().min() > 0, "lost if S were still 1"


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("value", [1.0, 2.0**-8, 2.0**10])
def test_gradient_penalty(dtype: torch.dtype, value: float) -> None:
    """The gradient of a gradient's norm is float32's within rounding, whatever S."""

    def penalty(multiply: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, w = leaf(6, 4, seed=1), leaf(4, 4, seed=2)
        out = multiply(torch.tanh(multiply(x, w)), w)
        (grad,) = torch.autograd.grad(out.square().mean(), x, create_graph=True)
        (grad.square().sum() * 10 + out.mean()).backward()
        assert x.grad is not None and w.grad is not None
        return grad.detach(), x.grad, w.grad

    s = scale(value)
    for got, true in zip(
        penalty(lambda x, w: product(x, w, s, dtype)), penalty(torch.matmul), strict=True
    ):
        error = (got - true).norm() / true.norm()
        # Ten roundings, and what a small S leaves below float16's smallest number.
        coarse = 2.0**-24 / min(value, 1.0) * 16 / true.norm()
        assert error < 10 * torch.finfo(dtype).eps + coarse
    assert not s.overflowed


def test_third_derivatives() -> None:
    s, x = scale(64.0), torch.tensor([1.5, -0.5], requires_grad=True)
    (low,) = to_low(torch.float16, s.factor, s.overflowed, x)
    middle = rescale(low * low, s.factor, s.factor)
    value = to_full(s.factor, middle * low).sum()
    for expected in (3 * x**2, 6 * x, torch.full((2,), 6.0)):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        assert torch.equal(value.detach(), expected.detach())


def converted() -> tuple[fx.GraphModule, Scale, Scale]:
    """x @ w, relu, @ v; the second product in a group of its own, as apply writes it."""
    inner, outer = scale(1024.0), scale(256.0)
    root = nn.Module()
    for name, s in (("inner", inner), ("outer", outer)):
        root.register_buffer(f"{name}_factor", s.factor)
        root.register_buffer(f"{name}_overflowed", s.overflowed)
    graph = fx.Graph()
    x, w, v = (graph.placeholder(name) for name in "xwv")
    held = {name: graph.get_attr(name) for name, _ in root.named_buffers()}
    factors = held["inner_factor"], held["outer_factor"]
    pair = graph.call_function(to_low, (torch.float16, factors[0], held["inner_overflowed"], x, w))
    one = graph.call_function(to_low, (torch.float16, factors[1], held["outer_overflowed"], v))
    low_x, low_w = (graph.call_function(operator.getitem, (pair, i)) for i in (0, 1))
    low_v = graph.call_function(operator.getitem, (one, 0))
    hidden = graph.call_function(torch.ops.aten.mm.default, (low_x, low_w))
    hidden = graph.call_function(torch.ops.aten.relu.default, (hidden,))
    hidden = graph.call_function(rescale, (hidden, *factors))
    out = graph.call_function(torch.ops.aten.mm.default, (hidden, low_v))
    graph.output((graph.call_function(to_full, (factors[1], out)),))
    return fx.GraphModule(root, graph), inner, outer


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_graphs_scale_and_flag_as_eager_ones(backend: str) -> None:
    module, inner, outer = converted()
    x, w, v = leaf(5, 4, seed=1), leaf(4, 4, seed=2), leaf(4, 3, seed=3)
    run = compiled(module, backend)

    def gradients(forward: Callable[..., Any], by: float) -> Sequence[Tensor]:
        (out,) = forward(x, w, v)
        return torch.autograd.grad(out, (x, w, v), torch.full_like(out, by))

    def reference(x: Tensor, w: Tensor, v: Tensor) -> Sequence[Tensor]:
        return (torch.relu(x @ w) @ v,)

    for true, got in zip(gradients(reference, 1.0), gradients(run, 1.0), strict=True):
        assert torch.allclose(true, got, rtol=4e-3, atol=4e-3)
    assert not inner.overflowed and not outer.overflowed
    # Another S is seen without another compilation, also by a backward pass under way.
    (out,) = run(x, w, v)
    inner.factor.data.fill_(2.0**-30)
    outer.factor.data.fill_(2.0**-30)
    lost = torch.autograd.grad(out, (x, w, v), torch.ones_like(out))
    assert all(not grad.any() for grad in lost)
    inner.factor.data.fill_(65536.0)
    outer.factor.data.fill_(1.0)
    gradients(run, 100.0)
    assert inner.overflowed.item() == 1 and not outer.overflowed
    gradients(run, 1e5)
    assert outer.overflowed.item() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_graphs_without_gradients_leave_the_flag(backend: str) -> None:
    module, inner, _ = converted()
    x, w, v = (leaf(4, 4, seed=i).detach() for i in range(3))
    with torch.no_grad():
        (out,) = compiled(module, backend)(x, w, v)
    assert torch.allclose(out, torch.relu(x @ w) @ v, rtol=1e-2, atol=1e-2)
    assert not inner.overflowed


def compiled(module: fx.GraphModule, backend: str) -> Callable[..., Any]:
    """`module` in place of Dynamo's graph, handed to a backend of torch.compile."""
    if backend == "eager":
        return module
    from torch._dynamo.backends.registry import lookup_backend

    torch._dynamo.reset()

    def stand_in(x: Tensor, w: Tensor, v: Tensor) -> Sequence[Tensor]:
        return (x.sum() + w.sum() + v.sum(),)  # in the order of the module's inputs

    def replace(_: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lookup_backend(backend)(module, list(inputs))

    return torch.compile(stand_in, backend=replace, fullgraph=True)
