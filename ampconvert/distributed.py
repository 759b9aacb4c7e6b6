"""Several workers, started by torchrun, share the calibration of one model.

Each runs the model on its share of the batches: RANK, RANK + WORLD_SIZE, and so on. What they saw
is merged exactly, so the result is that of one process. From then on the first worker goes on
alone; the others are released, silently and with exit code 0. What goes wrong on any worker before
is told to all of them, and the first one ends with it, so that nobody waits for a worker that gave
up.

Without torchrun nothing here does anything, and torch.distributed is not imported.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ampconvert.errors import UserError

if TYPE_CHECKING:
    from ampconvert.ranges.calibrate import Range

T = TypeVar("T")
Tell = Callable[[int], None]  # hears how many batches are done
# What calibration gives: ranges by value, and shapes where the front end asks for them.
Seen = tuple[dict[str, "Range"], dict[str, tuple[int, ...]]]
Exchange = Callable[[Any], Sequence[Any]]  # gives what all workers gave, by rank

WAIT = timedelta(hours=2)  # for the slowest worker, when all meet


class Released(BaseException):
    """Raised on all workers but the first when nothing is left for them to do: no error, so that
    nothing takes it for one.
    """


@dataclass(frozen=True)
class Place:
    """Which worker this process is, of how many."""

    rank: int
    size: int


class Workers:
    """One worker among others, until they part.

    `exchange` has to be called by all of them, in the same order.
    """

    def __init__(self, place: Place, exchange: Exchange) -> None:
        self.place = place
        self._exchange = exchange
        self._parted = False

    def gather(self, value: T) -> list[T]:
        """What all workers give here, by rank.

        Raises what went wrong on one of them on the first, and Released on the others.
        """
        return [report.value for report in self._reports(_Report(value))]

    def fail(self, error: Exception, batch: int = 0) -> NoReturn:
        """Tell all workers of `error`, which came at `batch` of all batches.

        Raises the error of the earliest batch that any worker tells of on the first, as one process
        would have met it, and Released on the others. Raises `error` when they have parted.
        """
        if not self._parted:
            self._reports(_Report(None, error, batch))
        raise error

    def refuse(self, message: str) -> NoReturn:
        """End all workers, which must all call this, with a UserError on the first."""
        self._part()
        raise UserError(message)

    def alone(self) -> None:
        """Let the first worker go on alone: raises Released on the others."""
        self._part()

    def _reports(self, own: _Report) -> Sequence[_Report]:
        try:
            found = self._exchange(own.portable())
        except Exception:
            self._parted = True  # whoever is left can't be told
            raise
        failed = [(report.batch, rank) for rank, report in enumerate(found) if report.error]
        if not failed:
            return found
        self._part()
        _, rank = min(failed)
        error = own.error if rank == self.place.rank else found[rank].error
        assert error is not None
        raise error

    def _part(self) -> None:
        self._parted = True
        if self.place.rank:
            raise Released


_met = False  # whether this process ever met others
_workers: ContextVar[Workers | None] = ContextVar("workers", default=None)


def calibrated(
    batches: Sequence[T],
    calibrate: Callable[[Sequence[T], Tell], Seen],
    tell: Callable[[int, int], None],
) -> Seen:
    """What `calibrate` sees in `batches`; where workers have joined, each sees its share and all
    get what all saw.

    `tell` hears how many batches are done, of how many. Raises what `calibrate` raises.
    """
    workers = _workers.get()
    if workers is None:
        return calibrate(batches, lambda done: tell(done, len(batches)))
    place = workers.place
    own = batches[place.rank :: place.size]
    done = 0

    def count(now: int) -> None:
        nonlocal done
        done = now
        tell(now, len(own))

    try:
        seen = calibrate(own, count)
    except Exception as error:
        workers.fail(error, place.rank + done * place.size)
    parts = workers.gather((len(batches), seen))
    counts = [count for count, _ in parts]
    if len(set(counts)) > 1:
        workers.refuse(
            f"the workers see different data, {', '.join(map(str, counts))} batches by rank: give "
            "them all the same files"
        )
    return merged([seen for _, seen in parts])


def merged(parts: Sequence[Seen]) -> Seen:
    """What was seen in all parts together; of shapes the first part's count."""
    from ampconvert.ranges.calibrate import Range

    ranges: dict[str, Range] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for found, sizes in parts:
        for name, one in found.items():
            ranges[name] = ranges.get(name, Range()).merge(one)
        for name, shape in sizes.items():
            shapes.setdefault(name, shape)
    return ranges, shapes


