"""What linting gives: for each file what was found and mended, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ampconvert.findings import Finding


@dataclass(frozen=True)
class Change:
    """A text before and after fixes: a file's, or that of one cell of a notebook."""

    path: str
    before: str
    after: str


@dataclass(frozen=True)
class FileReport:
    """One file: `findings` are left, `made` are those whose fixes were made.

    `changes` are what the fixes changed, and `after` is the file's whole new text, None where
    nothing changed. Places of `findings` are those after the fixes; places of `made` are those at
    the moment of the fix. `bugs` names the rules that failed, `unwritten` says why a changed file
    could not be written; both mostly "" and ().
    """

    path: str
    findings: tuple[Finding, ...] = ()
    made: tuple[Finding, ...] = ()
    changes: tuple[Change, ...] = ()
    after: str | None = None
    bugs: tuple[str, ...] = ()
    unwritten: str = ""
    # The text from stdin; a file's own is read when it is asked for.
    given: bytes | None = None

    @property
    def matters(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.findings or self.made or self.bugs or self.unwritten)

    def parts(self) -> Iterator[tuple[str, str, tuple[Finding, ...]]]:
        """Path, text and findings: of the file, or of each cell of a notebook with findings.

        The text is that which the findings' places count in; "" if it can't be read any more.
        """
        from ampconvert.lint.texts import texts

        known = texts(self.path, self.after, self.given)
        by_path: dict[str, list[Finding]] = {}
        for found in self.findings:
            by_path.setdefault(found.where.path or self.path, []).append(found)
        for path, findings in by_path.items():
            yield path, known.get(path, ""), tuple(findings)


@dataclass(frozen=True)
class Report:
    """The files that there is something to tell of, by path, and how many were looked at."""

    files: tuple[FileReport, ...]
    checked: int

    @property
    def findings(self) -> list[Finding]:
        """All findings that are left, by file and place."""
        return [found for file in self.files for found in file.findings]

    @property
    def made(self) -> list[Finding]:
        """All findings that were fixed, or would be."""
        return [found for file in self.files for found in file.made]

    @property
    def bugs(self) -> list[str]:
        """What rules failed on which files: bugs of ampconvert."""
        return [bug for file in self.files for bug in file.bugs]

    @property
    def unwritten(self) -> list[str]:
        """Why changed files could not be written."""
        return [file.unwritten for file in self.files if file.unwritten]
