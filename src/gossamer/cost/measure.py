"""What models take on this machine: seconds and peak memory, measured side by side so that their ratios are fair."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gossamer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Time and memory of one of several runs that took turns.

    Attributes:
        times: seconds of each repetition on the clock.
        processor: seconds of each repetition on the processor, all threads together. On a machine that does other work these tell
            runs apart when the clock does not; for work on a GPU they mean nothing.
        peak_bytes: most bytes of tensors alive at once that one call made, beyond those that were there before it.
    """

    times: tuple[float, ...]
    processor: tuple[float, ...]
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Median time on the clock."""
        return statistics.median(self.times)

    @property
    def fastest(self) -> float:
        """Least time on the clock: the one that other work on the machine disturbed least."""
        return min(self.times)

    def ratio(self, other: Measured) -> float:
        """Median, over repetitions, of this time on the clock against the other's in the same repetition."""
        return statistics.median(t / o for t, o in zip(self.times, other.times, strict=True))

    def processor_ratio(self, other: Measured) -> float:
        """The same for time on the processor."""
        return statistics.median(t / o for t, o in zip(self.processor, other.processor, strict=True))


def measure(runs: Mapping[str, Callable[[], Any]], *, repeats: int = 7) -> dict[str, Measured]:
    """Time and peak memory of each run, under its name.

    The runs take turns: every repetition calls each of them once, so that whatever else the machine does meets all of them, and
    ratios within one repetition are fair. Before the first, each is called once for its memory, which also warms it up.

    Args:
        runs: name -> what to call without arguments, such as `lambda: model(**inputs)`.
        repeats: repetitions.

    Raises:
        ValueError: nothing to run, or no repetition.
    """
    if not runs or repeats < 1:
        raise UserError(
            f"measure needs something to run and repeats of 1 or more, got {len(runs)} runs, repeats={repeats}"
        )
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            _finish()
            times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {
        name: Measured(times=tuple(t[0] for t in taken), processor=tuple(t[1] for t in taken), peak_bytes=peaks[name])
        for name, taken in times.items()
    }


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most bytes of tensors alive at once that a call makes: activations, gradients, outputs; no weights, no inputs.

    Every storage that an operation returns counts from then until it is freed. This equals what torch's profiler sums up from
    its allocator, except for scratch space inside single kernels, and does not depend on the operating system.
    """
    with _Alive() as alive:
        run()
    return alive.peak


class _Alive(TorchDispatchMode):
    """Bytes of the storages made under this mode that are alive, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._see((args, kwargs), new=False)
        output = func(*args, **(kwargs or {}))
        self._see(output, new=True)
        return output

    def _see(self, values: Any, *, new: bool) -> None:
        for tensor in tree_leaves(values):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self.known:
                continue
            # What an operation reads and did not come from here was there before; meta tensors hold nothing.
            size = storage.nbytes() if new and not tensor.is_meta else 0
            self.known.add(storage._cdata)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, storage._cdata, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
