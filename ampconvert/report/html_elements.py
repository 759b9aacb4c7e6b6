"""HTML from text of unknown content: elements that escape whatever they hold.

The standard library's ElementTree writes them, so no text can end an element or an attribute.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, tostring

from ampconvert.report.words import TYPE_NAMES, type_name

Child = Element | str | None | Iterable["Child"]
# They print nothing, and reverse the order in which what follows is shown.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element with children: other elements, text, None for nothing, or sequences of those.

    `class_="a"` is the attribute class, `aria_label` is aria-label; None and False leave an
    attribute out, True gives it without a value.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            made.set(name.rstrip("_").replace("_", "-"), "" if value is True else clean(value))
    _append(made, children)
    return made


def clean(text: object) -> str:
    """`text` with every character that HTML or UTF-8 can't hold, or that turns the line, shown as
    U+FFFD.
    """
    return "".join("\ufffd" if _unprintable(c) else c for c in str(text))


def written(made: Element) -> str:
    """An element as HTML."""
    return tostring(made, encoding="unicode", method="html")


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, and what its figures are aligned to."""

    heading: str
    right: bool = False
    wide: bool = False  # left out on a narrow screen


def table(columns: Sequence[Column], rows: Iterable[Sequence[Child]], caption: str = "") -> Element:
    """A table that scrolls inside its box where the screen is too narrow for it.

    The first cell of each row is its heading.
    """
    head = [element("th", column.heading, scope="col", class_=_cell(column)) for column in columns]
    body = [element("tr", _cells(columns, row)) for row in rows]
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element("thead", element("tr", head)),
            element("tbody", body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption or columns[0].heading,
    )


def facts(rows: Iterable[tuple[str, Child]]) -> Element:
    """Names with what they stand for, as a list of terms."""
    return element(
        "dl", [element("div", element("dt", name), element("dd", told)) for name, told in rows],
        class_="facts",
    )  # fmt: skip


def bullets(items: Iterable[Child]) -> Element:
    """A plain list."""
    return element("ul", [element("li", item) for item in items], class_="bullets")


def precision(dtype: str | None) -> Element:
    """A type as a badge that is told by its word as well as by its colour."""
    if not dtype:
        return element("span", "as it is", class_="badge other")
    kind = "low" if TYPE_NAMES.get(dtype) in ("FP16", "BF16") else "full"
    return element("span", type_name(dtype), class_=f"badge {kind}")


def to_tree(node: Mapping[str, object], shown: str = "") -> Element:
    """The place of an operator, as a button that shows it in the tree; `shown` stands instead."""
    name = str(node.get("node") or "")
    text = shown or str(node.get("scope") or name or "the model")
    return element("button", text, type="button", class_="link", data_node=name)


def outcome(ok: bool | None, words: Mapping[bool | None, str]) -> Element:
    """A mark and a word for held, failed or not known."""
    kind = {True: "good", False: "bad", None: "warn"}[ok]
    return element("span", words[ok], class_=f"mark {kind}")


def command_line(command: str) -> Element:
    """A command with a button that copies it; the button needs the page's script."""
    return element(
        "div",
        element("code", command),
        element("button", "Copy", type="button", class_="copy", aria_label=f"Copy: {command}"),
        class_="command",
    )


def _append(made: Element, children: Iterable[Child]) -> None:
    last = made[-1] if len(made) else None
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif isinstance(child, str):
            if last is None:
                made.text = (made.text or "") + clean(child)
            else:
                last.tail = (last.tail or "") + clean(child)
        else:
            _append(made, child)
            last = made[-1] if len(made) else None


def _cells(columns: Sequence[Column], row: Sequence[Child]) -> list[Element]:
    made = []
    for number, (column, cell) in enumerate(zip(columns, row, strict=True)):
        if number:
            made.append(element("td", cell, class_=_cell(column)))
        else:
            made.append(element("th", cell, scope="row", class_=_cell(column)))
    return made


def _cell(column: Column) -> str | None:
    words = [w for w, wanted in (("right", column.right), ("wide", column.wide)) if wanted]
    return " ".join(words) or None


def _unprintable(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or character in _TURNS
