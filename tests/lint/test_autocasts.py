"""Autocast regions, the modes they put code in, and types of tensors."""

from __future__ import annotations

import ast

import pytest
import torch

from ampconvert.lint.autocasts import Region
from ampconvert.lint.devices import device_types
from ampconvert.lint.source import Source


@pytest.mark.parametrize("device", ["cuda", "cpu", "xpu", "mps", "hpu", "mtia", "xla"])
def test_default_types_are_torchs(device: str) -> None:
    source = Source(f'import torch\nwith torch.autocast("{device}"):\n    pass\n')
    expected = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
    assert source.autocasts.calls[0].dtypes == {expected}


def region_at_mark(text: str) -> tuple[Source, Region | None]:
    """The region around the statement on the line that ends with `# here`."""
    source = Source(text)
    line = next(n for n, one in enumerate(text.splitlines(), 1) if one.endswith("# here"))
    node = next(n for n in ast.walk(source.tree) if isinstance(n, ast.stmt) and n.lineno == line)
    return source, source.autocasts.around(node)


HEAD = """\
import argparse, functools, contextlib
from contextlib import ExitStack, nullcontext
from functools import partial
import torch
from torch.cuda.amp import autocast as ac
from accelerate import Accelerator
from lightning.fabric import Fabric
args = argparse.ArgumentParser().parse_args()
"""
FP16, BF16, CUDA = {"float16"}, {"bfloat16"}, {"cuda"}
# The code, then the devices, types, `enabled` and `sure` of the region around the marked statement.
REGIONS: list[tuple[str, tuple[set[str], set[str], bool | None, bool]]] = [
    ("with ac():\n    x  # here", (CUDA, FP16, True, True)),
    ("with ac(False):\n    x  # here", (CUDA, FP16, False, True)),
    ("with ac(True, torch.bfloat16):\n    x  # here", (CUDA, BF16, True, True)),
    ("with torch.no_grad(), torch.autocast('cpu'):\n    x  # here", ({"cpu"}, BF16, True, True)),
    ("with torch.autocast('cuda', enabled=args.amp):\n    x  # here", (CUDA, FP16, None, True)),
    (
        "p = argparse.ArgumentParser()\np.add_argument('--amp', action='store_true')\n"
        "use_amp = p.parse_args().amp\n"
        "with torch.autocast('cuda', enabled=use_amp):\n    x  # here",
        (CUDA, FP16, None, True),
    ),
    (
        "def f(on=False):\n    with torch.autocast('cuda', enabled=on):\n        x  # here",
        (CUDA, FP16, None, True),
    ),
    (
        "class Config:\n    amp: bool = False\n    def f(self):\n"
        "        with torch.autocast('cuda', enabled=self.amp):\n            x  # here",
        (CUDA, FP16, None, True),
    ),
    (
        "AMP = False\nwith torch.autocast('cuda', enabled=AMP):\n    x  # here",
        (CUDA, FP16, False, True),
    ),
    (
        "device = torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')\n"
        "with torch.autocast(device.type):\n    x  # here",
        ({"cuda", "cpu"}, FP16 | BF16, True, True),
    ),
    (
        "rank = 0\ndevice = f'cuda:{rank}'\n"
        "with torch.autocast(device.split(':')[0]):\n    x  # here",
        (CUDA, FP16, True, True),
    ),
    (
        "t = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.half\n"
        "with torch.autocast('cuda', t):\n    x  # here",
        (CUDA, FP16 | BF16, True, True),
    ),
    (
        "T = {'fp16': torch.float16, 'bf16': torch.bfloat16}\n"
        "with torch.autocast('cuda', dtype=T['bf16']):\n    x  # here",
        (CUDA, BF16, True, True),
    ),
    (
        "with torch.autocast('cuda', dtype={1: torch.float16}.get(args.t, torch.bfloat16)):\n"
        "    x  # here",
        (CUDA, FP16 | BF16, True, True),
    ),
    (
        "with torch.autocast('cuda', dtype=getattr(torch, 'half')):\n    x  # here",
        (CUDA, FP16, True, True),
    ),
    ("with torch.autocast('cuda', dtype=args.dtype):\n    x  # here", (CUDA, set(), True, True)),
    ("with torch.autocast(**args.amp):\n    x  # here", (set(), set(), None, True)),
    (  # nanoGPT
        "device = 'cuda'\ndtype = 'bfloat16' if torch.cuda.is_available() else 'float16'\n"
        "device_type = 'cuda' if 'cuda' in device else 'cpu'\n"
        "ptdtype = {'float32': torch.float32, 'bfloat16': torch.bfloat16,"
        " 'float16': torch.float16}[dtype]\n"
        "ctx = nullcontext() if device_type == 'cpu' else"
        " torch.amp.autocast(device_type=device_type, dtype=ptdtype)\n"
        "with ctx:\n    x  # here",
        ({"cuda", "cpu"}, FP16 | BF16, True, False),
    ),
    (
        "class T:\n    def __init__(self):\n        self.ctx = torch.autocast('cuda')\n"
        "    def run(self):\n        with self.ctx:\n            x  # here",
        (CUDA, FP16, True, True),
    ),
    (
        "amp = partial(torch.autocast, 'cuda', dtype=torch.bfloat16)\nwith amp():\n    x  # here",
        (CUDA, BF16, True, True),
    ),
    (
        "amp = functools.partial(ac, dtype=torch.bfloat16)\n"
        "with amp(enabled=False):\n    x  # here",
        (CUDA, BF16, False, True),
    ),
    ("amp = lambda: torch.autocast('cuda')\nwith amp():\n    x  # here", (CUDA, FP16, True, True)),
    (
        "def amp():\n    return torch.autocast('cuda')\nwith amp():\n    x  # here",
        (CUDA, FP16, True, True),
    ),
    (
        "amp = ac if args.amp else nullcontext\nwith amp():\n    x  # here",
        (CUDA, FP16, True, False),
    ),
    (
        "@contextlib.contextmanager\ndef amp():\n    with torch.autocast('cuda'):\n        yield\n"
        "with amp():\n    x  # here",
        (CUDA, FP16, True, True),
    ),
    (
        "with ExitStack() as stack:\n    stack.enter_context(torch.autocast('cuda'))\n"
        "    x  # here",
        (CUDA, FP16, True, True),
    ),
    (
        "with ExitStack() as stack:\n    if args.amp:\n        stack.enter_context(ac())\n"
        "    x  # here",
        (CUDA, FP16, True, False),
    ),
    ("@ac()\ndef f(x):\n    return x  # here", (CUDA, FP16, True, True)),
    (
        "amp = torch.autocast('cuda')\nclass M:\n    @amp\n    def forward(self, x):\n"
        "        return x  # here",
        (CUDA, FP16, True, True),
    ),
    (
        "accelerator = Accelerator(mixed_precision='bf16')\n"
        "with accelerator.autocast():\n    x  # here",
        (set(), BF16, None, True),
    ),
    (
        "class T:\n    def __init__(self, accelerator: Accelerator):\n"
        "        self.accelerator = accelerator\n"
        "    def run(self):\n        with self.accelerator.autocast():\n            x  # here",
        (set(), set(), None, True),
    ),
    (
        "fabric = Fabric(precision='32-true')\nwith fabric.autocast():\n    x  # here",
        (set(), set(), False, True),
    ),
    (
        "from ..utils import maybe_autocast\n"
        "with maybe_autocast(device_type='cuda', enabled=False):\n    x  # here",
        (CUDA, set(), False, False),
    ),
    (
        "with torch.autocast('cuda'):\n    with torch.autocast('cuda', enabled=False):\n"
        "        x  # here",
        (CUDA, FP16, False, True),
    ),
]
OUTSIDE = [
    "with ac():\n    pass\nx  # here",
    "with ac():\n    def f():\n        x  # here",
    "with ExitStack() as stack:\n    x  # here\n    stack.enter_context(ac())",
    "with ExitStack() as stack:\n    stack.enter_context(open('f'))\n    x  # here",
    "from te import fp8_autocast\nwith fp8_autocast(enabled=True):\n    x  # here",
    "from mylib import ac\nwith ac():\n    x  # here",
    "@ac\ndef f(x):\n    return x  # here",
]


