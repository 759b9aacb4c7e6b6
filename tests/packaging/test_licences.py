"""docs/licences.md is up to date, and nothing in it forbids what an Apache-2.0 project does."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from tests.packaging import licences
from tests.packaging.licences import ROOT, acceptable, bundled, direct_requirements, vendored

PAGE = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
# Package, in lower case -> version, licence, extras, as the page's tables have them.
ROWS = {
    name.lower(): (version, named, extras)
    for name, version, named, extras in re.findall(
        r"^\| \[([^\]]+)\]\([^)]+\) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.M
    )
}
DIRECT = sorted(
    {(extra, r.name) for extra, requirements in direct_requirements().items() for r in requirements}
)


@pytest.mark.parametrize(("extra", "name"), DIRECT)
def test_what_is_asked_for_is_on_the_page(extra: str, name: str) -> None:
    assert name.lower() in ROWS, "python -m tests.packaging.licences > docs/licences.md"
    version, named, extras = ROWS[name.lower()]
    assert (f"[{extra}]" if extra else "core") in extras.split(", ")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert version == pinned.get(name, version)
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return
    if found.version.partition("+")[0] == version:
        assert licences.licence(found) == named


@pytest.mark.parametrize("name", sorted(ROWS))
def test_licences_allow_the_dependency(name: str) -> None:
    assert acceptable(ROWS[name][1]), f"{name}: {ROWS[name][1]}"


def test_what_users_get_asks_for_notices_alone() -> None:
    """MPL-2.0 and the like are for developers: nothing that an extra for users brings."""
    users = {"core", "[torch]", "[onnx]", "[ort]", "[ort-gpu]", "[rewrite]"}
    for name, (_, named, extras) in ROWS.items():
        if users & set(extras.split(", ")):
            assert acceptable(named, licences.NOTICE_ONLY), f"{name}: {named}"


def test_what_is_brought_is_permissive_and_on_the_page() -> None:
    for path, _, named in vendored():
        assert (ROOT / path).is_file(), path
        assert f"| `{path}` |" in PAGE, path
        if path.startswith("ampconvert/"):
            assert acceptable(re.split("[,:]", named)[0], licences.NOTICE_ONLY), f"{path}: {named}"
    for name, version, named in bundled():
        assert acceptable(named, licences.NOTICE_ONLY), f"{name}: {named}"
        assert f"{name} {version} ({named})" in PAGE


def test_a_licence_file_of_others_has_its_line() -> None:
    listed = {path.rpartition("/")[0] for path, _, _ in vendored()}
    for path in [*ROOT.glob("ampconvert/**/*LICENSE*"), *ROOT.glob("docs/**/LICENSE*")]:
        assert path.parent.relative_to(ROOT).as_posix() in listed, path


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [
        ("MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("(GPL-3.0-only OR MIT) AND MIT", False),  # for a person to judge
        ("not named", False),
        ("", False),
    ],
)
def test_expressions_are_judged(expression: str, accepted: bool) -> None:
    assert acceptable(expression) == accepted
