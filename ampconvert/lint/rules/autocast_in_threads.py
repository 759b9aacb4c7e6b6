"""AMP107: an autocast region whose state other threads don't have, or have in part."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.autocasts import Region
from ampconvert.lint.makers import makers, steps
from ampconvert.lint.modes import low_operators
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_PARALLEL = "torch.nn.DataParallel"
_THREADS = ("threading.Thread", "threading.Timer")
_POOLS = ("concurrent.futures.ThreadPoolExecutor", "multiprocessing.pool.ThreadPool",
          "multiprocessing.dummy.Pool")  # fmt: skip
_SUBMITTING = ("submit", "map", "apply_async", "map_async", "imap", "imap_unordered", "starmap")


class AutocastInThreads(Rule):
    """Code that an autocast region hands to other threads runs without it, or in another type.

    Autocast's state belongs to a thread. A function that a thread or a pool of threads runs starts
    with autocast off, so that its model computes in float32. nn.DataParallel runs one thread for
    each GPU: since PyTorch 1.7 it switches autocast on there, but it does not pass the type on. A
    region with dtype=torch.bfloat16 runs in float16 on two GPUs and more, with a range that ends at
    65504; on one GPU it runs in bfloat16.

    A region or an autocast decorator in the `forward` of the module, or in the function that the
    thread runs, makes it right, and what of these is in other files isn't seen: nothing is said of
    a function from another file, and a DataParallel of such a module is reported. A thread whose
    function calls no module and no matrix product that shows is not reported.

    Sources: https://docs.pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-gpus
    and https://github.com/pytorch/pytorch/issues/50170
    """

    CODE = "AMP107"
    NAME = "autocast-in-threads"
    ADVICE = (
        "Open the region in the function that the thread runs, in forward() for DataParallel, or "
        "use DistributedDataParallel with one process for each GPU."
    )
    WORDS = ((b"autocast",), (b"DataParallel", b"data_parallel", b"hread", b"dummy"))
    VALID = (
        Case("""\
import torch

model = torch.nn.DataParallel(net)
with torch.autocast("cuda"):
    model(x)
"""),
        Case("""\
import torch


class Net(torch.nn.Module):
    @torch.autocast("cuda", dtype=torch.bfloat16)
    def forward(self, x):
        return x


model = torch.nn.DataParallel(Net())
with torch.autocast("cuda", dtype=torch.bfloat16):
    model(x)
"""),
        Case("""\
import torch
from torch.nn.parallel import DistributedDataParallel as DDP

model = DDP(torch.nn.Linear(4, 4))
with torch.autocast("cuda", dtype=torch.bfloat16):
    model(x)
"""),
        Case("""\
import threading

import torch

model = torch.nn.Linear(4, 4)


def infer(x):
    with torch.autocast("cuda"):
        return model(x)


def load(path):
    return open(path).read()


with torch.autocast("cuda"):
    threading.Thread(target=infer, args=(x,)).start()
    threading.Thread(target=load, args=("x",)).start()
    model(x)
"""),
    )
    INVALID = (
        Case("""\
import torch as th
from torch.nn import DataParallel as DP

model = DP(th.nn.Linear(4, 4)).cuda()
with th.autocast("cuda", dtype=th.bfloat16):
    y = model(x)  # AMP107
"""),
        Case("""\
import torch
from torch.cuda.amp import autocast as ac


class Trainer:
    def __init__(self, net, several):
        self.net = net
        if several:
            self.net = torch.nn.DataParallel(self.net)

    def forward(self, x):
        return self.net(x)  # AMP107

    def step(self, x):
        with ac(dtype=torch.bfloat16):
            return self.forward(x)
"""),
        Case("""\
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

model = torch.nn.Linear(4, 4)


def infer(x):
    return model(x)


def run(xs):
    with torch.autocast("cuda"), ThreadPoolExecutor() as pool:
        first = threading.Thread(target=infer, args=(xs[0],))  # AMP107
        first.start()
        return list(pool.map(infer, xs)), pool.submit(lambda: model(xs[1]))  # AMP107
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of DataParallel in a bfloat16 region, and threads that are begun in any."""
        if not source.autocasts.calls:
            return
        yield from self._parallel(source)
        for call, function in _begun(source):
            region = _region(source, call)
            if region is not None and _computes(source, function):
                message = "autocast belongs to a thread: what this one runs is not under it"
                yield self.finding(source, call, message)

    def _parallel(self, source: Source) -> Iterator[Finding]:
        if not source.names.references(_PARALLEL):
            return
        for call in source.nodes(ast.Call):
            if not isinstance(call.func, ast.Name | ast.Attribute | ast.Call):
                continue
            wrappers = [step for step in steps(source, call.func)
                        if source.names.is_one(step.func, _PARALLEL)]  # fmt: skip
            if not wrappers or any(_has_own_region(source, wrapper) for wrapper in wrappers):
                continue
            region = _region(source, call)
            if region is None:
                continue
            if source.settings.torch < (1, 7):
                message = "DataParallel's threads are not under this autocast before PyTorch 1.7"
                yield self.finding(source, call, message)
            elif region.autocast.dtypes == {"bfloat16"}:
                message = "DataParallel doesn't pass bfloat16 on: on several GPUs this is float16"
                yield self.finding(source, call, message)


def _begun(source: Source) -> Iterator[tuple[ast.Call, ast.expr]]:
    """The calls that give a function to another thread, with the function."""
    for call in source.names.calls(*_THREADS):
        given = [k.value for k in call.keywords if k.arg in ("target", "function")]
        for function in [*given, *call.args[1:2]]:
            yield call, function
    if source.names.references(*_POOLS):
        for call in source.names.methods(*_SUBMITTING):
            assert isinstance(call.func, ast.Attribute)
            if call.args and _is_pool(source, call.func.value):
                yield call, call.args[0]


def _is_pool(source: Source, expression: ast.expr) -> bool:
    made = list(source.values.of(expression))
    if isinstance(expression, ast.Name):
        bindings = source.scopes.bindings(expression)
        made += [b.value for b in bindings if b.how == "context" and b.value is not None]
    return any(isinstance(m, ast.Call) and source.names.is_one(m.func, *_POOLS) for m in made)


def _region(source: Source, call: ast.Call) -> Region | None:
    """A region in which the call runs, and which is not switched off."""
    regions = source.autocasts.reaching(call)
    return next((region for region in regions if region is not None and region.is_on), None)


def _has_own_region(source: Source, wrapper: ast.Call) -> bool:
    """Whether the class of the wrapped module opens a region itself."""
    classes = [
        source.values.definition(maker.func)
        for maker in makers(source, wrapper)
        if isinstance(maker, ast.Call)
    ]
    return any(
        region.node is one or one in source.ancestors(region.node)
        for one in classes
        if one is not None
        for region in source.autocasts.regions.values()
    )


def _computes(source: Source, function: ast.expr) -> bool:
    """Whether the function runs a module or a matrix product, outside of any region of its own."""
    if source.kinds.is_a(function, "module"):
        return True
    body: ast.AST | None = source.values.definition(function)
    if isinstance(function, ast.Lambda):
        body = function
    if body is None or isinstance(body, ast.ClassDef):
        return False
    return any(
        source.autocasts.around(node) is None
        for node in source.walk(body)
        if (isinstance(node, ast.Call) and _is_heavy(source, node))
        or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult))
    )


def _is_heavy(source: Source, call: ast.Call) -> bool:
    operation = source.operations.of(call)
    if operation is not None and operation.name in low_operators("cuda-autocast"):
        return True
    return source.kinds.is_a(call.func, "module")
