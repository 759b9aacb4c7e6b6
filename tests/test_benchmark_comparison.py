"""docs/comparison.md and README's figures say what the newest result files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import comparison, readme
from benchmarks.features import claims, results

ROOT = Path(__file__).parent.parent
KEPT = results.FOLDER.exists()
# A source distribution leaves the result files out.
pytestmark = pytest.mark.skipif(not KEPT, reason="there is no benchmarks/results here")


def test_the_page_is_what_the_result_files_hold() -> None:
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    fresh = "\n".join(comparison.page()) + "\n"
    assert page == fresh, "python -m benchmarks.comparison > docs/comparison.md"


def test_every_section_with_figures_names_its_file_and_the_command() -> None:
    text = "\n".join(comparison.page())
    for part in re.split(r"^###? ", text, flags=re.M)[1:]:
        if re.search(r"\d \||\| \d", part):
            assert "](../benchmarks/results/" in part and "repeated by `" in part, part[:80]


def test_commands_that_repeat_it_name_programs_that_are_there() -> None:
    for command in comparison.REPEAT.values():
        module = re.search(r"-m (benchmarks\.\w+)", command)
        assert module and (ROOT / module[1].replace(".", "/")).exists()


def test_zoo_tables_in_readme_are_fresh() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split(readme.BEGIN)[1].split(readme.END)[0].strip()
    assert table == "\n\n".join(map(readme._section, readme.newest())), (
        "python -m benchmarks.readme"
    )


@pytest.mark.parametrize("claim", list(claims.claims()) if KEPT else [])
def test_readme_says_what_was_measured(claim: str) -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert " ".join(claim.split()) in text


def test_the_newest_file_of_a_kind_is_taken(tmp_path: Path) -> None:
    for name in ("2026-01-02-scale", "2026-02-01-scale", "2026-03-01-zoo-scale"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"is": name}), encoding="utf-8")
    found = results.latest("scale", tmp_path)
    assert found.data == {"is": "2026-02-01-scale"} and found.date == "2026-02-01"
    assert found.page.endswith("2026-02-01-scale.md")
    with pytest.raises(FileNotFoundError, match="'lint'"):
        results.latest("lint", tmp_path)


def test_tables_and_lines_of_a_page_are_found_or_missed() -> None:
    lines = ["# A", "| a | b |", "| --- | --- |", "| 1 | 2 |", "", "so it is 3 of 4"]
    assert results.table_after(lines, "| a") == [["a", "b"], ["1", "2"]]
    assert results.line_with(lines, "so it is") == lines[-1]
    for wrong in (lambda: results.table_after(lines, "| x"), lambda: results.line_with(lines, "x")):
        with pytest.raises(ValueError, match=r"'.*x'"):
            wrong()


def test_numbers_are_read_out_of_a_sentence() -> None:
    assert claims._numbers("float16: 1,608 models, 0.35 to 1.07 (22%)") == [1608, 0.35, 1.07, 22]
