"""What `[tool.ampconvert.lint]` of a pyproject.toml says, and the command line over it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ampconvert.errors import UserError
from ampconvert.findings import Finding
from ampconvert.lint.globs import Globs
from ampconvert.lint.settings import Mode, Settings

# Folders that hold no sources of one's own: what ruff skips, and our cache.
EXCLUDED = (
    ".ampconvert_cache", ".bzr", ".direnv", ".eggs", ".git", ".git-rewrite", ".hg",
    ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pants.d", ".pyenv", ".pytest_cache", ".pytype",
    ".ruff_cache", ".svn", ".tox", ".venv", ".vscode", "__pycache__", "__pypackages__", "_build",
    "buck-out", "build", "dist", "node_modules", "site-packages", "venv",
)  # fmt: skip
_MODES: dict[str, Mode] = {
    "autocast": "cuda-autocast", "cpu-autocast": "cpu-autocast", "half": "half",
}  # fmt: skip
_SECTION = "tool.ampconvert.lint"
_CODE = re.compile(r"ALL|[A-Z]+[0-9]*")


@dataclass(frozen=True)
class Config:
    """One project's lint configuration; `root` is the folder to which its patterns are relative.

    `file` is the pyproject.toml that it comes from, "" for none. `select` None: the rules that are
    on by default.
    """

    root: str
    file: str = ""
    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    exclude: tuple[str, ...] = EXCLUDED
    extend_exclude: tuple[str, ...] = ()
    force_exclude: bool = False
    fixable: tuple[str, ...] = ("ALL",)
    unfixable: tuple[str, ...] = ()
    extend_safe_fixes: tuple[str, ...] = ()
    max_file_size: int = 2_000_000  # bytes
    settings: Settings = field(default_factory=Settings)

    @cached_property
    def excluded(self) -> Globs:
        """What is not looked at."""
        return Globs(self.root, (*self.exclude, *self.extend_exclude))

    def ignored_in(self, path: str) -> tuple[str, ...]:
        """The codes that per-file-ignores names for the file at the absolute `path`."""
        return tuple(code for globs, codes in self._per_file if globs.holds(path) for code in codes)

    def allowed(self, found: Finding) -> Finding:
        """`found` with its fix as the project wants it: none, or a safe one."""
        if found.fix is None:
            return found
        if not begins(found.code, self.fixable) or begins(found.code, self.unfixable):
            return replace(found, fix=None)
        if begins(found.code, self.extend_safe_fixes) and not found.fix.safe:
            return replace(found, fix=replace(found.fix, safe=True))
        return found

    @cached_property
    def key(self) -> str:
        """What the findings in a file depend on besides its path, its content and the rules."""
        told = (
            self.select, self.extend_select, self.ignore, self.per_file_ignores, self.fixable,
            self.unfixable, self.extend_safe_fixes, self.max_file_size, self.settings.torch,
            sorted(self.settings.assume),
        )  # fmt: skip
        return repr(told)

    def codes(self) -> list[tuple[str, str]]:
        """Every code that the configuration names, after the file and option that name it."""
        named = {
            "select": self.select or (),
            "extend-select": self.extend_select,
            "ignore": self.ignore,
            "fixable": self.fixable,
            "unfixable": self.unfixable,
            "extend-safe-fixes": self.extend_safe_fixes,
            "per-file-ignores": [code for _, codes in self.per_file_ignores for code in codes],
        }
        return [
            (f"{self.file}: {_SECTION}.{option}", code)
            for option, codes in named.items()
            for code in codes
        ]

    @cached_property
    def _per_file(self) -> list[tuple[Globs, tuple[str, ...]]]:
        return [(Globs(self.root, [glob]), codes) for glob, codes in self.per_file_ignores]


@dataclass(frozen=True)
class Overrides:
    """What the command line says. `select` replaces what a file selects and ignores."""

    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    torch: str | None = None
    assume: str | None = None
    force_exclude: bool = False

    def codes(self) -> list[tuple[str, str]]:
        """Every code that the command line names, after the option that names it."""
        named = {
            "--select": self.select or (),
            "--extend-select": self.extend_select,
            "--ignore": self.ignore,
        }
        return [(option, code) for option, codes in named.items() for code in codes]

    def over(self, config: Config) -> Config:
        """`config` with these on top. UserError for a version or mode that is none."""
        settings = config.settings
        if self.torch is not None:
            settings = replace(settings, torch=_version(self.torch, "--torch"))
        if self.assume is not None:
            settings = replace(settings, assume=_modes(self.assume, "--assume-amp"))
        if self.select is not None:
            config = replace(config, select=self.select, extend_select=(), ignore=())
        return replace(
            config,
            settings=settings,
            extend_select=(*config.extend_select, *self.extend_select),
            ignore=(*config.ignore, *self.ignore),
            force_exclude=config.force_exclude or self.force_exclude,
        )


class Configs:
    """The configuration of each folder: of the nearest pyproject.toml with a section of ours."""

    def __init__(self, overrides: Overrides) -> None:
        self._overrides = overrides
        self._known: dict[str, Config | None] = {}
        self._default: Config | None = None

    @property
    def used(self) -> list[Config]:
        """Those that were given out."""
        read = [config for config in self._known.values() if config is not None]
        default = [self._default] if self._default is not None else []
        return list({id(config): config for config in (*read, *default)}.values())

    def of(self, folder: str) -> Config:
        """The configuration for files in the absolute `folder`. UserError if it is wrong."""
        found = self._nearest(folder)
        if found is None:
            if self._default is None:
                self._default = self._overrides.over(Config(os.getcwd()))
            found = self._default
        return found

    def enter(self, folder: str, around: Config, names: Iterable[str]) -> Config:
        """The configuration in `folder`, whose entries are `names` and whose parent has `around`:
        what `of` gives, without asking for files that a walk has seen not to be there.
        """
        if folder not in self._known:
            own = self._own(folder) if "pyproject.toml" in names else None
            self._known[folder] = own or (around if around.file else None)
        return self._known[folder] or around

    def _nearest(self, folder: str) -> Config | None:
        passed = []
        found = None
        while folder not in self._known:
            passed.append(folder)
            found = self._own(folder)
            above = os.path.dirname(folder)
            if found is not None or above == folder:
                break
            folder = above
        else:
            found = self._known[folder]
        self._known.update(dict.fromkeys(passed, found))
        return found

    def _own(self, folder: str) -> Config | None:
        file = os.path.join(folder, "pyproject.toml")
        section = _section(file)
        return self._overrides.over(read(section, folder, file)) if section is not None else None


def _section(file: str) -> Mapping[str, Any] | None:
    """The table of ours in a pyproject.toml; None if there is no such file or table."""
    try:
        with open(file, "rb") as opened:
            data = opened.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    if b"ampconvert" not in data:
        return None  # most have none: tomllib takes longer to import than that to find out
    import tomllib

    try:
        table: Any = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: {error}") from error
    for name in _SECTION.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UserError(f"{file}: {_SECTION} must be a table, [{_SECTION}]")
    return table


def read(table: Mapping[str, Any], root: str, file: str) -> Config:
    """A configuration from its table. UserError names the key that is unknown or wrong."""
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            near = _near(key, _KEYS) or f"there are {', '.join(sorted(_KEYS))}"
            raise UserError(f"{file}: {_SECTION} has no option {key!r}; {near}")
        where = f"{file}: {_SECTION}.{key}"
        name, parse = _KEYS[key]
        (settings if name in ("torch", "assume") else found)[name] = parse(value, where)
    return Config(root, file, settings=Settings(**settings), **found)


def begins(code: str, given: Iterable[str]) -> bool:
    """Whether `code` is one of those given, begins like one, or all are given."""
    return any(one == "ALL" or code.startswith(one) for one in given)


def check_codes(named: Iterable[tuple[str, str]], known: Iterable[str]) -> None:
    """UserError for a code that no rule has, with where it is named and the nearest that one has.

    `named` are places and codes, as `codes` of Config and Overrides give them.
    """
    codes = list(known)
    for where, code in named:
        if code != "ALL" and not any(one.startswith(code) for one in codes):
            near = _near(code, codes) or "`ampconvert rule` lists them all"
            raise UserError(f"{where}: no lint rule has the code {code!r}; {near}")


def _near(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{where} must be a list of strings")
    return tuple(value)


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    texts = _texts(value, where)
    _check_globs(texts, where)
    return texts


def _codes(value: Any, where: str) -> tuple[str, ...]:
    codes = tuple(code.strip().upper() for code in _texts(value, where))
    for code in codes:
        if not _CODE.fullmatch(code):
            raise UserError(f"{where}: {code!r} is no code; write AMP2, AMP204 or ALL")
    return codes


def _per_file(value: Any, where: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(value, dict):
        raise UserError(f'{where} must be a table of patterns: "tests/*" = ["AMP4"]')
    _check_globs(value, where)
    return tuple((glob, _codes(codes, f'{where}."{glob}"')) for glob, codes in value.items())


def _check_globs(patterns: Iterable[str], where: str) -> None:
    try:
        Globs("/", patterns)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{where} must be true or false")
    return value


def _size(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UserError(f"{where} must be a number of bytes, such as 2_000_000")
    return value


def _version(value: Any, where: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})(\.\w+)*", value) if isinstance(value, str) else None
    if match is None:
        raise UserError(f'{where} must be a version of PyTorch as a string, such as "2.4"')
    return int(match[1]), int(match[2])


def _modes(value: Any, where: str) -> frozenset[Mode]:
    if isinstance(value, bool):
        return frozenset({"cuda-autocast"}) if value else frozenset()
    given = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one in _MODES for one in given):
        raise UserError(f"{where} must be true, false, or one or a list of {', '.join(_MODES)}")
    return frozenset(_MODES[one] for one in given)


_KEYS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "select": ("select", _codes),
    "extend-select": ("extend_select", _codes),
    "ignore": ("ignore", _codes),
    "per-file-ignores": ("per_file_ignores", _per_file),
    "exclude": ("exclude", _patterns),
    "extend-exclude": ("extend_exclude", _patterns),
    "force-exclude": ("force_exclude", _flag),
    "fixable": ("fixable", _codes),
    "unfixable": ("unfixable", _codes),
    "extend-safe-fixes": ("extend_safe_fixes", _codes),
    "max-file-size": ("max_file_size", _size),
    "torch": ("torch", _version),
    "assume-amp": ("assume", _modes),
}
