"""AMP106: .half() on a model or its inputs, though autocast casts where that is right."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property

from ampconvert.findings import Edit, Finding
from ampconvert.lint.forwards import under_autocast
from ampconvert.lint.makers import Maker, makers
from ampconvert.lint.modes import LOW
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source


class HalfCastWithAutocast(Rule):
    """A model that runs under autocast, or its input, is cast to a low type by hand.

    Autocast casts the operands of matrix products and convolutions itself, and leaves the rest in
    float32. An input in float16 has lost 13 of its 23 mantissa bits before the first normalisation
    sees it, and what exceeds 65504 is infinite. A model in float16 that is trained has no float32
    weights left: an update of less than 1/2048 of a weight is lost, and GradScaler refuses its
    gradients ("Attempting to unscale FP16 gradients").

    Of models only those whose parameters the file trains are reported: a low model under autocast
    is fine for inference, and so is a low input for a low model. Casts for functions that are no
    modules, and models that other files make, are not judged.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.autocast
    """

    CODE = "AMP106"
    NAME = "half-cast-with-autocast"
    ADVICE = "Leave models and inputs in float32 and let autocast cast."
    FIX = "unsafe"
    FIX_SAFETY = "More memory is used, and what was rounded to the low type no longer is."
    JUDGED = Judged(true=1, read=1)
    WORDS = ((b"autocast",), (b"half", b"float16"))
    VALID = (
        Case("""\
import torch
from torch import nn

model = nn.Linear(4, 4)
with torch.autocast("cuda"):
    y = model(x)
loss = y.half()
with torch.autocast("cuda", enabled=False):
    model(x.half())
"""),
        Case("""\
import torch
from torch import nn

model = nn.Linear(4, 4).half()
with torch.autocast("cuda"):
    y = model(x.half())
"""),
        Case("""\
import torch
from diffusers import AutoencoderKL
from torch import nn

vae = AutoencoderKL.from_pretrained("vae")
vae.requires_grad_(False)
vae.to("cuda", dtype=torch.float16)
net = nn.Linear(4, 4)
optimizer = torch.optim.AdamW(net.parameters())
with torch.autocast("cuda"):
    latents = vae(x.to(dtype=torch.float16))
    net(latents).sum().backward()
"""),
        Case("""\
import torch
from flash import attention


class Block(torch.nn.Module):
    @torch.autocast("cuda")
    def forward(self, q, k, v):
        return attention(q.half(), k.half(), v.half())
"""),
        Case("""\
import torch


def export(model):
    model.half()


net = torch.nn.Linear(4, 4)
torch.optim.SGD(net.parameters(), 0.1)
with torch.autocast("cuda"):
    net(x).sum().backward()
torch.save(net.half().state_dict(), "net.pt")
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch import nn

model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 1))
optimizer = th.optim.Adam(model.parameters())
model.half()  # AMP106
for x, y in data:
    x = x.cuda()
    with th.autocast("cuda"):
        loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
""",
            """\
import torch as th
from torch import nn

model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 1))
optimizer = th.optim.Adam(model.parameters())
for x, y in data:
    x = x.cuda()
    with th.autocast("cuda"):
        loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
""",
        ),
        Case(
            """\
import torch
from torch.cuda.amp import autocast as ac


class Trainer:
    def __init__(self):
        self.net = torch.nn.Conv2d(3, 3, 3).cuda()

    def step(self, x, y):
        with ac(enabled=self.on):
            return self.net(x.to("cuda", torch.float16)), self.net((x + y).half())  # AMP106

    @ac()
    def evaluate(self, x):
        x = x.half()  # AMP106
        return self.net(x)
""",
            """\
import torch
from torch.cuda.amp import autocast as ac


class Trainer:
    def __init__(self):
        self.net = torch.nn.Conv2d(3, 3, 3).cuda()

    def step(self, x, y):
        with ac(enabled=self.on):
            return self.net(x.to("cuda")), self.net((x + y))  # AMP106

    @ac()
    def evaluate(self, x):
        return self.net(x)
""",
        ),
        Case(
            """\
import torch


class Net(torch.nn.Module):
    def forward(self, x):
        return x


def main(data):
    net = Net().to("cuda").bfloat16()  # AMP106
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x in data:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = net(x)
        loss.backward()
""",
            """\
import torch


class Net(torch.nn.Module):
    def forward(self, x):
        return x


