"""How pages are read, and that those of the documentation can be followed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.cleanroom.__main__ import _all_pages, _in_order
from tests.cleanroom.follow import GIVEN
from tests.cleanroom.pages import Given, Page, PageError, parse, read
from tests.cleanroom.room import ROOT

PAGE = """\
# A page

<!-- cleanroom: after first.md -->

Save this as `a.py`:

```python title="a.py"
x = 1
```

```console
$ python a.py
$ long \\
    command
one

two

$ false
$ echo $?
1
```

1. In a list:

    ```console
    $ ls
    a.py
    ```

Needs more. *Not run for this page: needs a
GPU.*

```console
$ trtexec
```

<!-- cleanroom: given b.py, each -->
```sh
first --x   # comment

# only a comment
second
```

```yaml
key: value
```
"""


def page(text: str) -> Page:
    return parse(Path("page.md"), text)


def test_blocks_become_steps() -> None:
    found = page(PAGE)
    assert found.after == "first.md"
    kinds = [step.kind for step in found.steps]
    assert kinds == ["save", "commands", "commands", "not run", "commands", "read"]
    saved, commands, nested, left, script, _ = found.steps
    assert (saved.title, saved.text) == ("a.py", "x = 1\n")
    assert [command.text for command in commands.commands] == [
        "python a.py", "long \\\n    command", "false", "echo $?",
    ]  # fmt: skip
    assert commands.commands[1].output == ("one", "", "two", "")
    assert [command.status_told for command in commands.commands] == [False, False, True, False]
    assert nested.commands[0].indent == "    " and nested.commands[0].output == ("a.py",)
    assert left.reason == "needs a GPU"
    assert script.given == Given("b.py", "each")
    assert [command.text for command in script.commands] == ["first --x   # comment", "second"]


def test_commands_know_their_lines() -> None:
    lines = PAGE.splitlines()
    for step in page(PAGE).steps:
        for command in step.commands:
            assert command.text.splitlines()[0] in lines[command.line - 1]
            for number, shown in enumerate(command.output or (), command.start):
                assert lines[number - 1] == (command.indent + shown if shown else "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('```python title="a.py"\nx = 1\n```\n', "does not name `a.py`"),
        ("```console\nls\n```\n", "begins with"),
        ("<!-- cleanroom: nothing -->\n", "means nothing"),
        ("<!-- cleanroom: given a.py, twice -->\n", "neither"),
        ("<!-- cleanroom: given a.py -->\n```yaml\na: 1\n```\n", "not run"),
    ],
)
def test_broken_conventions_are_named(text: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        page(text)


@pytest.mark.parametrize("path", _all_pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_of_the_documentation_can_be_followed(path: Path) -> None:
    found = read(path)
    assert any(step.commands for step in found.steps)
    for step in found.steps:
        if step.language == "python":
            ast.parse(step.text)
        if step.given:
            assert (GIVEN / step.given.file).is_file()
    assert _in_order([found])[-1] == found


def test_a_page_comes_after_the_one_that_it_goes_on_from(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("<!-- cleanroom: after b.md -->\n")
    (tmp_path / "b.md").write_text("# B\n")
    order = _in_order([read(tmp_path / "a.md")])
    assert [found.path.name for found in order] == ["b.md", "a.md"]
    (tmp_path / "b.md").write_text("<!-- cleanroom: after a.md -->\n")
    with pytest.raises(PageError, match="goes on from itself"):
        _in_order([read(tmp_path / "a.md")])
