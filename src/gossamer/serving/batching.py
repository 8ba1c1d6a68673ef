"""Requests that come one by one, answered in batches: one thread computes, and what waits is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any


class Full(RuntimeError):
    """As many requests wait as may wait."""


class Stopped(RuntimeError):
    """Nothing is taken any more."""


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request that waits: what is asked, with whom it may share a batch, and where its answer goes."""

    asked: Any
    kind: Hashable
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class Batcher:
    """Answers what is asked from an event loop in batches, in a thread of its own.

    Args:
        compute: some that were asked, of one kind -> their answers in order.
        max_batch: most in a batch.
        max_wait: seconds that the first of a batch waits for others.
        room: most that wait.
        seen: told the size of every batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        max_batch: int,
        max_wait: float,
        room: int,
        seen: Callable[[int], None],
    ):
        self.compute, self.max_batch, self.max_wait, self.seen = compute, max_batch, max_wait, seen
        self.waiting: queue.Queue[Waiting | None] = queue.Queue(room)
        self.stopped = False
        self.thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self.thread.start()

    async def ask(self, asked: Any, kind: Hashable) -> Any:
        """The answer, once a batch with it was computed; one that is cancelled before is not computed.

        Raises:
            Full: there is no room.
            Stopped: it was closed.
        """
        if self.stopped:
            raise Stopped("the server is stopping")
        loop = asyncio.get_running_loop()
        one = Waiting(asked, kind, loop, loop.create_future())
        try:
            self.waiting.put_nowait(one)
        except queue.Full as error:
            raise Full(f"{self.waiting.maxsize} requests wait already") from error
        return await one.answer

    def close(self) -> None:
        """Takes nothing more, and returns when everything that waited was answered."""
        self.stopped = True
        self.waiting.put(None)
        self.thread.join()

    def _run(self) -> None:
        while self._batch():
            pass

    def _batch(self) -> bool:
        """Answers what comes next; whether more is to come. While it waits for that it holds on to nothing."""
        first = self.waiting.get()
        some = [None] if first is None else self._others(first)
        self._answer([one for one in some if one is not None and not one.answer.cancelled()])
        return some[-1] is not None

    def _others(self, first: Waiting) -> list[Waiting | None]:
        """Those that come in time to share a batch; None ends them."""
        found: list[Waiting | None] = [first]
        end = time.monotonic() + self.max_wait
        while len(found) < self.max_batch:
            try:
                found.append(self.waiting.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                break
            if found[-1] is None:
                break
        return found

    def _answer(self, some: Sequence[Waiting]) -> None:
        kinds: dict[Hashable, list[Waiting]] = {}
        for one in some:
            kinds.setdefault(one.kind, []).append(one)
        for alike in kinds.values():
            self.seen(len(alike))
            try:
                answers = list(self.compute([one.asked for one in alike]))
            except Exception as error:
                if len(alike) == 1:
                    _tell(alike[0], error=error)
                    continue
                for one in alike:  # one of them is at fault, and the others are not to suffer for it
                    self._answer([one])
                continue
            for one, answer in zip(alike, answers, strict=True):
                _tell(one, answer)


def _tell(one: Waiting, answer: Any = None, error: Exception | None = None) -> None:
    """Hands an answer or an error over to the loop that waits for it, if it still does."""
    with contextlib.suppress(RuntimeError):  # its loop has ended
        one.loop.call_soon_threadsafe(_told, one.answer, answer, error)


def _told(future: asyncio.Future[Any], answer: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
