"""docs/licences.md: every package that ampconvert asks for, with its licence, and what it brings.

Written from the metadata of the packages installed here, so in an environment that has them all:

    pip install -c constraints.txt -e '.[all,examples,test,docs]'
    python -m tests.packaging.licences > docs/licences.md
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
# What may stand beside an Apache-2.0 project: licences that ask for notices alone, and MPL-2.0,
# which asks for the source of its own files. None of these packages is part of ampconvert.
NOTICE_ONLY = frozenset((
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0",
    "Unlicense", "Zlib",
))  # fmt: skip
ACCEPTED = NOTICE_ONLY | {"MPL-2.0"}
# How packages that give no SPDX expression write their licence, in the classifier or the field.
_SPELLINGS = {
    "Apache Software License": "Apache-2.0", "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0", "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD License": "BSD", "3-Clause BSD License": "BSD-3-Clause", "BSD 3-Clause": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC", "ISC License": "ISC", "MIT License": "MIT",
    "Apache": "Apache-2.0", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}  # fmt: skip
# Files of others that the repository and the sdist hold, and that no VENDOR.md lists.
_COPIED = (
    ("tests/lint/data/sarif-schema-2.1.0.json", "OASIS, SARIF 2.1.0 errata 01", "OASIS IPR Policy"),
)


@dataclass(frozen=True)
class Package:
    """A package as its metadata describe it; `extras` of ampconvert ask for it, "" is the core."""

    name: str
    version: str
    licence: str
    url: str
    extras: tuple[str, ...]
    direct: bool


def main() -> int:
    """Print the page; 1, with the names on stderr, where a package is not installed here."""
    packages, absent = find()
    if absent:
        print(f"not installed here: {', '.join(absent)}", file=sys.stderr)
        return 1
    print(page(packages), end="")
    return 0


def find() -> tuple[list[Package], list[str]]:
    """Every package that an extra asks for, through others too, and those that are missing here."""
    asked: dict[str, set[str]] = {}
    direct: set[str] = set()
    absent: set[str] = set()
    for extra, requirements in direct_requirements().items():
        queue = list(requirements)
        direct |= {canonicalize_name(r.name) for r in requirements}
        seen: set[str] = set()
        while queue:
            requirement = queue.pop()
            key = f"{canonicalize_name(requirement.name)}[{','.join(sorted(requirement.extras))}]"
            if key in seen:
                continue
            seen.add(key)
            try:
                queue += _requirements(distribution(requirement.name), requirement.extras)
            except PackageNotFoundError:
                absent.add(requirement.name)
                continue
            asked.setdefault(canonicalize_name(requirement.name), set()).add(extra)
    found = [_package(distribution(name), asked[name], name in direct) for name in sorted(asked)]
    return found, sorted(absent)


@cache
def direct_requirements() -> Mapping[str, tuple[Requirement, ...]]:
    """What pyproject.toml asks for, by extra; "" is the core, and [all] is left out, being others
    together.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists: dict[str, list[str]] = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: tuple(r for r in map(Requirement, texts) if r.name != "ampconvert")
        for extra, texts in lists.items()
        if extra != "all"
    }


def licence(found: Distribution) -> str:
    """The licence of a package as an SPDX expression, where one can be told; "" where nothing is
    said.
    """
    metadata: Any = found.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    text = " ".join((metadata.get("License") or "").split())
    text = _SPELLINGS.get(text, text)
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License :: ")]
    named = [_SPELLINGS.get(c.split(" :: ")[-1], c.split(" :: ")[-1]) for c in classifiers]
    if acceptable(text) or (not named and 0 < len(text) <= 40 and text != "UNKNOWN"):
        return text  # else it is a loose word, or the licence in full
    return " OR ".join(named) or _from_file(found)


def acceptable(expression: str, accepted: frozenset[str] = ACCEPTED) -> bool:
    """Whether one of the alternatives of an SPDX expression is accepted in full. With parentheses
    all of its licences have to be.
    """
    terms = re.split(r"\s+(?:AND|OR)\s+", expression.replace("(", "").replace(")", ""))
    if "(" in expression:
        return all(term in accepted for term in terms)
    return any(
        all(term.strip() in accepted for term in alternative.split(" AND "))
        for alternative in expression.split(" OR ")
    )


