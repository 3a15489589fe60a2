"""When one of many processes fails: it leaves a word for the others, and none of them hangs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from ignition import distributed
from ignition.errors import IgnitionError, ProcessError
from ignition.running import running

__all__ = ["check_alike", "raised_alike", "start", "together"]

_KEY = "ignition/failed"
_SECONDS_FOR_A_WORD = 3.0
_SECONDS_FOR_THE_SAME = 2.0
_GONE = "another process has died, or has left the script without an error"
_LATE = "another process did not come, and this one has waited for it as long as it may"
_FROM_BACKEND = re.compile("gloo/transport|gloo/rendezvous|NCCL error in").search  # parts of the backends' sources
_EXPECTED = "the same calls in every process, in the same order"
_FIX = "look for a call that only some processes make, such as one under if is_main()"


@contextmanager
def together(by_agreement: Callable[[BaseException], bool] | None = None) -> Iterator[None]:
    """What runs in the ``with`` block runs in all processes, or ends in all of them.

    The first process in which something is raised leaves its error in the store and closes its connections. By this
    the others wake up from what they wait for, and raise a ProcessError that names it. torchrun prints the first error,
    with its traceback, last. In one process nothing is done.

    Args:
        by_agreement: Whether something raised is what all processes have agreed to raise.

    Raises:
        ProcessError: If another process has failed, has died, or has left for good.
    """
    start()
    _calls.begun += 1
    try:
        yield
    except BaseException as error:
        if distributed.world_size() == 1 or (by_agreement is not None and by_agreement(error)):
            raise
        parted = _part(error)
        if parted is not None:
            raise parted from error
        raise


def raised_alike(error: BaseException) -> bool:
    """Whether all processes have raised the same error in the same call, so that they may go on together.

    Only for what is raised where no process waits for another one. One that is alone with it waits two seconds in vain.
    """
    store = distributed.store()
    if store is None or not isinstance(error, IgnitionError) or isinstance(error, ProcessError):
        return False
    text = f"{type(error).__name__}: {error}"
    with contextlib.suppress(RuntimeError):  # of a store that is gone
        keys = [f"ignition/raised/{_calls.begun}/{number}" for number in range(distributed.world_size())]
        store.set(keys[distributed.rank()], text)
        until = time.monotonic() + _SECONDS_FOR_THE_SAME
        while not store.check(keys):
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return all(store.get(key).decode() == text for key in keys)
    return False


def start() -> None:
    """Has the processes find one another; from then on an error of the script outside of all calls here ends all, too.

    It is the one that torchrun shows last. What else Python would do with it is done.
    """
    distributed.start()
    if distributed.opened_here():
        _guard()


def _guard() -> None:
    if _calls.guarded:
        return
    _calls.guarded, before = True, sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if distributed.opened_here():  # else it has been told already, or all is over
            parted = _part(error)
            if parted is not None:
                parted.__cause__ = error
                kind, error, trace = type(parted), parted, None
        elif not _calls.told:  # before they have met: torchrun ends the others
            _record(error)
        before(kind, error, trace)

    sys.excepthook = hook


class _Calls:
    """What this process has begun together with the others."""

    begun = 0
    guarded = False
    told = False


_calls = _Calls()


def _part(error: BaseException) -> ProcessError | None:
    """Tells the others of an error and parts from them; of one that another process has caused, what to raise."""
    # An exit is never a consequence: it keeps its status when all processes make it at the same place.
    first = None if isinstance(error, (ProcessError, SystemExit)) else _first_failure(error)
    if first is None:
        _tell(error)
        return None
    parted = ProcessError(
        first,
        expected="all processes to come to the end together",
        fix="see that process's own error; it is the cause",
    )
    _tell(parted)
    return parted


def check_alike(what: str, **settings: Any) -> None:
    """Compares what the processes are about to do. Waits for all of them.

    Inside a fit, where each step has brought them together, that is ten minutes at most: others that went on to the
    next step wait for this process as well, and nobody would ever come.

    Raises:
        ProcessError: If they differ; it names what, and what each process has. If they do not all come.
    """
    if distributed.world_size() == 1:
        return
    said = [json.loads(text) for text in _said_by_all(what, json.dumps([what, settings], default=repr))]
    calls = [call for call, _ in said]
    if any(call != what for call in calls):
        other = next(number for number, call in enumerate(calls) if call != calls[0])
        raise ProcessError(
            f"process 0 is about to {calls[0]}, and process {other} to {calls[other]}",
            expected=_EXPECTED,
            fix=_FIX,
        )
    for name in dict.fromkeys(name for _, one in said for name in one):
        values = [one.get(name) for _, one in said]
        if any(value != values[0] for value in values):
            other = next(number for number, value in enumerate(values) if value != values[0])
            raise ProcessError(
                f"the processes do not {what} alike: {name} is {_short(values[0])} in process 0 and "
                f"{_short(values[other])} in process {other}",
                expected="the same script with the same arguments in every process",
                fix="look for what depends on the process: its rank, its machine, an unseeded choice",
            )


def _said_by_all(what: str, text: str) -> list[str]:
    try:
        with nullcontext() if running.get() is None else distributed.meeting():
            return distributed.gather_texts(text)
    except RuntimeError as error:
        number = distributed.rank()
        if "timed out" in str(error).lower():
            given = f"process {number} has waited for the others to {what} with it, and they did not come"
        elif _first_failure(error) == _GONE:
            given = f"process {number} is about to {what}, and {_GONE}"
        else:
            raise
        raise ProcessError(given, expected=_EXPECTED, fix=_FIX) from error


def _first_failure(error: BaseException) -> str | None:
    """What another process has said before; None where this one is the first."""
    broken = _is_of_connection(error)
    until = time.monotonic() + (_SECONDS_FOR_A_WORD if broken else 0.0)
    with contextlib.suppress(RuntimeError, ValueError):  # the process is gone, too, that keeps the store
        while True:
            word = _word()
            if word is not None and word["rank"] != distributed.rank():
                return f"process {word['rank']} ended: {word['error']}"
            if time.monotonic() >= until:
                break
            time.sleep(0.05)
    if not broken:
        return None
    return _LATE if "timed out" in str(error).lower() else _GONE


def _word() -> dict[str, Any] | None:
    store = distributed.store()
    if store is None or not store.check([_KEY]):
        return None
    word = json.loads(store.get(_KEY))
    return word if isinstance(word, dict) else None


def _tell(error: BaseException) -> None:
    """Leaves a word for the other processes, and one for torchrun, which prints the first one last."""
    _calls.told = True
    text = f"{type(error).__name__}: {error}".partition("\n")[0]
    store = distributed.store()
    with contextlib.suppress(RuntimeError):  # of a store that is gone
        if store is not None and not store.check([_KEY]):
            store.set(_KEY, json.dumps({"rank": distributed.rank(), "error": text[:500]}))
    _record(error)
    distributed.leave()


def _record(error: BaseException) -> None:
    """Leaves an error for torchrun, if that has started this process."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ and isinstance(error, Exception):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
        _say_more(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), error)


def _say_more(file: Path, error: Exception) -> None:
    """Has torchrun print the traceback also where no error is being handled, and a consequence behind its cause.

    It knows the times by the second alone. Of a consequence nobody needs the traceback.
    """
    is_later = isinstance(error, ProcessError)
    text = f"{type(error).__name__}: {error}" if is_later else "".join(traceback.format_exception(error))
    try:
        written = json.loads(file.read_text())
        more = written["message"]["extraInfo"]
        more |= {"py_callstack": text, "timestamp": str(int(more["timestamp"]) + is_later)}
        file.write_text(json.dumps(written))
    except (OSError, LookupError, TypeError, ValueError):  # another release of torch writes something else
        pass


def _is_of_connection(error: BaseException) -> bool:
    """Whether a collective failed because a peer is gone, and not because something is wrong here."""
    kinds = (dist.DistError,) if hasattr(dist, "DistError") else ()
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and bool(_FROM_BACKEND(str(error))))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


distributed.ended_by(together, check_alike)
if distributed.world_size() > 1:  # an error of the script before the processes have met is to be seen, too
    _guard()
