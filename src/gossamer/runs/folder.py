"""The folder of a run: what lies where, who may write to it, and where a killed run goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from gossamer import documents
from gossamer.errors import UserError
from gossamer.runs import processes, run_file
from gossamer.runs.run import Run

METRICS = "metrics.json"  # written last: its presence says that the run has finished
CHECKPOINTS = "checkpoints"
START, START_WEIGHTS = "start.json", "start.safetensors"  # scores before the first step, and the adapter of then
CONDENSED = "condensed.json"  # what was cut from the prompts of another run before this one began
MADE = (
    run_file.RUN_FILE,
    "prepared.json",
    "warm_start.json",
    START,
    START_WEIGHTS,
    CONDENSED,
    "controls.json",
    "prompts.png",
    "attention.png",
    "controls",
    "history.jsonl",
    "curves.png",
    "confusion.png",
    "adapter",
    CHECKPOINTS,
    METRICS,
)


class RunFolder:
    """The folder of one run, which this process holds (`runs.lock.alone`); there is a run in it from `begin` on.

    Of several processes of one run only the first writes.

    Args:
        run: its settings; `run.output` is the folder.
        resume: continue what an earlier process began there with the same settings; begin where there is nothing.
        overwrite: remove what an earlier run left there, once the new one begins; its log is continued.

    Raises:
        FileExistsError: a run is there and neither was asked for.
        ValueError: the run there has other settings.
    """

    def __init__(self, run: Run, *, resume: bool = False, overwrite: bool = False):
        self.path, self.overwrite = Path(run.output), overwrite
        if resume and overwrite:
            raise UserError("--resume continues a run and --overwrite removes it: give one of them")
        if (self.path / run_file.RUN_FILE).is_file() and not overwrite:
            if not resume:
                state = "finished" if self.finished() else "unfinished"
                raise FileExistsError(
                    f"{self.path} holds a run already ({state}): --resume continues it, --overwrite removes it; or choose "
                    "another output"
                )
            self._require_same(run)

    def begin(self, run: Run) -> None:
        """Writes the settings: from now on the folder holds a run. Called when data and model have been found fit."""
        if self.overwrite and processes.first():
            self._clear()
        self.write(run_file.RUN_FILE, run_file.to_yaml(run))

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, text: str) -> None:
        """Writes one file of the run; a kill leaves the old one or the new one."""
        if processes.first():
            documents.write_whole(self.path / name, text)

    def read_json(self, name: str) -> Any:
        """The content of one JSON file of the run; None if it is not there."""
        path = self.path / name
        return documents.read_json(path, documents.RECORDS) if path.is_file() else None

    def record(self, name: str) -> Any:
        """The content of a JSON file that a run as far as this one has; UserError where it is not there."""
        found = self.read_json(name)
        if found is None:
            raise UserError(f"{self.path / name} is missing, so the run cannot go on: --overwrite begins it anew")
        return found

    def metrics(self) -> dict[str, Any]:
        """What came of a finished run."""
        return read_metrics(self.path)

    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / METRICS).is_file() and not self.overwrite

    def checkpoint(self) -> str | None:
        """See `newest_checkpoint`."""
        return newest_checkpoint(self.path / CHECKPOINTS)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Writes the metrics and removes the checkpoints; what trackers wrote beside them stays."""
        self.write(METRICS, json.dumps(metrics, indent=2) + "\n")
        if not processes.first():
            return
        (self.path / START_WEIGHTS).unlink(missing_ok=True)
        for path in (self.path / CHECKPOINTS).glob("checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.path / CHECKPOINTS).rmdir()

    def _clear(self) -> None:
        for name in MADE:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _require_same(self, run: Run) -> None:
        before, now = (flat(dataclasses.asdict(r)) for r in (run_file.read(self.path), run))
        names = [*now, *(name for name in before if name not in now)]
        differing = [name for name in names if name != "output" and before.get(name) != now.get(name)]
        if differing:
            name = differing[0]
            raise UserError(
                f"cannot resume {self.path}: it was begun with other settings ({', '.join(differing)}; for instance "
                f"{name}={before.get(name)!r}, now {now.get(name)!r}); use them, or choose another output"
            )


def read_metrics(folder: Path) -> dict[str, Any]:
    """What came of the finished run in a folder; UserError where the file says something else."""
    found = documents.read_json(folder / METRICS, documents.RECORDS)
    if not isinstance(found, dict) or "trainable_parameters" not in found:
        raise UserError(f"{folder / METRICS} does not tell of a finished run: --overwrite begins it anew")
    return found


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in a folder that was written to its end; older and torn ones stay until the run has finished."""
    steps = {str(path): _steps(path) for path in folder.glob("checkpoint-*")}
    found = [(count, path) for path, count in steps.items() if count is not None]
    return max(found)[1] if found else None


def _steps(checkpoint: Path) -> int | None:
    """Steps of training behind a checkpoint; None for one that was not written to its end."""
    try:
        state = documents.read_json(checkpoint / "trainer_state.json", documents.RECORDS)  # the file written last
    except (OSError, UserError):
        return None
    count = state.get("global_step") if isinstance(state, dict) else None
    return count if isinstance(count, int) else None


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names: training.lr."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found
