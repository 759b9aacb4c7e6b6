"""The room that pages are followed in: a copy of the checkout, an empty home, a new environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = "/home/you"  # what a page shows in place of the room's home folder
CHECKOUT = "ampconvert"

# What a command sees of the caller's environment: where packages come from, and the machine.
KEPT = ("LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CHROMIUM")
KEPT_PREFIXES = ("PIP_", "UV_")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@dataclass(frozen=True)
class State:
    """Where a page ended: its environment variables, its folder, and what it made in the home."""

    env: Mapping[str, str]
    folder: str
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class Room:
    """A folder with `home/` (the checkout's copy in it), `venv/`, and the states of pages."""

    path: Path

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def checkout(self) -> Path:
        return self.home / CHECKOUT

    def start(self) -> State:
        """Where a page begins that goes on from no other one: in the checkout."""
        return State(_environment(self), str(self.checkout))

    def state(self, page: str) -> State | None:
        """Where the page ended that was followed last under this name; None if there is none."""
        file = self._state_file(page)
        if not file.exists():
            return None
        data = json.loads(file.read_text(encoding="utf-8"))
        return State(data["env"], data["folder"], tuple(data["made"]))

    def keep(self, page: str, state: State) -> None:
        """Keep where a page ended, for those that go on from it."""
        file = self._state_file(page)
        file.parent.mkdir(exist_ok=True)
        data = {"env": dict(state.env), "folder": state.folder, "made": list(state.made)}
        file.write_text(json.dumps(data), encoding="utf-8")

    def forget(self, page: str) -> None:
        """Take away what the page left behind in the home when it was followed before."""
        before = self.state(page)
        for name in before.made if before else ():
            shutil.rmtree(self.home / name, ignore_errors=True)
        self._state_file(page).unlink(missing_ok=True)

    def entries(self) -> set[str]:
        """What lies in the home, and in its `.cache`, but for what pip keeps for all pages."""
        folders = (self.home, self.home / ".cache")
        found = {entry for folder in folders if folder.exists() for entry in folder.iterdir()}
        names = {entry.relative_to(self.home).as_posix() for entry in found}
        return names - {".cache", ".cache/pip"}

    def told(self, text: str) -> str:
        """`text` with the room's home as a page shows it."""
        for path in {str(self.home), str(self.home.resolve())}:
            text = text.replace(path, HOME)
        return text

    def _state_file(self, page: str) -> Path:
        return self.path / "states" / f"{page.replace('/', '-')}.json"


def make(path: Path) -> Room:
    """The room at `path`, made where it is not there yet; its checkout is brought up to date."""
    room = Room(path.resolve())
    room.home.mkdir(parents=True, exist_ok=True)
    _copy_checkout(room.checkout)
    if not (room.path / "venv").exists():
        venv.create(room.path / "venv", with_pip=True, symlinks=True)
    return room


def _copy_checkout(to: Path) -> None:
    """What git tracks, and what is new and not ignored, as a repository with one tagged commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    to.mkdir(exist_ok=True)
    if (to / ".git").exists():
        _git(to, "add", "--all")
        for name in _git(to, "ls-files", "-z").split("\0"):
            if name and name not in names:
                (to / name).unlink(missing_ok=True)
    else:
        _git(to, "init", "--quiet", "--initial-branch", "main")
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)
    _git(to, "add", "--all")
    _git(to, "commit", "--quiet", "--allow-empty", "--message", "the checkout")
    _git(to, "tag", "--force", "v0.1.0")


def _git(folder: Path, *words: str) -> str:
    env = {**os.environ, **_AUTHOR, "GIT_CONFIG_GLOBAL": os.devnull}
    run = subprocess.run(
        ["git", *words], cwd=folder, env=env, capture_output=True, check=True, text=True
    )
    return run.stdout


_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in {"NAME": "You", "EMAIL": "you@example.com"}.items()
}


def _environment(room: Room) -> dict[str, str]:
    """The variables that commands start with."""
    here = str(Path(sys.executable).parent)
    inherited = os.environ.get("PATH", os.defpath).split(os.pathsep)
    # Not the environment that this script runs in: the reader does not have it.
    folders = [f"{room.path}/venv/bin", *(f for f in inherited if f != here)]
    env = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(KEPT_PREFIXES) or name.lower() in PROXIES
    }
    user_config = Path.home() / ".config/pip/pip.conf"
    if user_config.exists():
        env.setdefault("PIP_CONFIG_FILE", str(user_config))
    return {
        "LANG": "C.UTF-8",
        **env,
        **_AUTHOR,
        "HOME": str(room.home),
        "PATH": os.pathsep.join(folders),
        "COLUMNS": "80",
        "TERM": "dumb",
        "CUDA_VISIBLE_DEVICES": "",  # the pages were written on a machine without a GPU
        "PIP_CONSTRAINT": str(room.checkout / "constraints.txt"),
        "PIP_QUIET": "2",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
