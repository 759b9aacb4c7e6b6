"""python -m tests.cleanroom: follow pages, and fail where one is wrong."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.cleanroom import pages
from tests.cleanroom.follow import Followed, follow, told
from tests.cleanroom.pages import Page
from tests.cleanroom.room import ROOT, Room, State, make
from tests.cleanroom.update import updated


def main(words: list[str] | None = None) -> int:
    """Exit code 0: the pages are right; 1: one differs; 2: one can't be followed."""
    options = _options(words)
    try:
        asked = [pages.read(_page(name)) for name in options.pages or _all_pages()]
        order = _in_order(asked)
    except (pages.PageError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    folder = options.room or Path(tempfile.mkdtemp(prefix="cleanroom-"))
    began = time.monotonic()
    print(f"the room is {folder}", flush=True)
    room = make(folder)
    done = _follow_all(order, {page.path for page in asked}, room)
    _report(done, time.monotonic() - began)
    if options.update:
        _update(done)
    wrong = [each for followed in done for each in followed.differences]
    if options.room is None and not wrong:
        shutil.rmtree(folder)
    elif options.room is None:
        print(f"kept for a look: {folder}")
    left = [each for each in wrong if each.found is None] if options.update else wrong
    return 1 if left else 0


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cleanroom", description=__doc__)
    parser.add_argument(
        "pages", nargs="*", type=Path, help="default: README.md and docs/tutorials/*.md"
    )
    parser.add_argument(
        "--update", action="store_true", help="write what was printed into the pages that differ"
    )
    parser.add_argument(
        "--room", type=Path, metavar="FOLDER",
        help="a folder that is kept: pages that others go on from are not followed twice",
    )  # fmt: skip
    return parser.parse_args(words)


def _all_pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]


def _page(name: Path) -> Path:
    path = name.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _in_order(asked: list[Page]) -> list[Page]:
    """The pages, those that others go on from before them."""
    order: dict[Path, Page] = {}

    def add(page: Page, above: tuple[Path, ...] = ()) -> None:
        if page.path in above:
            raise pages.PageError(f"{page.path}: goes on from itself")
        if page.after:
            add(pages.read(page.path.parent / page.after), (*above, page.path))
        order.setdefault(page.path, page)

    for page in asked:
        add(page)
    return list(order.values())


def _follow_all(order: list[Page], asked: set[Path], room: Room) -> list[Followed]:
    done: list[Followed] = []
    for page in order:
        name = page.path.name
        if page.path not in asked and room.state(name) is not None:
            continue
        room.forget(name)
        followed = follow(page, room, _begin(page, room), lambda line: print(line, flush=True))
        assert followed.state is not None
        room.keep(name, followed.state)
        for line in told(followed):
            print(line, flush=True)
        done.append(followed)
    return done


def _begin(page: Page, room: Room) -> State:
    if not page.after:
        return room.start()
    state = room.state(Path(page.after).name)
    assert state is not None, "pages are followed after those that they go on from"
    return state


def _report(done: list[Followed], seconds: float) -> None:
    print()
    print(f"{'page':40} {'commands':>8} {'files':>6} {'scripts':>7} {'not run':>7} "
          f"{'to read':>7} {'seconds':>8}  differs")  # fmt: skip
    for found in done:
        counts = [
            found.counts.get(kind, 0) for kind in ("command", "save", "script", "not run", "read")
        ]
        commands, files, scripts, left, read = counts
        print(f"{found.page.path!s:40} {commands:8} {files:6} {scripts:7} {left:7} "
              f"{read:7} {found.seconds:8.1f}  {len(found.differences) or 'no'}")  # fmt: skip
    for found in done:
        for step in found.not_run:
            print(f"not run: {found.page.path}:{step.line}: {step.reason}")
    print(f"{len(done)} pages in {seconds:.0f} s")


def _update(done: list[Followed]) -> None:
    for found in done:
        path = found.page.path
        old = path.read_text(encoding="utf-8")
        new = updated(old, found)
        if new != old:
            part = path.with_name(path.name + ".part")
            part.write_text(new, encoding="utf-8")
            os.replace(part, path)
            print(f"updated {path}")
        for difference in found.differences:
            if difference.found is None:
                print(f"{path}:{difference.line}: not for --update to mend: {difference.what}")


if __name__ == "__main__":
    sys.exit(main())
