"""What rules/targets/torch-cpu.toml says of PyTorch on a CPU, measured on this one.

python -m benchmarks.training.rates
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

LOW = torch.bfloat16
ROUNDS = 25
Case = tuple[str, float, Callable[[torch.dtype], Callable[[], None]]]


def main() -> None:
    """Print microseconds of each operator, forward and with its gradient, in both types."""
    torch.set_num_threads(1)
    table = Table("operator", "MFLOP", "float32, us", "bfloat16, us", "bfloat16/float32")
    for name, flop, make in cases():
        times = [seconds(make(dtype)) for dtype in (torch.float32, LOW)]
        table.add_row(
            name, f"{flop / 1e6:.2f}", *(f"{1e6 * t:.1f}" for t in times),
            f"{times[1] / times[0]:.2f}",
        )  # fmt: skip
    Console(width=100).print(table)


def cases() -> Iterator[Case]:
    """Products of many sizes, attention, elementwise operators, and the cast to the other type."""
    for rows in (64, 1024, 4096):
        for width in (16, 64, 256, 512):
            flop = 2.0 * rows * width * width
            yield f"linear {rows}x{width}", flop, lambda d, r=rows, w=width: linear(r, w, d)
    for shape in ((64, 2, 24, 16), (8, 8, 64, 32), (8, 8, 128, 64), (2, 8, 512, 64)):
        batch, heads, length, size = shape
        flop = 4.0 * batch * heads * length * length * size
        name = f"attention {'x'.join(map(str, shape))}, with gradient"
        yield name, flop, lambda d, s=shape: attention(s, d)
    numbers = torch.randn(2**21)
    for op in (torch.relu, torch.tanh, F.gelu):
        yield op.__name__, 2.0**21, lambda d, op=op: (lambda x: lambda: op(x))(numbers.to(d))
    for many in (64, 2**21):
        yield (
            f"cast of {many}", float(many),
            lambda d, n=many: (lambda x: lambda: x.to(LOW if d != LOW else torch.float32))(
                numbers[:n].to(d)
            ),
        )  # fmt: skip


def linear(rows: int, width: int, dtype: torch.dtype) -> Callable[[], None]:
    """nn.functional.linear of float[rows, width], forward."""
    x, weight = torch.randn(rows, width, dtype=dtype), torch.randn(width, width, dtype=dtype)

    def run() -> None:
        F.linear(x, weight)

    return run


def attention(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Callable[[], None]:
    """scaled_dot_product_attention over float[batch, heads, length, size], forward and backward."""
    operands: list[Tensor] = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in "qkv"]
    gradient = torch.randn(shape, dtype=dtype)

    def run() -> None:
        F.scaled_dot_product_attention(*operands).backward(gradient)
        for operand in operands:
            operand.grad = None

    return run


def seconds(run: Callable[[], None]) -> float:
    """The median of a call, after a few that don't count."""
    for _ in range(3):
        run()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    main()
