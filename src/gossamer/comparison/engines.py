"""Where the processes of a comparison run: on this machine, or on a Ray cluster. Every cell has a process of its own.

So memory is given back after each cell, and a process that is killed or crashes takes nothing else with it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gossamer.comparison.cell import ERROR, attempt
from gossamer.comparison.plan import Cell
from gossamer.errors import MissingPackage

TICK = 0.1  # seconds between two looks at the processes
LOG = "cell.log"  # what the process of a cell prints on this machine
PRELOADED = [
    "gossamer.comparison.cell",
    "gossamer.training.train",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
]
FAILED = 3  # exit code of a process that left its error in the cell's folder


class Local:
    """Processes of this machine, `workers` at a time, with equal parts of torch's threads.

    They are forked from one process that has imported everything and computed nothing: a cell starts at once, and with fresh
    memory. When the process that uses this ends, in whatever way, the cells' processes end too.
    """

    def __init__(self, workers: int):
        import multiprocessing

        import torch

        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload(PRELOADED)
        self.slots, self.threads = workers, max(1, torch.get_num_threads() // workers)

    def start(self, cell: Cell) -> Any:
        """Starts the process of a cell."""
        process = self.context.Process(target=_child, args=(cell, self.threads))
        process.start()
        return process

    def ended(self, processes: Sequence[Any]) -> list[Any]:
        """Those that have ended."""
        time.sleep(TICK)
        return [process for process in processes if not process.is_alive()]

    def outcome(self, cell: Cell, process: Any) -> str | None:
        """What went wrong, in one sentence; None if nothing did."""
        code = process.exitcode
        if code == FAILED:
            return (cell.folder / ERROR).read_text(encoding="utf-8").partition("\n")[0]
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was ended by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}; see {cell.folder / LOG}"
        return None if code == 0 else f"its process ended with exit code {code}; see {cell.folder / LOG}"

    def close(self, processes: Sequence[Any]) -> None:
        """Ends the processes that are left."""
        for process in processes:
            process.kill()
            process.join()


class Ray:
    """Tasks of a Ray cluster, `workers` at a time on each machine, with equal parts of its processors and a GPU each, if any.

    The cluster is the one that Ray finds (RAY_ADDRESS, or the one running here); without one it is this machine alone. All
    machines must see the output folder under the same path.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, workers: int):
        try:
            import ray
        except ImportError as error:
            raise MissingPackage("--engine ray needs Ray: pip install 'gossamer[sweep]'") from error
        self.ray, self.began = ray, not ray.is_initialized()
        if self.began:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        processors = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        self.threads = max(1, min(n for n in processors if n) // workers)
        self.slots = sum(n // self.threads for n in processors)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.attempt = ray.remote(num_cpus=self.threads, num_gpus=gpus, max_calls=1, max_retries=0)(attempt)

    def start(self, cell: Cell) -> Any:
        """Hands a cell to the cluster."""
        return self.attempt.remote(cell, self.threads)

    def ended(self, tasks: Sequence[Any]) -> list[Any]:
        """Those that have ended."""
        return self.ray.wait(list(tasks), timeout=TICK)[0]

    def outcome(self, cell: Cell, task: Any) -> str | None:
        """What went wrong, in one sentence; None if nothing did."""
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"

    def close(self, tasks: Sequence[Any]) -> None:
        """Ends the tasks that are left, and leaves the cluster if it was entered here."""
        for task in tasks:
            self.ray.cancel(task, force=True)
        if self.began:
            self.ray.shutdown()


ENGINES = {"local": Local, "ray": Ray}


def perform(cells: Sequence[Cell], engine: str, workers: int) -> Iterator[tuple[Cell, bool, str | None]]:
    """Performs the cells; yields each when it starts, and again with True and what went wrong (None: nothing) when it has ended.

    In between it yields the last state again, so that whoever iterates can show that time passes.
    """
    if not cells:
        return
    waiting, running = list(reversed(cells)), {}
    place = ENGINES[engine](workers)
    try:
        while waiting or running:
            while waiting and len(running) < place.slots:
                cell = waiting.pop()
                running[place.start(cell)] = cell
                yield cell, False, None
            for handle in place.ended(list(running)):
                cell = running.pop(handle)
                yield cell, True, place.outcome(cell, handle)
    finally:
        place.close(list(running))


def _child(cell: Cell, threads: int) -> None:
    """The process of a cell: prints into a file of its folder, and ends when its parent does."""
    import multiprocessing

    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    cell.folder.mkdir(parents=True, exist_ok=True)
    with Path(cell.folder, LOG).open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    sys.exit(FAILED if attempt(cell, threads) else 0)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