def main(data):
    net = Net().to("cuda")  # AMP106
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x in data:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = net(x)
        loss.backward()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Casts of inputs and of trained modules that are called in a region."""
        if not source.autocasts.calls:
            return
        casts = _Casts(source)
        found: dict[ast.Call, str] = {}
        for call in source.nodes(ast.Call) if casts.types else ():
            if not source.kinds.is_a(call.func, "module"):
                continue
            of_model, of_inputs = list(casts.of_model(call)), list(casts.of_inputs(call))
            if (of_model or of_inputs) and under_autocast(source, call):
                found.update(dict.fromkeys(of_inputs, "an input of a model under autocast"))
                found.update(dict.fromkeys(of_model, "a model that is trained under autocast"))
        for cast, what in found.items():
            message = f"{what} is cast to {casts.types[cast]}"
            fix = self.fix("leave the type to autocast", _without(source, cast), safe=False)
            yield self.finding(source, cast, message, fix)


class _Casts:
    """The casts to low types of one file, and what they are casts of."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.types = {
            call: min(types)
            for call in source.names.methods("half", "bfloat16", "to", "type")
            if len(types := _types(source, call)) == 1
        }
        self._of_models: dict[Maker, list[ast.Call]] = {}
        for call in self.types:
            assert isinstance(call.func, ast.Attribute)
            if source.kinds.is_a(call.func.value, "module"):
                for maker in makers(source, call.func.value):
                    self._of_models.setdefault(maker, []).append(call)

    def of_model(self, call: ast.Call) -> Iterator[ast.Call]:
        """Casts of the module that `call` runs, if its parameters are trained."""
        if not self._of_models:
            return
        for maker in makers(self._source, call.func) & self._of_models.keys() & self._trained:
            for cast in self._of_models[maker]:
                if self._is_in_force(cast, maker, call):
                    yield cast

    def of_inputs(self, call: ast.Call) -> Iterator[ast.Call]:
        """Casts whose results `call` gives to a module that is not low itself."""
        given = [*call.args, *(k.value for k in call.keywords)]
        values = [self._source.values.of(argument) for argument in given]
        casts = [v[0] for v in values if len(v) == 1 and isinstance(v[0], ast.Call)]
        casts = [cast for cast in casts if cast in self.types]
        if casts and not any(self._is_low(maker) for maker in makers(self._source, call.func)):
            yield from casts

    @cached_property
    def _trained(self) -> set[Maker]:
        """Makers of modules whose parameters something takes, and nothing freezes or takes back
        to float32.
        """
        names = self._source.names
        taken = names.methods("parameters", "named_parameters")
        back = [c for c in names.methods("requires_grad_") if c.args or c.keywords]
        back += names.methods("float")
        return self._makers_of(taken) - self._makers_of(back)

    def _makers_of(self, calls: list[ast.Call]) -> set[Maker]:
        receivers = [c.func.value for c in calls if isinstance(c.func, ast.Attribute)]
        return {maker for one in receivers for maker in makers(self._source, one)}

    def _is_in_force(self, cast: ast.Call, maker: Maker, call: ast.Call) -> bool:
        """Whether the cast comes between making and calling, as far as the text shows."""
        source = self._source
        if source.inside(cast, ast.If) not in (None, source.inside(call, ast.If)):
            return False
        here = source.function(cast)
        if isinstance(maker, ast.AST) and source.function(maker) is not here:
            return False
        if here is not source.function(call):
            return isinstance(maker, ast.AST) or getattr(here, "name", "") == "__init__"
        return cast.lineno <= call.lineno

    def _is_low(self, maker: Maker) -> bool:
        """Whether a module was cast, or made in a low type."""
        if maker in self._of_models or not isinstance(maker, ast.Call):
            return True
        return any(
            keyword.arg in ("dtype", "torch_dtype", None)
            and self._source.values.constants(keyword.value) != {None}
            for keyword in maker.keywords
        )


def _types(source: Source, call: ast.Call) -> frozenset[str]:
    """The low type that a cast gives; none where it may give another one."""
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr in ("half", "bfloat16"):
        name = "float16" if call.func.attr == "half" else "bfloat16"
        return frozenset() if call.args or source.names.of(call.func) else frozenset({name})
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
    types = frozenset(name for one in given for name in source.tensors.types(one))
    return types if types <= LOW else frozenset()


def _without(source: Source, cast: ast.Call) -> list[Edit]:
    """Edits that take the cast away, and keep the move to a device that it may hold."""
    assert isinstance(cast.func, ast.Attribute)
    given: list[ast.expr | ast.keyword] = [*cast.args, *cast.keywords]
    types = [a for a in given if source.tensors.types(a.value if isinstance(a, ast.keyword) else a)]
    if len(types) < len(given):
        return [source.edits.remove_argument(cast, types[0])]
    receiver, statement = cast.func.value, source.parents[cast]
    is_own = isinstance(statement, ast.Assign) and [
        ast.dump(t) for t in statement.targets
    ] == [ast.dump(receiver).replace("ctx=Load()", "ctx=Store()")]  # fmt: skip
    if is_own or isinstance(statement, ast.Expr):
        return [source.edits.delete(statement)]  # type: ignore[arg-type]
    dot = source.data.rindex(b".", source.span(receiver)[1], source.span(cast.func)[1])
    return [Edit(dot, source.span(cast)[1], "")]
