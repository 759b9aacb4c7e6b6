"""The rewrite to ampconvert's own training: the model is prepared, the loop stays as it is."""

from __future__ import annotations

import ast

from ampconvert.lint.rewrite.amp import switch
from ampconvert.lint.rewrite.casts import Casts
from ampconvert.lint.rewrite.changes import Insert, Plan, Replace
from ampconvert.lint.rewrite.flow import Flow
from ampconvert.lint.rewrite.names import Fresh
from ampconvert.lint.rewrite.script import Script
from ampconvert.lint.values import is_self


def plan(script: Script) -> Plan:
    """Everything that is to change. Raises UserError where models and optimizers aren't plain."""
    made = Plan()
    fresh = Fresh(script.source)
    _refuse(script)
    Casts(script, Flow(script), made).remove_by_hand()
    package = fresh.module("ampconvert")
    prepared: set[tuple[ast.AST, str]] = set()
    for creation in _creations(script):
        statement = script.source.statement(creation)
        models = _models(script, creation)
        named = _name(statement, creation)
        inside = (ast.ListComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
        many = any(isinstance(above, inside) for above in script.source.ancestors(creation))
        if not models or many:
            raise script.refuse(
                creation, "nothing here tells which model this optimizer trains",
                "give it model.parameters(), and assign it to a name",
            )  # fmt: skip
        optimizer = named or fresh.name("optimizer", "new_optimizer")
        fresh.taken.add(optimizer)
        wanted = [m for m in models if (script.source.scope(creation), m) not in prepared]
        prepared |= {(script.source.scope(creation), m) for m in wanted}
        if wanted:
            dtype = f"dtype={fresh.torch}.{script.dtype}"
            calls = [f"    {package}.prepare_training({model}, {dtype})" for model in wanted]
            made.add(
                Insert(statement, "\n".join([f"if {fresh.switch}:", *calls])),
                statement.lineno, f"prepare {', '.join(wanted)} before the optimizer is made",
                f"the model's forward is captured, and what is safe in {script.dtype} runs in it; "
                "parameters, inputs and outputs stay float32, so the loop stays as it is",
            )  # fmt: skip
        if not script.scaled:
            continue
        if not named:  # made where it is handed on: it gets a name first
            made.add(Insert(statement, f"{optimizer} = {script.source.segment(creation)}"))
            made.add(Replace(creation, optimizer))
        guards = [f"    {package}.skip_nonfinite_steps({optimizer}, {m})" for m in models]
        made.add(
            Insert(statement, "\n".join([f"if {fresh.switch}:", *guards]), after=bool(named)),
            statement.lineno, f"guard {optimizer}",
            "it turns the loss scale on, and skips steps whose gradients are not finite",
        )  # fmt: skip
    switch(script, made, fresh, with_dtype=False)
    made.note(
        "what the loop computes outside of the model's forward, losses among it, stays float32"
    )
    return made


def _refuse(script: Script) -> None:
    names = script.source.names
    for call in names.calls("torch.nn.DataParallel", "torch.nn.parallel.data_parallel"):
        raise script.refuse(
            call, "ampconvert can't capture a model under DataParallel",
            "use DistributedDataParallel, or --style amp",
        )  # fmt: skip
    for call in names.calls("torch.compile"):
        raise script.refuse(
            call, "ampconvert compiles the model itself, and can't prepare a compiled one",
            'leave torch.compile out, and give prepare_training(..., inner="inductor") instead',
        )  # fmt: skip
    for call in names.calls("torch.jit.script", "torch.jit.trace"):
        raise script.refuse(
            call,
            "a TorchScript module can't be prepared",
            "train the module itself, or use --style amp",
        )
    for call in names.calls("torch.distributed.fsdp.FullyShardedDataParallel"):
        if not any(k.arg == "use_orig_params" and isinstance(k.value, ast.Constant)
                   and k.value.value is True for k in call.keywords):  # fmt: skip
            raise script.refuse(
                call, "FSDP's flat parameters can't be seen by torch.compile",
                "give it use_orig_params=True, or use fully_shard",
            )  # fmt: skip


def _creations(script: Script) -> list[ast.Call]:
    """The calls that make the optimizers which are stepped."""
    found: dict[ast.Call, None] = {}
    for step in script.steps:
        made = [m for m in script.roles.made(step.what) if script.roles.is_optimizer(m)]
        if not made:
            raise script.refuse(
                step.call, "the optimizer is made in another file",
                "rewrite the script that makes it, or use --style amp",
            )  # fmt: skip
        found.update(dict.fromkeys(made))
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def _models(script: Script, creation: ast.Call) -> list[str]:
    """How the modules are called whose parameters an optimizer gets."""
    found: dict[str, None] = {}
    searched: list[ast.AST] = [creation]
    for argument in [*creation.args, *(k.value for k in creation.keywords)]:
        searched += script.source.values.of(argument)
    scope = script.source.scope(creation)
    for node in searched:
        for inner in [node, *script.source.walk(node)]:
            if not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Attribute):
                continue
            if inner.func.attr not in ("parameters", "named_parameters"):
                continue
            module = inner.func.value
            if script.source.scope(inner) is not scope and not _is_comprehension(
                script, inner, scope
            ):
                continue
            while isinstance(module, ast.Attribute) and not is_self(module.value):
                module = module.value  # model.features.parameters(): prepare the whole
            if isinstance(module, ast.Name | ast.Attribute):
                found[script.source.segment(module)] = None
    return list(found)


def _is_comprehension(script: Script, node: ast.AST, scope: ast.AST) -> bool:
    return scope in script.source.ancestors(node)


def _name(statement: ast.stmt, creation: ast.Call) -> str:
    """The name or attribute that an optimizer is assigned to as it is made; "" without one."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return ""
    plain = statement.value is creation and isinstance(target, ast.Name | ast.Attribute)
    return ast.unparse(target) if plain else ""
