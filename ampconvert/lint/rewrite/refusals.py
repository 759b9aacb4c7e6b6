"""Scripts that are not rewritten, with the reason and what to do instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.lint.rewrite.script import Script, step_arguments

# What a framework's trainer is called, and how mixed precision is set there.
_FRAMEWORKS = (
    (("deepspeed", "deepspeed.*"), "DeepSpeed scales losses itself",
     'set "fp16": {{"enabled": true}} or "bf16": {{"enabled": true}} in its configuration'),
    (("lightning.pytorch.Trainer", "lightning.pytorch.LightningModule"),
     "Lightning's Trainer runs the loop", 'set Trainer(precision="{lightning}")'),
    (("lightning.fabric.Fabric",), "Fabric runs backward and step",
     'set Fabric(precision="{lightning}")'),
    (("accelerate.Accelerator",), "Accelerate runs backward and step",
     'set Accelerator(mixed_precision="{short}")'),
    (("transformers.Trainer", "transformers.Seq2SeqTrainer", "trl.*"),
     "the Trainer of Transformers runs the loop", "set TrainingArguments({short}=True)"),
    (("fastai.*",), "fastai's Learner runs the loop", "call learn.to_{short}()"),
    (("ignite.engine.create_supervised_trainer",), "Ignite runs the loop",
     'set create_supervised_trainer(..., amp_mode="amp", scaler=True)'),
)  # fmt: skip
_FSDP = ("torch.distributed.fsdp.FullyShardedDataParallel",
         "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
         "torch.distributed.fsdp.fully_shard",
         "torch.distributed._composable.fsdp.fully_shard")  # fmt: skip
_AMP = ("torch.amp.*", "torch.cuda.amp.*", "torch.cpu.amp.*", "apex.amp", "apex.amp.*",
        "torch.xpu.amp.*")  # fmt: skip
_AMP_WORDS = {"torch.amp", "torch.cuda.amp", "torch.cpu.amp", "apex.amp"}


def uses_amp(script: Script) -> ast.AST | None:
    """Where the script uses automatic mixed precision already, or None."""
    source = script.source
    found: list[ast.AST] = [alias for _, alias in source.names.imports(*_AMP, *_AMP_WORDS)]
    found += source.names.references("torch.amp.autocast", "torch.amp.GradScaler")
    found += source.names.calls("ampconvert.prepare_training")
    for node in source.nodes(ast.Attribute):
        if node.attr in ("autocast", "GradScaler") and source.names.is_one(node, *_AMP):
            found.append(node)
    return found[0] if found else None


def refuse(script: Script, style: str) -> None:
    """Raise UserError, by `Script.refuse`, for the first reason not to rewrite."""
    _frameworks(script)
    if not script.backwards:
        raise script.refuse(
            None, "no training loop is in this script: nothing calls backward() on a loss",
            "give the script that holds the loop; for inference see `ampconvert convert`",
        )  # fmt: skip
    _half_models(script)
    _optimizers(script)
    if style == "amp":
        _sharded(script)
        if script.scaled:
            _gradients(script)
    _dynamic(script)


def _frameworks(script: Script) -> None:
    short = "fp16" if script.scaled else "bf16"
    lightning = "16-mixed" if script.scaled else "bf16-mixed"
    for names, why, instead in _FRAMEWORKS:
        for statement, _ in script.source.names.imports(*names):
            raise script.refuse(statement, why, instead.format(short=short, lightning=lightning))
        for used in script.source.names.references(*(n for n in names if not n.endswith("*"))):
            raise script.refuse(used, why, instead.format(short=short, lightning=lightning))


def _half_models(script: Script) -> None:
    source = script.source
    low = "in 16 bits small updates of parameters are lost, and Adam's eps of 1e-8 is 0 in float16"
    for call in source.names.methods("half", "bfloat16", "double", "to"):
        assert isinstance(call.func, ast.Attribute)
        if not script.roles.is_module(call.func.value):
            continue
        given = [*call.args, *(k.value for k in call.keywords)]
        types = {t for g in given for t in source.tensors.types(g)}
        text = source.segment(call)
        if call.func.attr == "double" or "float64" in types:
            raise script.refuse(
                call, f"{text}: the model is float64, which autocast never lowers",
                "take that out, if float32 is enough",
            )  # fmt: skip
        if call.func.attr in ("half", "bfloat16") or types & {"float16", "bfloat16"}:
            raise script.refuse(
                call, f"{text} makes the parameters themselves 16 bits wide: {low}",
                "take it out, so that the parameters are float32, and rewrite then",
            )  # fmt: skip
    for call in source.names.calls("torch.set_default_dtype", "torch.set_default_tensor_type"):
        types = {t for g in call.args for t in source.tensors.types(g)}
        if types - {"float32"} or not types:
            raise script.refuse(
                call, "the default type is not float32, so parameters are not",
                "take this out, so that the parameters are float32, and rewrite then",
            )  # fmt: skip


def _optimizers(script: Script) -> None:
    source = script.source
    for call in source.names.calls("torch.optim.LBFGS", "torch.optim.lbfgs.LBFGS"):
        raise script.refuse(
            call, "LBFGS runs the loss several times in one step, in a closure, which a gradient "
            "scaler can't follow", "keep it in float32, or take another optimizer",
        )  # fmt: skip
    for call in source.names.methods("first_step", "second_step"):
        raise script.refuse(
            call, "this optimizer (as SAM) steps twice for each batch, from two backward passes; a "
            "gradient scaler takes one step per update", "use bfloat16 by hand, which needs no "
            "scaler, or keep it in float32",
        )  # fmt: skip
    for call in script.unknown_steps:
        raise script.refuse(
            call, f"nothing in this file tells what {source.segment(call.func)} steps: an "
            "optimizer, a scheduler or something else",
            "annotate it (optimizer: torch.optim.Optimizer), or make it in this file",
        )  # fmt: skip
    if not script.steps:
        raise script.refuse(
            script.backwards[0].call, "no optimizer's step() is in this script",
            "update the parameters with an optimizer of torch.optim",
        )  # fmt: skip
    for step in script.steps:
        if step_arguments(step.call):
            raise script.refuse(
                step.call, "step() gets a closure, which runs the loss inside of the step; a "
                "gradient scaler can't follow that", "call loss.backward() before a plain step()",
            )  # fmt: skip


def _sharded(script: Script) -> None:
    imported = [alias for _, alias in script.source.names.imports(*_FSDP)]
    for used in imported or script.source.names.references(*_FSDP):
        raise script.refuse(
            used, "FSDP shards parameters, and needs its own MixedPrecision policy and "
            "ShardedGradScaler",
            "set mixed_precision=MixedPrecision(...), or use --style ampconvert",
        )  # fmt: skip
    for call in script.source.names.calls("torch.nn.parallel.data_parallel"):
        if not script.scaled:
            raise script.refuse(
                call, "data_parallel runs the model in threads, which take over that autocast is "
                "on, but not its type", "use DistributedDataParallel, or --dtype fp16",
            )  # fmt: skip


def _gradients(script: Script) -> None:
    """What float16's scaled gradients can't do."""
    source = script.source
    for keyword in source.nodes(ast.keyword):
        if keyword.arg == "create_graph" and not _is_false(keyword.value):
            raise script.refuse(
                keyword.value, "create_graph makes gradients part of the loss (a gradient "
                "penalty): they would have to be scaled and divided again by hand",
                "use --dtype bf16, which needs no scaler, or see "
                "https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-penalty",
            )  # fmt: skip
    for step in script.steps:
        owner, method = source.class_of(step.call), source.function(step.call)
        if owner is None or method is None or method.name != "step":
            continue
        if "optimizer" not in source.kinds.of_class(owner) and not script.does_backward(method):
            raise script.refuse(
                step.call, f"{owner.name} wraps an optimizer, and its step() is not one that a "
                "gradient scaler can take", "step the optimizer itself in the loop, and let a "
                "torch.optim.lr_scheduler change the rate, or use --dtype bf16, which needs no "
                "scaler",
            )  # fmt: skip
    for node in _by_hand(script):
        raise script.refuse(
            node, "parameters are updated by hand from their gradients, which a gradient scaler "
            "can't skip", "use an optimizer of torch.optim, or --dtype bf16, which needs no scaler",
        )  # fmt: skip
    for node in _of_inputs(script):
        raise script.refuse(
            node, "the gradient of an input is read, which would be multiplied by the loss scale",
            "use --dtype bf16, which needs no scaler, or divide it by scaler.get_scale()",
        )  # fmt: skip
    for call in source.names.methods("register_hook", "register_post_accumulate_grad_hook"):
        raise script.refuse(
            call, "a hook sees gradients, which would be multiplied by the loss scale",
            "use --dtype bf16, which needs no scaler",
        )  # fmt: skip


def _by_hand(script: Script) -> Iterator[ast.AST]:
    for node in script.source.nodes(ast.Attribute):
        if node.attr != "grad" or not isinstance(node.ctx, ast.Load):
            continue
        statement = script.source.statement(node)
        if isinstance(statement, ast.AugAssign) and not _holds(statement.target, "grad"):
            target = statement.target
            if _holds(target, "data") or (
                isinstance(target, ast.Name)
                and ast.dump(target).replace("Store", "Load") == ast.dump(node.value)
            ):
                yield statement
        for above in script.source.ancestors(node):
            if isinstance(above, ast.Call) and isinstance(above.func, ast.Attribute):
                method = above.func.attr
                base = above.func.value
                if (
                    method in ("add_", "sub_", "copy_", "addcmul_", "addcdiv_")
                    and not _holds(base, "grad")
                    and _holds(base, "data")
                ):
                    yield statement


def _of_inputs(script: Script) -> Iterator[ast.AST]:
    source = script.source
    wanted: set[str] = set()
    for call in source.names.methods("requires_grad_"):
        assert isinstance(call.func, ast.Attribute)
        if isinstance(call.func.value, ast.Name) and not script.roles.is_module(call.func.value):
            wanted.add(call.func.value.id)
    for assigned in source.nodes(ast.Assign):
        for target in assigned.targets:
            if not isinstance(target, ast.Attribute) or target.attr != "requires_grad":
                continue
            if isinstance(target.value, ast.Name) and not _is_false(assigned.value):
                wanted.add(target.value.id)
    for node in source.nodes(ast.Attribute):
        if node.attr == "grad" and isinstance(node.value, ast.Name) and node.value.id in wanted:
            bound = source.scopes.bindings(node.value)
            if not any(b.value is not None and _gives_parameters(script, b.value) for b in bound):
                yield node


def _gives_parameters(script: Script, value: ast.expr) -> bool:
    words = ("parameters", "named_parameters", "param_groups", "params")
    return any(
        (isinstance(n, ast.Attribute) and n.attr in words)
        or (isinstance(n, ast.Constant) and n.value in words)
        for end in (value, *script.source.values.of(value))
        for n in [end, *script.source.walk(end, functions=True)]
    )


def _dynamic(script: Script) -> None:
    for call in script.source.names.calls("exec"):
        raise script.refuse(call, "exec() runs code that can't be read here", "write that code out")


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not node.value


def _holds(node: ast.AST, attribute: str) -> bool:
    return any(isinstance(n, ast.Attribute) and n.attr == attribute for n in ast.walk(node))
