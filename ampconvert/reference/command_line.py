"""docs/reference/cli.md, written from the parser: every command, option, default and exit code."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ampconvert.commands.options import COMMANDS, parser
from ampconvert.reference.markdown import code, sentence, table

INTRODUCTION = """\
# Command line

Every command with its options, as `ampconvert COMMAND --help` prints them. `ampconvert model.py` is
short for `ampconvert convert model.py`, and `python -m ampconvert` is the same program. Options are
written in full: a shortened one is refused.

This page is made from the parser: `python -m ampconvert.reference cli > docs/reference/cli.md`.
"""
ENVIRONMENT = {
    "AMPCONVERT_TRACEBACK=1": "an error shows its traceback instead of one line",
    "NO_COLOR=1": "no colours, as everywhere; they are off too where the output is no terminal",
    "COLUMNS=100": "the width of tables, in characters, where the terminal does not tell it",
}


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    commands = _subparsers(parser())
    yield from table(
        ("command", "does"),
        ((f"[{name}](#ampconvert-{name})", COMMANDS[name]) for name in commands),
    )
    yield "Commands that calibrate (`convert`, `analyze`, `explain`) share that work among the"
    yield "workers of `torchrun --nproc-per-node N -m ampconvert ...`; the first one prints."
    yield ""
    for name, sub in commands.items():
        yield from _command(name, sub)
    yield "## Environment variables"
    yield ""
    yield from table(("variable", "effect"), ((code(v), text) for v, text in ENVIRONMENT.items()))


def _command(name: str, sub: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## ampconvert {name}"
    yield ""
    yield sentence(sub.description or COMMANDS[name])
    yield ""
    places = [_shown(a) for g in sub._action_groups for a in g._group_actions if _is_place(a)]
    yield "```"
    yield " ".join(["ampconvert", name, "[OPTION ...]", *places])
    yield "```"
    yield ""
    for group in sub._action_groups:
        rows = [_row(action, sub) for action in group._group_actions if action.dest != "help"]
        if rows:
            # argparse names its own groups in ways that say nothing here.
            title = {"positional arguments": "arguments", "options": "general"}
            yield f"**{sentence(title.get(group.title or '', group.title or '')).rstrip('.')}**"
            yield ""
            yield from table(("option", "meaning"), rows)
    if sub.epilog:
        yield from _exit_codes(sub.epilog)


def _row(action: argparse.Action, sub: argparse.ArgumentParser) -> tuple[str, str]:
    if _is_place(action):
        return code(_shown(action)), _meaning(action, sub)
    value = "" if action.nargs == 0 else f" {_shown(action)}"
    spelled = ", ".join(code(f"{option}{value}") for option in reversed(action.option_strings))
    return spelled, _meaning(action, sub)


def _meaning(action: argparse.Action, sub: argparse.ArgumentParser) -> str:
    text = action.help or ""
    said = "default" in text
    parts = [sentence(_in_code(text))]
    if action.choices is not None and not isinstance(action, argparse._SubParsersAction):
        parts.append(f"One of {', '.join(code(str(c)) for c in action.choices)}.")
    if action.nargs == "?" and isinstance(action.const, str) and action.option_strings:
        parts.append(f"Without a value: {code(action.const)}.")
    if not said and isinstance(action.default, str | int) and not isinstance(action.default, bool):
        parts.append(f"Default: {code(str(action.default))}.")
    others = [
        other
        for group in sub._mutually_exclusive_groups
        if action in group._group_actions
        for other in group._group_actions
        if other is not action
    ]
    if others:
        parts.append(f"Not together with {', '.join(code(o.option_strings[0]) for o in others)}.")
    return " ".join(parts)


def _in_code(text: str) -> str:
    """Quoted examples and placeholders in angle brackets as code."""
    words = []
    for word in text.split():
        bare = word.strip(",;:().'")
        is_code = word.count("'") == 2 or bare.startswith("--") or "[" in bare
        words.append(word.replace(bare, code(bare)).replace("'", "") if is_code else word)
    return " ".join(words)


def _shown(action: argparse.Action) -> str:
    """The value of an option, or a place, as usage lines write it."""
    metavar = action.metavar if isinstance(action.metavar, str) else None
    choices = "|".join(map(str, action.choices)) if action.choices else None
    name = metavar or choices or (action.dest.upper() if action.option_strings else action.dest)
    if action.nargs == "?":
        return f"[{name}]"
    return f"[{name} ...]" if action.nargs == "*" else name


def _is_place(action: argparse.Action) -> bool:
    return not action.option_strings


def _exit_codes(epilog: str) -> Iterator[str]:
    """The sentence "exit codes: 0 done, 1 failed" as a table."""
    title, _, listed = epilog.partition(":")
    rows: list[tuple[str, str]] = []
    for part in listed.split(", "):
        number, _, meaning = part.strip().partition(" ")
        if number.isdigit():
            rows.append((number, meaning))
        elif rows:  # a comma within a meaning
            rows[-1] = (rows[-1][0], f"{rows[-1][1]}, {part.strip()}")
    yield f"**{sentence(title).rstrip('.')}**"
    yield ""
    yield from table(("code", "meaning"), rows)


def _subparsers(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
