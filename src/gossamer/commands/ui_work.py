"""What the page of `gossamer ui` does, without the page.

It is what the commands do: `look` of `gossamer init`, `gossamer train` as a process of its own, `gossamer.predict`, and
`export_run` of `gossamer export`. What it leaves in its folder is what they leave.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gossamer import documents
from gossamer.errors import UserError

if TYPE_CHECKING:
    from gossamer.adapting import Adapted
    from gossamer.runs.run import Run

UNPACKED = 8 * 2**30  # bytes that a zip file may hold
LINES = 20  # of a run's log that are shown
METHODS = {
    "LoRA, rank 8": "[{method: peft, peft_type: LORA, r: 8}]",
    "VPT, 10 prompts": "[{method: vpt, prompts: 10}]",
    "CVPT, 10 prompts": "[{method: cvpt, prompts: 10}]",
    "adapters": "[{method: adapter}]",
    "the linear probe alone": "[{method: linear_probe}]",
}
"""Methods that are offered, as a run file has them; the first is that of a first run."""
RUNNING, STOPPED, FAILED, FINISHED = "running", "stopped", "failed", "finished"


class Work:
    """What the page works on: one folder of images at a time, and the run on it. A page that is loaded again finds it as it is.

    Args:
        home: folder of photographs that were given to the page, run files, runs and what is to be downloaded.
        uploads: where the server puts uploaded files; nothing outside it is taken for one.
    """

    def __init__(self, home: Path, uploads: Path):
        self.home, self.uploads = home, uploads.resolve()
        self.file: Path | None = None  # the run file of the images that were looked at
        self.process: subprocess.Popen[bytes] | None = None
        self.began, self.stopped = 0.0, False
        self._loaded: tuple[float, Adapted] | None = None

    # what it is given

    def receive(self, files: Iterable[tuple[str, str]]) -> Path:
        """The folder of files that a browser sent with a folder: (where it lies now, NAME/.../image.jpg)."""
        from gossamer.data.files import inside, is_junk

        place: Path | None = None
        for path, relative in files:
            top, *rest = PurePosixPath(relative).parts
            place = place or self._emptied(top)
            target = inside(place, "/".join(rest), "the folder")
            if any(map(is_junk, rest)):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self._uploaded(path), target)
        if place is None:
            raise UserError("the folder is empty: it should hold a folder for each class, with images in it")
        return _innermost(place)

    def unpack(self, file: str) -> Path:
        """The folder of images in a zip file."""
        from gossamer.data.files import inside, is_junk

        path = self._uploaded(file)
        try:
            with zipfile.ZipFile(path) as packed:
                entries = [e for e in packed.infolist() if not e.is_dir()]
                if (size := sum(e.file_size for e in entries)) > UNPACKED:
                    raise UserError(
                        f"{path.name} holds {size / 2**30:.0f} GiB, more than {UNPACKED / 2**30:.0f}: give the folder's path"
                    )
                place = self._emptied(path.stem)
                for entry in entries:
                    target = inside(place, entry.filename, path.name)
                    if any(map(is_junk, PurePosixPath(entry.filename).parts)):
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with packed.open(entry) as source, target.open("wb") as to:
                        shutil.copyfileobj(source, to)
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
        ) as error:  # the last two: encrypted, unknown packing
            raise UserError(f"{path.name} cannot be unpacked as a zip file: {error}") from error
        return _innermost(place)

    def add(self, name: str, label: str, files: Sequence[str]) -> Path:
        """The folder `name`, with these images in the class `label` beside what is there."""
        place = self._place(name) / _part(label, "class")
        if not files:
            raise UserError(f"no image was given for the class {label!r}")
        place.mkdir(parents=True, exist_ok=True)
        for path in map(self._uploaded, files):
            target, number = place / path.name, 1
            while target.exists():
                target, number = place / f"{path.stem}-{number}{path.suffix}", number + 1
            shutil.move(path, target)
        return place.parent

    def _place(self, name: str) -> Path:
        return self.home / "photographs" / _part(name, "name")

    def _emptied(self, name: str) -> Path:
        """A new folder for photographs; what was given under the same name before goes."""
        place = self._place(name)
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        return place

    def _uploaded(self, path: str) -> Path:
        found = Path(path).resolve()
        if not found.is_relative_to(self.uploads) or not found.is_file():
            raise UserError(f"{path} is no file that was given to this page")
        return found

    # what is done with it

    def look(self, folder: str) -> tuple[list[str], Path | None, Run]:
        """What `gossamer init` says of a folder, its contact sheet, and the run that it proposes."""
        from gossamer.commands import init
        from gossamer.runs.run_file import parse

        if not folder.strip():
            raise UserError("no folder is named: give one above, or type its path")
        self._must_rest()
        place = documents.expanded(folder.strip()).absolute()
        file = self.home / f"{place.name}.yaml"
        found, sheet = init.look(str(place), file)
        self.file = file
        return init.told(found), sheet, parse([str(file)])[0]

    def begin(self, model: str, methods: str, epochs: float, size: float) -> list[str]:
        """Starts `gossamer train` on the images that were looked at; returns what was typed for it."""
        if self.file is None:
            raise UserError("there is nothing to train on yet: look at a folder of photographs first")
        self._must_rest()
        given = [
            str(self.file), f"model={model}", f"methods={methods}", f"training.epochs={int(epochs)}", f"images.size={int(size)}",
            f"output={self.run}", "--overwrite",
        ]  # fmt: skip
        self.began, self.stopped, self._loaded = time.time(), False, None
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gossamer", "train", *given], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return ["gossamer", "train", *given]

    def stop(self) -> None:
        """Ends the training, as SIGTERM does."""
        if self.process is not None and self.process.poll() is None:
            self.stopped = True
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()

    close = stop

    @property
    def run(self) -> Path:
        """The folder of the run."""
        assert self.file is not None, "nothing was looked at"
        return self.home / "runs" / self.file.stem

    @property
    def log(self) -> Path:
        """What the run has said."""
        assert self.file is not None, "nothing was looked at"
        return self.file.with_suffix(".log")

    def state(self) -> str:
        """Whether a training is running, stopped, failed or finished; empty before the first."""
        if self.process is None:
            return ""
        code = self.process.poll()
        if code is None:
            return RUNNING
        return STOPPED if self.stopped else FINISHED if code == 0 else FAILED

    def said(self) -> list[str]:
        """The last lines of the run's log."""
        if self.process is None:
            return []
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]

    def history(self) -> list[dict[str, Any]]:
        """One record an epoch, that of the start (epoch 0) in front."""
        from gossamer.data.files import read_json_lines
        from gossamer.runs.folder import START

        if self.process is None or not (start := self.run / START).is_file() or start.stat().st_mtime < self.began:
            return []  # what lies there is of an earlier run, which the new one has not removed yet
        lines = self.run / "history.jsonl"
        return [r for _, r in read_json_lines(lines)] if lines.is_file() else documents.read_json(start)

    def metrics(self) -> dict[str, Any]:
        """What came of the finished run."""
        from gossamer.runs.folder import read_metrics

        return read_metrics(self.run)

    def _must_rest(self) -> None:
        if self.state() == RUNNING:
            raise UserError("a training is running: stop it first, or wait for its end")

    # what comes of it

    def adapter(self) -> Adapted:
        """That of the finished run; read once."""
        from gossamer.runs.folder import METRICS
        from gossamer.runs.trained import load_adapter

        if self.file is None or not (self.run / METRICS).is_file() or self.state() == RUNNING:
            raise UserError("there is no trained adapter yet: train first")
        made = (self.run / METRICS).stat().st_mtime
        if self._loaded is None or self._loaded[0] != made:
            self._loaded = (made, load_adapter(self.run))
        return self._loaded[1]

    def predict(self, files: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """Records of `gossamer.predict.predict`, and what is wrong with the files that are no images."""
        from gossamer.data.given import image_files, readable
        from gossamer.predict import predict

        if not files:
            raise UserError("no image was given")
        adapted = self.adapter()
        kept, faults = readable(image_files([self._uploaded(file) for file in files]))
        return list(predict(adapted, kept)), faults

    def packed(self) -> Path:
        """The adapter's folder as a zip file."""
        self.adapter()
        return Path(shutil.make_archive(str(self.home / f"{self.run.name}-adapter"), "zip", self.run, "adapter"))

    def exported(self) -> tuple[Path, dict[str, Any]]:
        """The classifier as an ONNX file, and what `gossamer export` measured of it."""
        from gossamer.export import export_run, file_of

        self.adapter()
        file = file_of(self.run, "onnx", int8=False)
        found = export_run(self.run, file, format="onnx", int8=False)
        return file, found


def _part(name: str, what: str) -> str:
    """A name that can be one folder's."""
    name = name.strip()
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise UserError(f"{name!r:.80} is no {what} for a folder: give one word or more, without slashes")
    return name


def _innermost(place: Path) -> Path:
    """The folder itself, or the only one in it where that holds the folders of classes."""
    from gossamer.data.files import entries

    while len(inner := entries(place)) == 1 and inner[0].is_dir() and any(path.is_dir() for path in entries(inner[0])):
        place = inner[0]
    return place