def go_on_alone() -> None:
    """From here on the first worker goes on alone; raises Released on the others."""
    workers = _workers.get()
    if workers is not None:
        workers.alone()


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Inside, `calibrated` shares its work with the workers that torchrun started, if there are
    others.

    Raises UserError where they can't meet; and what went wrong on any worker, on the first.
    """
    place = place_of(environment)
    if place is None:
        yield
        return
    with _meeting(place, environment) as exchange:
        workers = Workers(place, exchange)
        token = _workers.set(workers)
        try:
            yield
        except Exception as error:
            workers.fail(error)
        finally:
            _workers.reset(token)


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place among the workers, None where it is the only one.

    Raises UserError where the environment makes no sense.
    """
    size = environment.get("WORLD_SIZE", "1")
    if size == "1":
        return None
    rank = environment.get("RANK", "")
    if not (size.isdecimal() and rank.isdecimal() and int(rank) < int(size)):
        raise UserError(
            f"WORLD_SIZE is {size!r} and RANK {rank!r}: start workers with torchrun, which sets "
            "both, or unset WORLD_SIZE to run in one process"
        )
    return Place(int(rank), int(size))


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one that prints and writes."""
    try:
        place = place_of(environment)
    except UserError:
        return True  # and it will say what is wrong
    return place is None or place.rank == 0


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing is printed inside, unless AMPCONVERT_TRACEBACK asks to see errors."""
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        if not os.environ.get("AMPCONVERT_TRACEBACK"):
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def leave(code: int) -> int:
    """End a process that met others, with an exit code; gives `code` to one that did not.

    torch keeps the threads of its group beyond destroy_process_group, and they abort the process
    now and then if they are still there when the interpreter is torn down. So it is not torn down.
    """
    if _met:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


@dataclass(frozen=True)
class _Report:
    """What one worker tells the others: a value, or an error and the batch that it came at."""

    value: Any
    error: Exception | None = None
    batch: int = 0

    def portable(self) -> _Report:
        """The same with an error that every worker can read."""
        if self.error is None:
            return self
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:  # whatever its class makes of it
            text = f"{type(self.error).__name__}: {self.error}"
            return _Report(None, RuntimeError(text), self.batch)
        return self


@contextlib.contextmanager
def _meeting(place: Place, environment: Mapping[str, str]) -> Iterator[Exchange]:
    """The exchange of objects between all workers, over torch.distributed.

    What is exchanged are some kilobytes of Python objects in the processor's memory, so it is gloo,
    which also lets workers share one GPU; nccl wants one for each.
    """
    try:
        import torch
        import torch.distributed as group
    except ModuleNotFoundError:
        raise UserError(
            f"WORLD_SIZE is {place.size}, and workers meet through PyTorch, which is not "
            "installed: pip install torch, or unset WORLD_SIZE to run in one process"
        ) from None
    if not group.is_available():
        raise UserError("this PyTorch was built without torch.distributed: unset WORLD_SIZE")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise UserError(f"{' and '.join(missing)} not set: start workers with torchrun")
    if torch.cuda.is_available():  # a model that moves to "cuda" gets this worker's own
        local = int(environment.get("LOCAL_RANK", place.rank))
        torch.cuda.set_device(local % torch.cuda.device_count())

    def exchange(own: object) -> Sequence[Any]:
        found: list[Any] = [None] * place.size
        with _lost(place):
            group.all_gather_object(found, own)
        return found

    global _met
    _met = True
    with _lost(place):
        group.init_process_group("gloo", rank=place.rank, world_size=place.size, timeout=WAIT)
    try:
        yield exchange
    finally:
        group.destroy_process_group()


@contextlib.contextmanager
def _lost(place: Place) -> Iterator[None]:
    """Say what happened where the workers can't reach one another inside."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # torch's own errors derive from these
        first = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"worker {place.rank} of {place.size} lost the others, which may have been ended or "
            f"did not answer within {WAIT}: {first}"
        ) from error
