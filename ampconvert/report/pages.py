"""A report as a file: the page, the summary or the data, by the file's suffix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from ampconvert.errors import UserError

Format = Literal["html", "markdown", "json"]
FORMATS: dict[str, Format] = {
    ".html": "html", ".htm": "html", ".md": "markdown", ".json": "json",
}  # fmt: skip


def format_of(path: Path) -> Format:
    """What a file of that name holds; UserError for a suffix that no report has."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UserError(f"{path}: a report's name ends in .html, .md or .json")
    return found


def write(data: Mapping[str, Any], paths: Iterable[Path]) -> list[Path]:
    """Write the report of `data`, in nothing but what JSON has, to each of `paths`; gives those."""
    from ampconvert.files import write_text

    made = []
    for path in paths:
        write_text(rendered(data, format_of(path)), path)
        made.append(path)
    return made


def rendered(data: Mapping[str, Any], kind: Format) -> str:
    """The report of `data`, in nothing but what JSON has, as the text of such a file."""
    if kind == "html":
        from ampconvert.report import html

        return html.page(data)
    if kind == "markdown":
        from ampconvert.report import markdown

        return markdown.page(data)
    from ampconvert.report.jsonable import dumps

    return dumps(data) + "\n"
