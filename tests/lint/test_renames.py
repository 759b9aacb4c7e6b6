"""Moving a file from old names to new ones: what is found, and that the result does the same."""

from __future__ import annotations

import warnings

import pytest

from ampconvert.lint import engine
from ampconvert.lint.catalogue import selected
from ampconvert.lint.settings import Settings

RULES = selected(["AMP001", "AMP002", "AMP003", "AMP004", "AMP506"])


def fixed(text: str, settings: Settings | None = None) -> str:
    return engine.fix(text, RULES, settings=settings, unsafe=True).text


def codes(text: str, path: str = "train.py") -> list[tuple[int, str]]:
    return [(f.where.line, f.code) for f in engine.check(text, RULES, path)]


@pytest.mark.parametrize(
    "arguments",
    ["", "False", "True, torch.bfloat16", "enabled=(1 > 2), dtype=torch.bfloat16",
     "(True), (torch.float16), False", "*(), **{'dtype': None}", "True, cache_enabled=False"],
)  # fmt: skip
@pytest.mark.parametrize(
    "start",
    ["import torch", "from torch.cuda.amp import autocast as ac; import torch",
     "from torch.cuda import amp; import torch", "import torch, torch.cuda.amp as amp"],
)  # fmt: skip
def test_a_fixed_call_makes_the_same_region_and_does_not_warn(start: str, arguments: str) -> None:
    name = "ac" if "as ac" in start else "amp.autocast" if " amp" in start else ""
    old = f"{start}\nregion = {name or 'torch.cuda.amp.autocast'}({arguments})\n"
    new = fixed(old)
    if arguments.startswith("*"):
        assert new == old and codes(old) == [(2, "AMP001")]
        return
    assert codes(new) == [] and "cuda.amp" not in new
    before, after = run(old), run(new, strict=True)
    for attribute in ("device", "fast_dtype", "_enabled", "_cache_enabled"):
        assert getattr(after, attribute) == getattr(before, attribute)


def run(text: str, *, strict: bool = False) -> object:
    """What the program calls `region`; with `strict`, no deprecated name may be called."""
    pytest.importorskip("torch")
    scope: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if strict:
            warnings.simplefilter("error", FutureWarning)
        exec(compile(text, "train.py", "exec"), scope)
    return scope["region"]


def test_names_of_one_import_move_together_and_keep_their_order() -> None:
    old = """\
from torch.cuda.amp import custom_fwd, autocast, GradScaler, custom_bwd  # ours


@custom_bwd
@custom_fwd
def f(x):
    return x


with autocast():
    scaler = GradScaler()
"""
    new = fixed(old)
    assert new.count("import") == 1 and "torch.cuda.amp" not in new
    assert 'custom_bwd(device_type="cuda")' in new and 'GradScaler("cuda")' in new


def test_an_import_that_other_names_need_stays() -> None:
    old = "import torch\nfrom torch.cuda import amp\n\nwith amp.autocast():\n    amp.common.f()\n"
    assert fixed(old) == old.replace("amp.autocast()", 'torch.amp.autocast("cuda")')


@pytest.mark.parametrize(
    "text",
    [
        "from torch.cuda.amp import autocast\n",
        "from torch.cuda.amp import autocast as autocast\n",
        "from torch.cuda.amp import autocast\n\nwith autocast():\n    pass\n",
    ],
)
def test_what_a_package_may_export_keeps_its_import(text: str) -> None:
    result = engine.fix(text, RULES, "pkg/__init__.py")
    assert "from torch.cuda.amp import autocast" in result.text


def test_a_name_that_hides_torch_is_gone_round() -> None:
    old = (
        "from torch.cuda.amp import autocast\n\n\ndef f(torch):\n    g(autocast)\n    autocast()\n"
    )
    new = fixed(old)
    assert new.startswith("import torch as _torch\n") and '_torch.amp.autocast("cuda")' in new


def test_a_silenced_call_keeps_the_import_and_its_text() -> None:
    old = "from torch.cuda.amp import autocast\n\nautocast()\nautocast()  # noqa: AMP001\n"
    assert fixed(old) == old and codes(old) == [(3, "AMP001")]


@pytest.mark.parametrize(
    ("test", "found"),
    [("hasattr(torch.amp, 'autocast')", 0), ("TORCH_2_4", 0), ("torch.cuda.is_available()", 1)],
)
def test_a_branch_for_older_versions_is_no_mistake_but_one_for_a_device_is(
    test: str, found: int
) -> None:
    text = f"""\
import torch

if {test}:
    region = torch.amp.autocast("cpu")
else:
    region = torch.cuda.amp.autocast()
"""
    assert len(codes(text)) == found


def test_a_fix_waits_for_the_version_that_has_the_new_name() -> None:
    old = "import torch\n\ntorch.cuda.amp.GradScaler()\ntorch.cuda.amp.autocast()\n"
    new = fixed(old, Settings(torch=(2, 0)))
    assert "torch.cuda.amp.GradScaler()" in new and 'torch.amp.autocast("cuda")' in new
