"""The folder of a search: history, picture, result, and the state from which a killed one goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gossamer import documents
from gossamer.errors import UserError

SETTINGS, HISTORY, STATE = "settings.json", "history.jsonl", "state.safetensors"
RESULT, PICTURE, FOUND = "result.json", "preferences.png", "found.yaml"
MADE = (SETTINGS, HISTORY, STATE, RESULT, PICTURE, FOUND)


class SearchFolder:
    """A folder of one search, or none at all (path None: nothing is kept).

    Args:
        path: made where it is not there.
        settings: everything that the result depends on, as JSON.
        resume: go on with what an earlier process began there with the same settings; begin where there is nothing.
        overwrite: remove what an earlier search left there.

    Raises:
        FileExistsError: a search is there and neither was asked for.
        ValueError: the search there has other settings.
    """

    def __init__(
        self,
        path: Path | None,
        settings: dict[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self.path, self.writes = path, path is not None  # of several processes only the first writes
        if path is None:
            return
        if resume and overwrite:
            raise UserError("resume continues a search and overwrite removes it: give one of them")
        settings = json.loads(json.dumps(settings))
        before = None if overwrite else self._json(SETTINGS)
        if before is not None:
            if not resume:
                state = "finished" if (path / RESULT).is_file() else "unfinished"
                raise FileExistsError(
                    f"{path} holds a search already ({state}): resume continues it, overwrite removes it; or choose another folder"
                )
            differing = [name for name in settings if before.get(name) != settings[name]]
            if differing:
                name = differing[0]
                raise UserError(
                    f"cannot resume {path}: it was begun with other settings ({', '.join(differing)}; for instance "
                    f"{name}={before.get(name)!r:.200}, now {settings[name]!r:.200}); use them, or choose another folder"
                )
        self._began = before is not None
        self._settings = settings

    def begin(self) -> None:
        """Writes the settings, once data and model have been found fit."""
        if not self.writes or self._began:
            return
        assert self.path is not None
        self.path.mkdir(parents=True, exist_ok=True)
        for name in MADE:
            (self.path / name).unlink(missing_ok=True)
        self.write(SETTINGS, json.dumps(self._settings, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        """What a finished search came to."""
        return self._json(RESULT) if self.path is not None and self._began else None

    def write(self, name: str, text: str) -> None:
        """Writes one file so that a kill leaves the old one or the new one."""
        if self.writes:
            assert self.path is not None
            documents.write_whole(self.path / name, text)

    def save(self, tensors: dict[str, Tensor], step: int) -> None:
        """Writes the state after `step` steps, atomically."""
        if self.writes:
            assert self.path is not None
            staged = self.path / f".{STATE}.new"
            contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            try:
                safetensors.torch.save_file(contiguous, staged, metadata={"step": str(step)})
            except SafetensorError as error:
                staged.unlink(missing_ok=True)
                raise UserError(f"{self.path / STATE} could not be written: {error}") from error
            os.replace(staged, self.path / STATE)

    def state(self) -> tuple[int, dict[str, Tensor]] | None:
        """Steps done, and the tensors, of the newest state; None where there is none."""
        if self.path is None or not self._began or not (self.path / STATE).is_file():
            return None
        try:
            with safetensors.safe_open(self.path / STATE, framework="pt") as file:
                return int(file.metadata()["step"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, LookupError, TypeError, ValueError) as error:  # the head of another file has no step
            raise UserError(f"{self.path / STATE} is damaged ({error}): overwrite begins the search anew") from error

    def history(self, steps: int) -> list[dict[str, Any]]:
        """The records of the first `steps` steps; a line that a kill tore is among the later ones."""
        if self.path is None or steps == 0 or not (self.path / HISTORY).is_file():
            return []
        records = []
        for line in (self.path / HISTORY).read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["step"] < steps:
                records.append(record)
        return records

    def keep(self, records: list[dict[str, Any]]) -> None:
        """Writes the whole history."""
        self.write(HISTORY, "".join(json.dumps(record) + "\n" for record in records))

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record to the history."""
        if self.writes:
            assert self.path is not None
            path = self.path / HISTORY
            with documents.naming(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the result, last of all, and lets the state go."""
        self.write(RESULT, json.dumps(result, indent=2) + "\n")
        if self.writes:
            assert self.path is not None
            (self.path / STATE).unlink(missing_ok=True)

    def _json(self, name: str) -> Any:
        path = (self.path or Path()) / name
        found = documents.read_json(path) if path.is_file() else None
        if not isinstance(found, dict | None):
            raise UserError(f"{path} is none of a search's files: overwrite begins the search anew")
        return found
