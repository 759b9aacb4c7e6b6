"""[tool.ampconvert.lint] of pyproject.toml, patterns of files, and the command line over both."""

from __future__ import annotations

from pathlib import Path

import pytest

from ampconvert.errors import UserError
from ampconvert.findings import Edit, Finding, Fix, Location
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.config import EXCLUDED, Config, Configs, Overrides, check_codes
from ampconvert.lint.globs import Globs
from ampconvert.lint.settings import Settings

NONE = Overrides()
EVERYTHING = """\
[tool.ampconvert.lint]
select = ["AMP2", "amp301"]
extend-select = ["AMP4"]
ignore = ["AMP204"]
exclude = ["old"]
extend-exclude = ["*_pb2.py"]
force-exclude = true
torch = "2.1.0"
assume-amp = "half"
fixable = ["AMP0"]
unfixable = ["AMP003"]
extend-safe-fixes = ["AMP2"]
max-file-size = 1_000

[tool.ampconvert.lint.per-file-ignores]
"tests/*" = ["AMP4"]
"conftest.py" = ["ALL"]
"""


def project(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def config(folder: Path, text: str, overrides: Overrides = NONE) -> Config:
    return Configs(overrides).of(str(project(folder, text)))


def section(body: str) -> str:
    return f"[tool.ampconvert.lint]\n{body}\n"


def test_every_option_is_read(tmp_path: Path) -> None:
    found = config(tmp_path, EVERYTHING)
    assert found == Config(
        root=str(tmp_path),
        file=str(tmp_path / "pyproject.toml"),
        select=("AMP2", "AMP301"),
        extend_select=("AMP4",),
        ignore=("AMP204",),
        per_file_ignores=(("tests/*", ("AMP4",)), ("conftest.py", ("ALL",))),
        exclude=("old",),
        extend_exclude=("*_pb2.py",),
        force_exclude=True,
        fixable=("AMP0",),
        unfixable=("AMP003",),
        extend_safe_fixes=("AMP2",),
        max_file_size=1000,
        settings=Settings((2, 1), frozenset({"half"})),
    )
    assert found.ignored_in(str(tmp_path / "tests" / "a" / "b.py")) == ("AMP4",)
    assert found.ignored_in(str(tmp_path / "src" / "conftest.py")) == ("ALL",)
    assert found.ignored_in(str(tmp_path / "src" / "tests.py")) == ()


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = Configs(NONE).of(str(tmp_path))
    assert found == Config(str(tmp_path))
    assert found.settings == Settings() and found.select is None and found.exclude == EXCLUDED


def test_the_nearest_file_with_a_section_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    project(tmp_path, section('select = ["AMP2"]'))
    project(tmp_path / "a", "[tool.other]\nampconvert = 1\n")
    configs = Configs(NONE)
    assert configs.of(str(inner)).root == str(tmp_path)
    assert configs.of(str(tmp_path / "a")) is configs.of(str(inner))
    project(inner, section('select = ["AMP3"]'))
    assert configs.of(str(inner)).root == str(tmp_path)  # as it was when it was asked for
    assert Configs(NONE).of(str(inner)).select == ("AMP3",)


def test_an_empty_section_is_a_section(tmp_path: Path) -> None:
    assert config(tmp_path, section("")).file == str(tmp_path / "pyproject.toml")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ('selec = ["AMP2"]', ["'selec'", "did you mean 'select'?"]),
        ("per_file_ignores = {}", ["'per_file_ignores'", "'per-file-ignores'"]),
        ("zzz = 1", ["'zzz'", "extend-select"]),
        ('select = "AMP2"', ["lint.select", "list of strings"]),
        ("select = [2]", ["lint.select", "list of strings"]),
        ('select = ["eps-underflow"]', ["lint.select", "'EPS-UNDERFLOW'", "no code"]),
        ("exclude = 1", ["lint.exclude", "list of strings"]),
        ('exclude = ["[z-a]"]', ["lint.exclude", "'[z-a]'"]),
        ('per-file-ignores = ["a"]', ["per-file-ignores", "table"]),
        ('per-file-ignores = {"a.py" = "AMP2"}', ['per-file-ignores."a.py"', "list of strings"]),
        ("torch = 2.4", ["lint.torch", '"2.4"']),
        ('torch = "new"', ["lint.torch", '"2.4"']),
        ('assume-amp = "gpu"', ["lint.assume-amp", "cpu-autocast"]),
        ("assume-amp = 1", ["lint.assume-amp", "cpu-autocast"]),
        ('force-exclude = "yes"', ["lint.force-exclude", "true or false"]),
        ("max-file-size = true", ["lint.max-file-size", "bytes"]),
        ("max-file-size = -1", ["lint.max-file-size", "bytes"]),
        ("select = [,]", ["line 2"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, body: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        config(tmp_path, section(body))
    for part in [str(tmp_path / "pyproject.toml"), *parts]:
        assert part in str(caught.value)


def test_the_section_must_be_a_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pyproject\.toml.*\[tool\.ampconvert\.lint\]"):
        config(tmp_path, "[tool.ampconvert]\nlint = 1\n")


def test_a_file_without_a_word_of_ours_is_not_parsed(tmp_path: Path) -> None:
    project(tmp_path, "this is no TOML")
    assert Configs(NONE).of(str(tmp_path)).file == ""


@pytest.mark.parametrize(
    ("value", "modes"),
    [
        ("true", {"cuda-autocast"}),
        ("false", set()),
        ('"autocast"', {"cuda-autocast"}),
        ('["half", "cpu-autocast"]', {"half", "cpu-autocast"}),
    ],
)
def test_assumed_modes(tmp_path: Path, value: str, modes: set[str]) -> None:
    assert config(tmp_path, section(f"assume-amp = {value}")).settings.assume == modes


def test_the_command_line_wins(tmp_path: Path) -> None:
    over = Overrides(torch="2.8", assume="autocast", extend_select=("AMP5",), ignore=("AMP1",))
    found = config(tmp_path, EVERYTHING, over)
    assert found.settings == Settings((2, 8), frozenset({"cuda-autocast"}))
    assert found.select == ("AMP2", "AMP301")
    assert found.extend_select == ("AMP4", "AMP5")
    assert found.ignore == ("AMP204", "AMP1")


def test_a_selection_on_the_command_line_replaces_the_file_s(tmp_path: Path) -> None:
    found = config(tmp_path, EVERYTHING, Overrides(select=("AMP204",), ignore=("AMP1",)))
    assert (found.select, found.extend_select, found.ignore) == (("AMP204",), (), ("AMP1",))
    assert found.per_file_ignores and found.extend_exclude == ("*_pb2.py",)


@pytest.mark.parametrize("over", [Overrides(torch="x"), Overrides(assume="gpu")])
def test_wrong_words_on_the_command_line(over: Overrides) -> None:
    with pytest.raises(UserError, match=r"--torch|--assume-amp"):
        over.over(Config("/"))


def test_codes_must_be_those_of_rules() -> None:
    codes = [rule.CODE for rule in all_rules()]
    check_codes(Config("/", select=("AMP", "AMP0", "ALL", "AMP001")).codes(), codes)
    wrong: dict[str, Config | Overrides] = {
        r"p\.toml: .*\.select": Config("/", "p.toml", select=("AMP0011",)),
        r"p\.toml: .*\.ignore": Config("/", "p.toml", ignore=("AMP0011",)),
        r"\.per-file-ignores": Config("/", "p.toml", per_file_ignores=(("a", ("AMP0011",)),)),
        r"\.unfixable": Config("/", "p.toml", unfixable=("AMP0011",)),
        "--select": Overrides(select=("AMP0011",)),
        "--ignore": Overrides(ignore=("AMP0011",)),
        "--extend-select": Overrides(extend_select=("AMP0011",)),
    }
    for where, one in wrong.items():
        with pytest.raises(UserError, match=rf"{where}: .*'AMP0011'; did you mean 'AMP"):
            check_codes(one.codes(), codes)
    with pytest.raises(UserError, match="`ampconvert rule` lists them all"):
        check_codes([("--select", "ZZZ")], codes)


def test_fixes_are_those_that_the_project_wants() -> None:
    def found(code: str, *, safe: bool) -> Finding:
        return Finding(code, "m", Location(), fix=Fix("f", (Edit(0, 0, "x"),), safe))

    one = Config("/", fixable=("AMP0", "AMP2"), unfixable=("AMP003",), extend_safe_fixes=("AMP2",))
    assert one.allowed(found("AMP001", safe=True)) == found("AMP001", safe=True)
    assert one.allowed(found("AMP001", safe=False)) == found("AMP001", safe=False)
    assert one.allowed(found("AMP003", safe=True)).fix is None
    assert one.allowed(found("AMP301", safe=True)).fix is None
    assert one.allowed(found("AMP204", safe=False)) == found("AMP204", safe=True)
    plain = Finding("AMP204", "m", Location())
    assert one.allowed(plain) is plain


def test_the_key_tells_configurations_apart() -> None:
    plain = Config("/")
    assert plain.key == Config("/elsewhere", exclude=("a",)).key
    others = [
        Config("/", select=()),
        Config("/", ignore=("AMP1",)),
        Config("/", per_file_ignores=(("a", ("AMP1",)),)),
        Config("/", fixable=()),
        Config("/", max_file_size=1),
        Config("/", settings=Settings((2, 5))),
        Config("/", settings=Settings(assume=frozenset({"half"}))),
    ]
    assert len({one.key for one in (plain, *others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("build", "/p/build", True),
        ("build", "/p/a/build", True),
        ("build/", "/p/a/build", True),
        ("build", "/p/builds", False),
        ("*.py", "/p/a/b.py", True),
        ("*.py", "/p/a/b.pyi", False),
        ("*_pb?.py", "/p/a/x_pb2.py", True),
        ("tests/data", "/p/tests/data", True),
        ("./tests/data", "/p/tests/data", True),
        ("tests/data", "/p/a/tests/data", False),
        ("tests/data", "/q/tests/data", False),
        ("**/tests/data", "/p/a/tests/data", True),
        ("**/tests/data", "/p/tests/data", True),
        ("src/*.py", "/p/src/a/b.py", True),
        ("a[0-9].py", "/p/a5.py", True),
        ("a[!0-9].py", "/p/a5.py", False),
        ("a[[]1].py", "/p/a[1].py", True),
        ("a.{py,pyi}", "/p/a.pyi", True),
        ("a.{py,pyi}", "/p/a.pyx", False),
        ("a+b (c).py", "/p/a+b (c).py", True),
        ("ä/*", "/p/ä/ö.py", True),
        ("/q/x.py", "/q/x.py", True),
        ("", "/p/a", False),
    ],
)
def test_patterns(pattern: str, path: str, fits: bool) -> None:
    assert Globs("/p", [pattern]).fits(path) is fits


def test_a_pattern_for_a_folder_holds_for_what_is_in_it() -> None:
    globs = Globs("/p", ["build", "a/b"])
    assert globs.holds("/p/build/x/y.py") and globs.holds("/p/a/b/c/d.py")
    assert not globs.fits("/p/build/x/y.py") and not globs.holds("/p/x/y.py")
    assert not Globs("/p/build", ["build"]).holds("/p/build/x.py")  # the root is named, not it
    assert not Globs("/p", []).holds("/p/a")
