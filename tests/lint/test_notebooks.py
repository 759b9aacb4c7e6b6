"""Notebooks: their cells as one source, magics hidden, findings and fixes back in the cells."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampconvert.findings import Edit, Finding, Fix, Location
from ampconvert.lint import magics
from ampconvert.lint.notebooks import Notebook, NotebookError, named, place

MARK = "#hidden:"


def code(*lines: str, **more: Any) -> dict[str, Any]:
    source = [f"{line}\n" for line in lines[:-1]] + list(lines[-1:])
    return {"cell_type": "code", "metadata": {}, "outputs": [], "source": source} | more


def text(*lines: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": list(lines)}


def book(*cells: dict[str, Any], **more: Any) -> bytes:
    whole = {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5} | more
    return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()


def at(line: int, end: int = 0, fix: Fix | None = None) -> Finding:
    where = Location("", "", "", "x.ipynb", line, 2, end or line, 3)
    return Finding("AMP204", "message", where, fix=fix)


HIDDEN = [
    "%matplotlib inline\n",
    "!pip install torch\nimport torch\n",
    "!!ls\n",
    "?torch\n",
    "torch?\n",
    "torch.nn??\nx = 1",
    "if x:\n    %time f()\n    !ls\nelse:\n    y = 1\n",
    "files = !ls *.py\n",
    "took = %timeit -o f(x)\nprint(took)\n",
    "a, b = !echo 1\n",
    "%%time\nx = 1\ny = 2\n",
    "\n%%timeit -n 3\nf()\n",
    "%%bash\nfor x in 1 2; do echo $x; done\n",
    "%%html\n<b>if</b>\n",
    "%%writefile x.py\nimport torch\n",
    "!pip install \\\n  torch \\\n  numpy\nx = 1\n",
    "/f x\n,f a b\n;f a b\n",
    "%cd x\nx = (1\n% 2\n)\n!ls\n",
    "%cd x\nx = '''\n%no magic\n'''\n%cd y\n",
    "%cd x\nx = 1 \\\n% 2\n%cd y\n",
    'x = "a # (" # [\n!ls\n',
    "x = 'it\\'s ('\n!ls\n",
    "x = [\n  1,\n# %not\n  2]\n%cd y",
    "!ls\r\nx = 1\r\n",
    "%load_ext autoreload\n%autoreload 2\n",
    "print('ä')\n!echo ä\n",
]


@pytest.mark.parametrize("cell", HIDDEN)
def test_magics_are_hidden_and_shown_again(cell: str) -> None:
    made = magics.hidden(cell, MARK)
    ast.parse(made)
    assert made.count("\n") == cell.count("\n") and MARK in made
    assert magics.shown(made, MARK) == cell


def test_only_magics_are_hidden() -> None:
    made = magics.hidden(HIDDEN[17], MARK)
    assert made == f"pass{MARK}%cd x\nx = (1\n% 2\n)\npass{MARK}!ls\n"
    assert magics.hidden(HIDDEN[6], MARK) == (
        f"if x:\n    pass{MARK}%time f()\n    pass{MARK}!ls\nelse:\n    y = 1\n"
    )
    assert magics.hidden(HIDDEN[7], MARK) == f"files = None{MARK}!ls *.py\n"


@pytest.mark.parametrize(
    "cell", ["x = 1\n", "x = (5\n% 3)\n", "x = '%d?' % 1\n", "await f()\n", "", "# !ls\n", "x != 1"]
)
def test_python_stays_as_it_is(cell: str) -> None:
    assert magics.hidden(cell, MARK) == cell


@given(st.text(alphabet="ax1=%!?/,;()[]{}'\"\\# \n\t", max_size=60))
def test_whatever_a_cell_holds_is_shown_again(cell: str) -> None:
    made = magics.hidden(cell, MARK)
    assert magics.shown(made, MARK) == cell and made.count("\n") == cell.count("\n")
    assert magics.shown(magics.all_hidden(cell, MARK), MARK) == cell


def test_cells_become_one_source() -> None:
    notebook = Notebook(book(text("# Title"), code("import torch", "x = 1"), code("!ls", "y = 2")))
    ast.parse(notebook.text)
    assert notebook.text.split("\n") == [
        "#ampconvert0-cell:2", "import torch", "x = 1",
        "#ampconvert0-cell:3", "pass#ampconvert0-hidden:!ls", "y = 2", "",
    ]  # fmt: skip
    assert [cell.number for cell in notebook.cells] == [2, 3]


def test_the_marks_stand_nowhere_in_the_notebook() -> None:
    notebook = Notebook(book(code("x = '#ampconvert0-cell:1'", "#ampconvert1-hidden:")))
    assert notebook.text.startswith("#ampconvert2-cell:1\n")


def test_findings_are_placed_in_cells() -> None:
    notebook = Notebook(book(code("a", "b"), text("c"), code(), code("d\n", "e", "f")))
    lines = notebook.text.splitlines()
    places = {}
    for name in "abdef":
        (found,) = notebook.located("x.ipynb", [at(lines.index(name) + 1)])
        places[name] = (found.where.path, found.where.line, found.where.end_line)
        assert (found.where.column, found.where.end_column) == (2, 3)
    assert places == {
        "a": ("x.ipynb:cell 1", 1, 1), "b": ("x.ipynb:cell 1", 2, 2),
        "d": ("x.ipynb:cell 4", 1, 1), "e": ("x.ipynb:cell 4", 3, 3),
        "f": ("x.ipynb:cell 4", 4, 4),
    }  # fmt: skip


def test_a_finding_ends_in_its_cell() -> None:
    notebook = Notebook(book(code("a", "b"), code("c")))
    (found,) = notebook.located("x.ipynb", [at(2, end=5)])
    assert (found.where.line, found.where.end_line) == (1, 2)


def test_edits_count_bytes_of_the_cell() -> None:
    notebook = Notebook(book(code("ä"), code("!ls", "x = 'ö'", "y")))
    data = notebook.text.encode()
    start = data.index(b"y")
    inside = Fix("f", (Edit(start, start + 1, "z"),), True)
    across = Fix("f", (Edit(data.index("ä".encode()), start, ""),), True)
    one, two = notebook.located("x.ipynb", [at(7, fix=inside), at(7, fix=across)])
    source = notebook.cells[1].source.encode()
    assert one.fix is not None and two.fix is not None
    assert [source[e.start : e.end] for e in one.fix.edits] == [b"y"]
    assert two.fix.edits == () and two.fix.safe


def test_a_place_can_be_taken_apart() -> None:
    assert place(named("a/x.ipynb", 3)) == ("a/x.ipynb", 3)
    assert place("a/x.py") == ("a/x.py", 0)


STYLES = {
    "indent 1": lambda whole: json.dumps(whole, indent=1, ensure_ascii=False) + "\n",
    "indent 4": lambda whole: json.dumps(whole, indent=4),
    "one line": lambda whole: json.dumps(whole, separators=(",", ":")),
    "tabs": lambda whole: json.dumps(whole, indent="\t", sort_keys=True) + "\r\n",
    "odd": lambda whole: " " + json.dumps(whole, indent=2).replace("\n", "\r\n") + "\n\n",
}
WHOLE = {
    "nbformat_minor": 5,
    "metadata": {"x": 1.50, "kernelspec": {"language": "python", "name": "python3"}},
    "cells": [
        text("old ü\n", "old"),
        code("import torch", "x = 'ü'", "old", outputs=[{"data": [1e5, "source"]}], id="1"),
        code("!ls", "old"),
        code("keep"),
        {"source": "old\nold", "cell_type": "code"},
        code("only old"),
        code("\\ old \t \u2028", "\U0001f600 old"),
    ],
    "nbformat": 4,
}


@pytest.mark.parametrize("style", STYLES)
def test_fixes_change_nothing_but_sources(style: str) -> None:
    data = STYLES[style](WHOLE).encode()
    notebook = Notebook(data)
    sources = notebook.sources(notebook.text)
    assert sources == {cell.number: cell.source for cell in notebook.cells}
    assert notebook.rewritten(sources) == data
    changed = notebook.sources(notebook.text.replace("old", "new"))
    assert changed is not None
    expected = json.loads(data)
    for cell in expected["cells"][1:]:
        source = cell["source"]
        cell["source"] = (
            source.replace("old", "new")
            if isinstance(source, str)
            else [line.replace("old", "new") for line in source]
        )
    made = notebook.rewritten(changed)
    assert json.loads(made) == expected
    assert made == STYLES[style](expected).encode()


def test_lines_may_come_and_go() -> None:
    notebook = Notebook(book(code("a", "b"), code("c")))
    new = notebook.sources(notebook.text.replace("a\n", "import x\na\n").replace("c\n", ""))
    assert new == {1: "import x\na\nb", 2: ""}
    cells = json.loads(notebook.rewritten(new))["cells"]
    assert [cell["source"] for cell in cells] == [["import x\n", "a\n", "b"], []]
    # A cell of one line, of which there are two after the fix.
    made = notebook.rewritten({1: "a\nb", 2: "import x\nc"})
    assert made == book(code("a", "b"), code("import x", "c"))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "import x\n" + text,
        lambda text: text.replace("#ampconvert0-cell:2\n", ""),
        lambda text: text.replace("\n#ampconvert0-cell:2", "  #ampconvert0-cell:2"),
        lambda text: text + "#ampconvert0-cell:2\n",
    ],
)
def test_a_text_whose_cells_are_lost_is_refused(change: Any) -> None:
    notebook = Notebook(book(code("a"), code("b")))
    assert notebook.sources(change(notebook.text)) is None


def test_a_byte_order_mark_stays() -> None:
    data = b"\xef\xbb\xbf" + book(code("a"))
    notebook = Notebook(data)
    assert notebook.rewritten({1: "a"}) == data
    assert notebook.rewritten({1: "b"}) == b"\xef\xbb\xbf" + book(code("b"))


@pytest.mark.parametrize(
    ("metadata", "read"),
    [
        ({}, True),
        ({"kernelspec": {"name": "python3"}}, True),
        ({"kernelspec": {"language": "python"}}, True),
        ({"language_info": {"name": "python"}}, True),
        ({"language_info": {"name": "R"}}, False),
        ({"kernelspec": {"language": "julia"}, "language_info": {"name": "julia"}}, False),
        ({"kernelspec": None}, True),
    ],
)
def test_other_languages_are_left_alone(metadata: Any, read: bool) -> None:
    assert bool(Notebook(book(code("x"), metadata=metadata)).cells) is read


def test_cells_of_other_languages_are_left_alone() -> None:
    r_cell = code("x <- 1", metadata={"vscode": {"languageId": "r"}})
    notebook = Notebook(book(r_cell, code("x", metadata={"vscode": {"languageId": "python"}})))
    assert [cell.number for cell in notebook.cells] == [2]


def test_format_3() -> None:
    cells = [
        {"cell_type": "heading", "source": ["T"], "level": 1},
        {"cell_type": "code", "input": ["import torch\n", "x"], "language": "python"},
        {"cell_type": "code", "input": "y", "language": "ruby"},
    ]
    whole = {"metadata": {"name": ""}, "nbformat": 3, "worksheets": [{"cells": cells}]}
    notebook = Notebook(json.dumps(whole, indent=1).encode())
    assert [(cell.number, cell.source) for cell in notebook.cells] == [(2, "import torch\nx")]
    cells[1]["input"] = ["import torch\n", "y"]
    assert notebook.rewritten({2: "import torch\ny"}) == json.dumps(whole, indent=1).encode()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", json.JSONDecodeError),
        (b"{", json.JSONDecodeError),
        (b"{} {}", json.JSONDecodeError),
        (b"[]", NotebookError),
        (b"{}", NotebookError),
        (b'{"cells": [{"cell_type": "code"}]}', NotebookError),
        (b'{"cells": [{"cell_type": "code", "source": [1]}]}', NotebookError),
        (b'{"cells": [], "metadata": 1}', NotebookError),
        (b"\xff{}", UnicodeDecodeError),
    ],
)
def test_what_is_no_notebook(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        Notebook(data)


@pytest.mark.parametrize(
    "data",
    [b'{"cells": []}', b'{"cells": {}}', b'{"cells": [1, null, {}]}', b'{"worksheets": [{}, 1]}'],
)
def test_a_notebook_without_code(data: bytes) -> None:
    assert Notebook(data).cells == [] and Notebook(data).text == ""


def test_broken_cells_are_hidden_from_the_others() -> None:
    notebook = Notebook(book(code("x = 1"), code("print 1", "!ls"), code("y = 2")))
    with pytest.raises(SyntaxError):
        ast.parse(notebook.text)
    before = notebook.text
    ((error, path, source),) = notebook.broken("x.ipynb")
    assert isinstance(error, SyntaxError) and error.lineno == 1
    assert (path, source) == ("x.ipynb:cell 2", "print 1\n!ls")
    ast.parse(notebook.text)
    assert notebook.text.count("\n") == before.count("\n")
    assert notebook.sources(notebook.text) == {1: "x = 1", 2: "print 1\n!ls", 3: "y = 2"}


def test_a_cell_that_is_indented_as_a_whole_is_no_mistake() -> None:
    notebook = Notebook(book(code("x = 1"), code("  y = 2", "  z = 3")))
    assert notebook.broken("x.ipynb") == []
    ast.parse(notebook.text)
