"""One process at a time works in a folder: a lock that ends with its process, however it ends, and says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from gossamer import documents
from gossamer.errors import UserError
from gossamer.runs import processes

LOCK, HOLDER = ".lock", ".holder.json"


class Held(UserError, BlockingIOError):
    """Another process works in the folder."""


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Within the block the folder, made where it is not there, is this process's; it may take it again inside.

    Of several processes that do one job the first holds it for all.

    Args:
        folder: of a run, a search or a comparison.
        wait: for the process that holds it, which is known to be ending.

    Raises:
        Held: another process does; the message names it.
        FileExistsError: there is a file of this name.
    """
    with contextlib.ExitStack() as held:
        processes.agreed(lambda: held.enter_context(_held(folder, wait)))
        yield


@contextlib.contextmanager
def _held(folder: Path, wait: bool) -> Iterator[None]:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output {folder} is a file; give the name of a folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(
        folder.resolve() / LOCK, is_singleton=True
    )  # one object a path, so that it can be taken again
    again = lock.is_locked
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout as error:
        raise Held(f"{_holder(folder)} works in {folder}: wait for it, or end it, or choose another output") from error
    try:
        if not again:
            documents.write_whole(folder / HOLDER, json.dumps(_oneself()) + "\n")
        yield
    finally:
        if not again:
            for name in (
                HOLDER,
                LOCK,
            ):  # while it is held: who has opened the lock before finds it gone, and opens the next one
                with contextlib.suppress(OSError):  # Windows removes no open file
                    (folder / name).unlink()
        lock.release()


def _oneself() -> dict[str, str | int]:
    program = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"process": os.getpid(), "machine": platform.node(), "since": since, "command": f"{program:.200}"}


def _holder(folder: Path) -> str:
    """Who holds a folder, in words; it may be about to say so, or to leave."""
    try:
        said = documents.read_json(folder / HOLDER)
        return f"process {said['process']} on {said['machine']} ({said['command']}, since {said['since']})"
    except (OSError, UserError, LookupError, TypeError):
        return "another process"
