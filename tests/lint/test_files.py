"""Which files are found, how they are read, and how they are written back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ampconvert.errors import UserError
from ampconvert.lint.config import Configs, Overrides
from ampconvert.lint.files import ChangedError, decoded, discover, encoded, write


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.py", "a.py", "stub.pyi", "notes.ipynb", "readme.md", "script", "a b/ä ö.py",
        ".venv/lib/x.py", "build/y.py", "src/build/z.py", "src/deep/er/w.py", "gen/x_pb2.py",
        "tests/data/bad.py", "tests/test_x.py", "x.PY",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str, **overrides: bool) -> list[str]:
    return [file.path for file in discover(paths, Configs(Overrides(**overrides)))]  # type: ignore[arg-type]


ALL = [
    "a b/ä ö.py", "a.py", "b.py", "gen/x_pb2.py", "notes.ipynb", "src/deep/er/w.py", "stub.pyi",
    "tests/data/bad.py", "tests/test_x.py",
]  # fmt: skip


def test_a_folder_is_searched_for_sources(tree: Path) -> None:
    assert found(".") == ALL
    assert found("src", "tests") == ["src/deep/er/w.py", "tests/data/bad.py", "tests/test_x.py"]
    assert found(str(tree)) == [f"{tree}/{path}" for path in ALL]
    assert found("src/..") == ALL


def test_each_file_comes_once(tree: Path) -> None:
    assert found("a.py", "./a.py", str(tree / "a.py"), ".") == ALL


def test_what_is_named_is_taken(tree: Path) -> None:
    assert found("script", "readme.md", "build/y.py") == ["build/y.py", "readme.md", "script"]
    assert found("build") == ["build/y.py"]
    assert found(".venv/lib") == [".venv/lib/x.py"]


def test_named_and_excluded_with_force(tree: Path) -> None:
    assert found("build/y.py", "a.py", force_exclude=True) == ["a.py"]
    (tree / "pyproject.toml").write_text("[tool.ampconvert.lint]\nforce-exclude = true\n")
    assert found("build/y.py", "a.py") == ["a.py"]


def test_the_configuration_excludes(tree: Path) -> None:
    (tree / "pyproject.toml").write_text(
        '[tool.ampconvert.lint]\nextend-exclude = ["*_pb2.py", "tests/data"]\n'
    )
    wanted = [path for path in ALL if path not in ("gen/x_pb2.py", "tests/data/bad.py")]
    assert found(".") == wanted
    assert found("tests") == ["tests/test_x.py"]
    (tree / "pyproject.toml").write_text('[tool.ampconvert.lint]\nexclude = ["src"]\n')
    assert ".venv/lib/x.py" in found(".") and "src/deep/er/w.py" not in found(".")


def test_an_inner_project_has_its_own_configuration(tree: Path) -> None:
    (tree / "pyproject.toml").write_text('[tool.ampconvert.lint]\nselect = ["AMP1"]\n')
    (tree / "src" / "pyproject.toml").write_text('[tool.ampconvert.lint]\nexclude = ["er"]\n')
    (tree / "tests" / "pyproject.toml").write_text("[project]\n")
    (tree / "src" / "v.py").touch()
    files = discover(["."], Configs(Overrides()))
    select = {file.path: file.config.select for file in files}
    assert select["a.py"] == select["tests/data/bad.py"] == ("AMP1",)
    assert select["src/v.py"] is None and "src/deep/er/w.py" not in select
    assert files == discover(["."], Configs(Overrides()))
    named = {file.path: file.config for file in discover(select, Configs(Overrides()))}
    assert named == {file.path: file.config for file in files}


def test_size_and_time_are_those_of_the_file(tree: Path) -> None:
    stat = os.stat("a.py")
    (file,) = discover(["a.py"], Configs(Overrides()))
    assert (file.size, file.mtime) == (stat.st_size, stat.st_mtime_ns)
    (walked,) = (one for one in discover(["."], Configs(Overrides())) if one.path == "a.py")
    assert walked == file


def test_what_does_not_exist_is_named(tree: Path) -> None:
    for path in ("nothing.py", "a.py/b.py", "no\0name"):
        with pytest.raises(UserError) as caught:
            found("a.py", path)
        assert path in str(caught.value)


def test_links(tree: Path) -> None:
    (tree / "loop").symlink_to(tree)
    (tree / "same.py").symlink_to("a.py")
    (tree / "gone.py").symlink_to("nowhere.py")
    outside = tree.parent / f"{tree.name}-outside.py"
    outside.write_text("x = 1\n")
    (tree / "other.py").symlink_to(outside)
    assert found(".") == sorted([*ALL, "other.py"])
    assert found("same.py") == ["same.py"]
    assert found("loop/src") == ["loop/src/deep/er/w.py"]
    with pytest.raises(UserError, match=r"gone\.py"):
        found("gone.py")


def test_pipes_and_sockets_are_no_files(tree: Path) -> None:
    os.mkfifo(tree / "pipe.py")
    (tree / "folder.py").mkdir()
    assert found(".") == ALL


def test_a_folder_that_cannot_be_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(folder: str) -> object:
        if folder.endswith("/src"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    files = {file.path: file for file in discover(["."], Configs(Overrides()))}
    assert isinstance(files["src"].error, PermissionError) and "a.py" in files


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"x = 1\r\ny = 2\r", "x = 1\r\ny = 2\r", "utf-8"),
        ("x = 'ä'\n".encode(), "x = 'ä'\n", "utf-8"),
        (b"\xef\xbb\xbfx = 1\n", "x = 1\n", "utf-8-sig"),
        (b"# -*- coding: latin-1 -*-\nx = '\xe4'\n", "# -*- coding: latin-1 -*-\nx = 'ä'\n",
         "iso-8859-1"),
        (b"#!x\n# vim: encoding=cp1252\n'\x80'", "#!x\n# vim: encoding=cp1252\n'€'", "cp1252"),
        (b"x = 1\n\n# coding: latin-1\n", "x = 1\n\n# coding: latin-1\n", "utf-8"),
        (b"# coding", "# coding", "utf-8"),
        (b"", "", "utf-8"),
    ],
)  # fmt: skip
def test_text_and_encoding(data: bytes, text: str, encoding: str) -> None:
    assert decoded(data) == (text, encoding)
    assert encoded(text, encoding) == data


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"# coding: no-such\n", SyntaxError),
        (b"# coding: hex\n", SyntaxError),
        (b"\xef\xbb\xbf# coding: latin-1\n", SyntaxError),
        (b"x = '\xe4'\n", UnicodeDecodeError),
        (b"# coding: ascii\n'\xe4'\n", UnicodeDecodeError),
        (b"# coding: undefined\n", SyntaxError),
    ],
)
def test_what_is_no_text(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decoded(data)


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "a b.py"
    file.write_bytes(b"old")
    file.chmod(0o755)
    write(str(file), b"old", b"new\r\n")
    assert file.read_bytes() == b"new\r\n" and file.stat().st_mode & 0o7777 == 0o755
    assert os.listdir(tmp_path) == ["a b.py"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_bytes(b"old")
    (tmp_path / "link.py").symlink_to("real.py")
    write(str(tmp_path / "link.py"), b"old", b"new")
    assert (tmp_path / "link.py").is_symlink() and (tmp_path / "real.py").read_bytes() == b"new"


def test_what_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(b"newer")
    with pytest.raises(ChangedError):
        write(str(file), b"old", b"new")
    assert file.read_bytes() == b"newer" and os.listdir(tmp_path) == ["a.py"]


def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(b"old")

    def replace(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        write(str(file), b"old", b"new")
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.py"]