def page(packages: list[Package]) -> str:
    """The page's text."""
    lines = _INTRODUCTION.splitlines()
    for title, direct in (("Asked for by ampconvert", True), ("Asked for by those", False)):
        lines += ["", f"## {title}", "", "| package | version | licence | for |"]
        lines += ["|---|---|---|---|"]
        lines += [_row(package) for package in packages if package.direct == direct]
    lines += ["", *_CUDA.splitlines(), "", *_vendored()]
    return "\n".join(lines) + "\n"


def vendored() -> Iterator[tuple[str, str, str]]:
    """Files of others in this repository: (path, where it is from, licence)."""
    for table in sorted(ROOT.glob("ampconvert/**/VENDOR.md")) + sorted(
        ROOT.glob("docs/**/VENDOR.md")
    ):
        folder = table.parent.relative_to(ROOT).as_posix()
        for cells in _rows(table.read_text(encoding="utf-8")):
            if len(cells) >= 3 and cells[0].startswith("`") and cells[2]:
                yield f"{folder}/{cells[0].strip('`')}", cells[1], cells[2]
    yield from _COPIED


def bundled() -> Iterator[tuple[str, str, str]]:
    """JavaScript packages inside the report's bundle: (package, version, licence)."""
    for path in sorted(ROOT.glob("ampconvert/report/page/vendor/*.LICENSES.txt")):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r"^==== (\S+) (\S+) \((.+)\) ====$", text, re.M)


def _requirements(found: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """What a package asks for on this machine, with these extras of its own."""
    for requirement in map(Requirement, found.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
            yield requirement


def _package(found: Distribution, extras: set[str], direct: bool) -> Package:
    metadata: Any = found.metadata
    return Package(
        metadata["Name"], found.version.partition("+")[0], licence(found), _url(metadata),
        tuple(sorted(extras)), direct,
    )  # fmt: skip


def _from_file(found: Distribution) -> str:
    """The licence that the package's own licence file begins with."""
    for name in found.metadata.get_all("License-File") or []:
        head = (found.read_text(f"licenses/{name}") or found.read_text(name) or "")[:400]
        for phrase, spdx in (("Apache License, Version 2.0", "Apache-2.0"), ("MIT License", "MIT")):
            if phrase in head:
                return spdx
    return ""


def _url(metadata: Any) -> str:
    """The package's own page, else PyPI's."""
    lines = [line.partition(",") for line in metadata.get_all("Project-URL") or []]
    links = {label.strip().lower(): url.strip() for label, _, url in lines}
    wanted = ("homepage", "home", "home page", "source", "source code", "repository", "github")
    for label in wanted:
        if label in links:
            return links[label]
    home = metadata.get("Home-page")
    return (
        str(home) if home and home != "UNKNOWN" else f"https://pypi.org/project/{metadata['Name']}/"
    )


def _row(package: Package) -> str:
    extras = ", ".join(f"[{extra}]" if extra else "core" for extra in package.extras)
    return (
        f"| [{package.name}]({package.url}) | {package.version} | {package.licence or 'not named'} "
        f"| {extras} |"
    )


def _vendored() -> Iterator[str]:
    yield from _BROUGHT.splitlines()
    yield from ("", "| file | from | licence |", "|---|---|---|")
    for path, origin, named in vendored():
        yield f"| `{path}` | {origin} | {named} |"
    names = [f"{name} {version} ({named})" for name, version, named in bundled()]
    if names:
        yield from ("", f"In the report's bundle: {', '.join(names)}.")


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of all rows of Markdown tables."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


_INTRODUCTION = """\
# Licences

ampconvert is under the Apache License 2.0. It asks for the packages below and holds none of them;
each stays under its own licence. `python -m tests.packaging.licences` writes this page from the
metadata of the packages, at the versions of `constraints.txt`, on Linux with Python 3.11. Where
they give no SPDX expression, the licence is what they say, and "BSD" leaves the number of clauses
open. What a package itself includes stands in its own files.

The core is what `pip install ampconvert` brings. [torch], [onnx], [ort], [ort-gpu] and [rewrite]
are for users, and [all] is torch, onnx, ort and rewrite together. The other extras are for those
who run the examples, the tests or the documentation."""

_CUDA = """\
On Linux, PyPI's torch asks for NVIDIA's CUDA libraries (`nvidia-*`, `cuda-*`) and triton too;
NVIDIA's are under its own licences. The table is that of torch's CPU build, which asks for none of
them."""

_BROUGHT = """\
## In this repository

Files of others, and their licences. What lies under `ampconvert/` is in the wheel, the rest in the
repository and the sdist alone. The rules and other data are ampconvert's own: they quote single
figures and names, with the source beside each."""


if __name__ == "__main__":
    raise SystemExit(main())
