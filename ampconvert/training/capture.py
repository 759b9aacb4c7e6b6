"""A graph that Dynamo captured, as ATen calls before autograd.

The same operators come out as of torch.export's training programs: linear, layer_norm, batch_norm,
scaled_dot_product_attention, dropout and cross_entropy_loss stay whole. Nothing is computed, drawn
or written: everything runs on fake tensors of a mode of its own, so that what a graph does to its
inputs reaches nobody else's; the sizes are symbols of the ShapeEnv that Dynamo makes its guards of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._guards import TracingContext, detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    make_fx,
    track_tensor_tree,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ampconvert.frontends.stack_trace import source_line
from ampconvert.training.checkpoints import CHECKPOINT
from ampconvert.training.inplace import settle_updates
from ampconvert.training.naming import name_places
from ampconvert.training.refusal import NotCapturable as NotCapturable
from ampconvert.training.regions import grad_modes
from ampconvert.training.transforms import outlined

# make_fx loses sight of these tensors: they are made without the dispatcher.
_LEAVES = (getattr(torch._C._autograd, "_get_data_attr"),)  # noqa: B009 - the stubs lack it


@dataclass(frozen=True)
class Body:
    """A call that runs a graph of its own: `node` calls what lies at `attribute` of the module."""

    node: fx.Node
    attribute: str
    module: fx.GraphModule


def aten_graph(
    gm: fx.GraphModule, inputs: Sequence[Any], root: torch.nn.Module | None = None
) -> fx.GraphModule:
    """`gm` as a module of ATen calls; called inside a Dynamo backend with what the backend got.

    The placeholders are those of `gm`, in order and by name. Every node has meta["val"] (fake
    tensors; a placeholder's says whether it requires a gradient) and the stack trace and module
    stack that Dynamo gave it, modules by the path that named_modules() spells. `root` is the whole
    model, where it is known: paths of a graph that holds a part of it are the model's then, else
    the part's.

    Updates in place are gone where that changes nothing; a call that touches memory which is still
    updated says so in meta["ampconvert_bound"], see `settle_updates`. Higher-order operators and
    functions that PyTorch does not know stay as they are, with their bodies; only the bodies of
    activation checkpoints are ATen calls too: see `bodies`.

    Raises NotCapturable.
    """
    _refuse_autocast(inputs)
    mode = _fake_mode(inputs)
    return _aten_graph(gm, inputs, _fakes(gm, inputs, mode), mode, root)


def bodies(module: fx.GraphModule) -> list[Body]:
    """The activation checkpoints of a module that `aten_graph` made. The operands of the call are
    the inputs of the body, in order.
    """
    return [
        Body(node, node.args[0].target, getattr(module, node.args[0].target))
        for node in module.graph.find_nodes(op="call_function", target=CHECKPOINT)
    ]


def _aten_graph(
    gm: fx.GraphModule,
    inputs: Sequence[Any],
    fakes: list[Any],
    mode: FakeTensorMode,
    root: torch.nn.Module | None,
) -> fx.GraphModule:
    traced = _trace(outlined(gm), fakes, mode)
    _refuse_lost(traced)
    traced = _with_inputs_of(gm, traced)
    for node, fake in zip(traced.graph.find_nodes(op="placeholder"), fakes, strict=True):
        node.meta["val"] = fake
    name_places(traced.graph, inputs, root)
    _convert_bodies(traced, mode, root)
    settle_updates(traced.graph, mode)
    traced.graph.lint()
    traced.recompile()
    return traced


def _refuse_autocast(inputs: Sequence[Any]) -> None:
    devices = {value.device.type for value in inputs if isinstance(value, torch.Tensor)}
    for device in sorted(devices):
        if torch.is_autocast_enabled(device):
            raise NotCapturable(
                f"torch.autocast is on for {device} around it, and chooses the types"
            )


def _fake_mode(inputs: Sequence[Any]) -> FakeTensorMode:
    """A mode of our own over the sizes of the one that is tracing."""
    context = TracingContext.try_get()
    current = context.fake_mode if context is not None else detect_fake_mode(list(inputs))
    if current is None:
        return FakeTensorMode()
    return FakeTensorMode(shape_env=current.shape_env)


def _fakes(gm: fx.GraphModule, inputs: Sequence[Any], mode: FakeTensorMode) -> list[Any]:
    """The inputs as AOTAutograd makes fake ones: with the sizes that Dynamo gave them."""
    context = TracingContext.try_get()
    known = context.tensor_to_context if context is not None else {}
    found: list[Any] = []
    for node, value in zip(gm.graph.find_nodes(op="placeholder"), inputs, strict=True):
        if is_traceable_wrapper_subclass(value):
            raise NotCapturable(f"{node.name} is a {type(value).__name__}")
        if isinstance(value, torch.Tensor):
            sizes = known.get(value)
            source = sizes.tensor_source if sizes is not None else None
            value = mode.from_tensor(value, symbolic_context=sizes, source=source)
        found.append(value)
    return found


def _refuse_lost(traced: fx.GraphModule) -> None:
    """A fake tensor among the constants is one that a function made behind the tracer's back."""
    for node in traced.graph.find_nodes(op="get_attr"):
        if isinstance(getattr(traced, node.target), FakeTensor):
            reader = next(iter(node.users), node)
            raise NotCapturable(f"{_described(reader)}: what it reads was not traced")


def _with_inputs_of(gm: fx.GraphModule, traced: fx.GraphModule) -> fx.GraphModule:
    """`traced` with the placeholders of `gm`: their names, and where their values come from."""
    olds = iter(gm.graph.find_nodes(op="placeholder"))
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            old = next(olds)
            twin = graph.placeholder(old.name)
            twin.meta = {**node.meta, **_origin(old)}
        else:
            twin = graph.node_copy(node, twins.__getitem__)
        twins[node] = twin
    return fx.GraphModule(traced, graph)


def _trace(gm: fx.GraphModule, fakes: list[Any], mode: FakeTensorMode) -> fx.GraphModule:
    interpreter = _Interpreter(gm, mode)

    def run(*args: Any) -> Any:
        return interpreter.run(*args)

    with _state_kept(mode), mode, fx.traceback.preserve_node_meta():
        try:
            return make_fx(run, pre_dispatch=True)(*fakes)
        except NotCapturable:
            raise
        except Exception as error:
            where = _described(interpreter.current)
            raise NotCapturable(f"{where}: {_first_line(error)}") from error


@contextlib.contextmanager
def _state_kept(mode: FakeTensorMode) -> Iterator[None]:
    """Puts back what a graph that was left half way would leave changed."""
    env = mode.shape_env
    # What is fresh here will be fresh again when the result is compiled.
    fresh = env.ignore_fresh_unbacked_symbols() if env is not None else contextlib.nullcontext()
    with torch.set_grad_enabled(torch.is_grad_enabled()), fresh:
        yield


class _Interpreter(fx.Interpreter):
    """Runs Dynamo's graph under make_fx; what make_fx would run through becomes one call."""

    def __init__(self, gm: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(gm)
        self.mode = mode
        self.current: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.current = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        # Without these two, the modes that trace would only note them, and nothing would be cast.
        if target is torch.amp.autocast_mode._enter_autocast:
            region: Any = torch.autocast(*args, **kwargs)
            region.__enter__()
            return region
        if target is torch.amp.autocast_mode._exit_autocast:
            args[0].__exit__(None, None, None)
            return None
        if not _is_known(target):
            return self._leaf(target, args, kwargs)
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        state = {name: self._constant(f"{target}.{name}", value) for name, value in held.items()}
        return torch.func.functional_call(module, state, args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(target)
        return self._constant(target, value) if isinstance(value, torch.Tensor) else value

    def _constant(self, target: str, value: torch.Tensor) -> torch.Tensor:
        tracer = _tracer()
        name = target.replace(".", "_")
        if not hasattr(tracer.root, name):
            setattr(tracer.root, name, value)
        with disable_proxy_modes_tracing():
            fake: torch.Tensor = self.mode.from_tensor(value)
        proxy = tracer.create_proxy("get_attr", name, (), {})
        track_tensor_tree(fake, proxy, constant=None, tracer=tracer)
        return fake

    def _leaf(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A call that is not looked into: its result is what Dynamo found that it gives."""
        assert self.current is not None
        if "example_value" not in self.current.meta:
            raise NotCapturable(f"{_described(self.current)}: Dynamo does not say what it gives")
        tracer = _tracer()

        def operand(value: Any) -> Any:
            if isinstance(value, fx.GraphModule):
                return tracer.create_proxy("get_attr", _registered(tracer.root, value), (), {})
            return tracer.unwrap_proxy(value)

        is_body = lambda value: isinstance(value, fx.GraphModule)  # noqa: E731
        shared = self._operands()
        with disable_proxy_modes_tracing():
            made = pytree.tree_map(
                lambda example: _like(example, shared), self.current.meta["example_value"]
            )
        given = pytree.tree_map(operand, (tuple(args), dict(kwargs)), is_leaf=is_body)
        proxy = tracer.create_proxy("call_function", target, *given)
        track_tensor_tree(made, proxy, constant=None, tracer=tracer)
        return made

    def _operands(self) -> dict[int, torch.Tensor]:
        """The operands of the call by the memory that Dynamo's fake tensors for them had."""
        assert self.current is not None
        examples = ((n, n.meta.get("example_value")) for n in self.current.all_input_nodes)
        return {
            example.untyped_storage()._cdata: self.env[node]
            for node, example in examples
            if isinstance(example, torch.Tensor) and example.layout == torch.strided
        }


def _like(example: Any, operands: Mapping[int, torch.Tensor]) -> Any:
    """A tensor in place of `example`; it lies in an operand's memory where `example` did."""
    if not isinstance(example, torch.Tensor):
        return example
    size, stride = example.size(), example.stride()
    operand = operands.get(example.untyped_storage()._cdata)
    if operand is not None and operand.dtype == example.dtype:
        made = operand.as_strided(size, stride, example.storage_offset())
        return made if example.requires_grad else made.detach()
    made = torch.empty_strided(size, stride, dtype=example.dtype, device=example.device)
    if example.requires_grad and torch.is_grad_enabled():
        made = made.requires_grad_().clone()  # no leaf: it may be updated in place
    return made


def _tracer() -> Any:
    mode = get_proxy_mode()
    assert mode is not None
    return mode.tracer


def _registered(root: torch.nn.Module, body: fx.GraphModule) -> str:
    for name, module in root.named_children():
        if module is body:
            return name
    name = f"body_{len(dict(root.named_children()))}"
    root.register_module(name, body)
    return name


def _is_known(target: Any) -> bool:
    """Whether a function only computes on tensors, so that what it calls says all about it."""
    if isinstance(target, torch._ops.HigherOrderOperator) or target in _LEAVES:
        return False
    owner = getattr(target, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return False  # its backward is the user's own
    home = str(getattr(target, "__module__", None) or "torch")
    return home.split(".")[0] in ("torch", "_operator", "operator", "math", "builtins")


def _convert_bodies(
    traced: fx.GraphModule, mode: FakeTensorMode, root: torch.nn.Module | None
) -> None:
    """Bring the bodies of activation checkpoints into ATen calls."""
    enabled = grad_modes(traced.graph)
    done: dict[str, fx.GraphModule] = {}
    for body in bodies(traced):
        if body.attribute not in done:
            fakes = _body_fakes(body, mode)
            with torch.set_grad_enabled(enabled[body.node]):
                new = _aten_graph(body.module, fakes, fakes, mode, root)
            new.meta = {**body.module.meta, **new.meta}
            done[body.attribute] = new
            _hand_down(body.node, new)
        setattr(traced, body.attribute, done[body.attribute])


def _body_fakes(body: Body, mode: FakeTensorMode) -> list[Any]:
    """The operands of a checkpoint as inputs of its body."""
    fakes: list[Any] = []
    placeholders = body.module.graph.find_nodes(op="placeholder")
    for placeholder, operand in zip(placeholders, body.node.args[1:], strict=True):
        value = operand.meta["val"] if isinstance(operand, fx.Node) else operand
        example = placeholder.meta.get("example_value")
        is_computed = isinstance(operand, fx.Node) and operand.op != "placeholder"
        if is_computed and isinstance(value, torch.Tensor) and isinstance(example, torch.Tensor):
            with mode:
                value = torch.empty_strided(
                    value.size(), value.stride(), dtype=value.dtype, device=value.device,
                    requires_grad=example.requires_grad,
                )  # fmt: skip
        fakes.append(value)
    return fakes


def _hand_down(call: fx.Node, body: fx.GraphModule) -> None:
    """Tell a body which of its inputs are parameters and buffers."""
    for placeholder, operand in zip(
        body.graph.find_nodes(op="placeholder"), call.args[1:], strict=True
    ):
        if isinstance(operand, fx.Node) and "ampconvert_state" in operand.meta:
            placeholder.meta["ampconvert_state"] = operand.meta["ampconvert_state"]


def _origin(placeholder: fx.Node) -> Mapping[str, Any]:
    """Where the frame that Dynamo runs finds an input: L['self']._parameters['weight']."""
    argument = placeholder.meta.get("grapharg")
    source = getattr(argument, "source", None)
    if source is None:
        return {}
    name = source.name
    return {"ampconvert_source": name() if callable(name) else name}


def _described(node: fx.Node | None) -> str:
    if node is None:
        return "the graph"
    line = source_line(node.meta.get("stack_trace") or "")
    return f"{node.name}{f' ({line})' if line else ''}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