@pytest.mark.parametrize(("code", "expected"), REGIONS)
def test_region(code: str, expected: tuple[set[str], set[str], bool | None, bool]) -> None:
    _, region = region_at_mark(HEAD + code + "\n")
    assert region is not None
    one = region.autocast
    low = one.dtypes - {"float32"}
    assert (set(one.devices), set(low), one.enabled, region.sure) == expected


@pytest.mark.parametrize("code", OUTSIDE)
def test_no_region(code: str) -> None:
    _, region = region_at_mark(HEAD + code + "\n")
    assert region is None


def test_code_runs_in_the_regions_of_its_callers() -> None:
    source, region = region_at_mark(
        HEAD + "class Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return self.inner(x)\n    def inner(self, x):\n        return x  # here\n"
        "net = Net()\nwith torch.autocast('cpu'):\n    net(1)\n"
    )
    assert region is None
    returned = source.nodes(ast.Return)[-1]
    (found,) = source.autocasts.reaching(returned)
    assert found is not None and found.autocast.devices == {"cpu"}
    assert source.modes.at(returned) == {"cpu-autocast": frozenset({"bfloat16"})}
    assert source.modes.runs_low("softmax", returned, "bfloat16")
    assert not source.modes.runs_low("mse_loss", returned, "bfloat16")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("model.half()", {"half": FP16}),
        ("model.to(torch.bfloat16)", {"half": BF16}),
        ("torch.set_default_dtype(torch.float16)", {"half": FP16}),
        ("scaler = torch.amp.GradScaler()", {"cuda-autocast": FP16}),
        ("with torch.autocast('cpu'):\n    x", {"cpu-autocast": BF16}),
        ("with torch.autocast('cuda', enabled=False):\n    x", {}),
        ("Fabric(precision='bf16-mixed')", {"cuda-autocast": BF16}),
        ("Fabric(precision='16-true')", {"half": FP16}),
        ("Accelerator(mixed_precision='no')", {}),
        ("import numpy as np\nnp.set_printoptions(precision=16)", {}),
        ("import transformers as t\nt.TrainingArguments(fp16=args.on)", {"cuda-autocast": FP16}),
        ("import transformers as t\nt.TrainingArguments(fp16=False)", {}),
        ("FSDP(m, mixed_precision=MP(param_dtype=torch.bfloat16))", {"half": BF16}),
        ("x = torch.zeros(2)", {}),
    ],
)
def test_modes_found(code: str, expected: dict[str, set[str]]) -> None:
    assert Source(HEAD + code + "\n").modes.found == expected


@pytest.mark.parametrize(
    ("code", "types"),
    [
        ("x.float()", {"float32"}),
        ("x.half().to(device='cuda').clone()", {"float16"}),
        ("x.half().to(device)", {"unknown"}),
        ("x.half().to('cuda')", {"float16"}),
        ("x.half() + torch.zeros(2)", {"float32"}),
        ("x.half() + y.bfloat16()", {"float32"}),
        ("x.half() * 2", {"float16"}),
        ("x.to(torch.float16 if a else torch.float32)", {"float16", "float32"}),
        ("torch.arange(4)", {"integer"}),
        ("x", {"unknown"}),
    ],
)
def test_types_of_tensors(code: str, types: set[str]) -> None:
    source = Source(f"import torch\ny = {code}\n")
    (assigned,) = source.nodes(ast.Assign)
    assert source.tensors.of(assigned.value) == types


def test_device_types() -> None:
    source = Source("import torch\nd = torch.device(str(torch.device('xpu:1')))\nd.type\nd.index\n")
    kind, index = (one.value for one in source.nodes(ast.Expr))
    assert device_types(source, kind) == {"xpu"}
    assert device_types(source, index) == device_types(source, None) == set()
