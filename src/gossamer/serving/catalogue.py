"""What is served: image classifiers by name, from their folders, those of one backbone over one set of weights."""

from __future__ import annotations

import itertools
import json
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer import origin, storage, tasks
from gossamer.adapting import Adapted
from gossamer.data import Preprocessing
from gossamer.errors import UnknownName, UserError
from gossamer.mixed import Mixed


@dataclass(frozen=True)
class Served:
    """One classifier.

    Attributes:
        folder: where it came from.
        labels: of its classes.
        preprocessing: of its images.
        backbone: what it stands on, in words.
        mixed: the models of that backbone.
        key: its name among these: another each time that a folder is read.
    """

    folder: Path
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    backbone: str
    mixed: Mixed
    key: str


def named(given: Sequence[str]) -> dict[str, Path]:
    """Names and folders of `FOLDER` or `NAME=FOLDER`; the name of a folder is its last part.

    Raises:
        UserError: no folder is given, or two have one name.
    """
    found: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        path = Path(folder if equals else one)
        name = name if equals else path.resolve().name
        if not name or "/" in name:
            raise UserError(f"{one}: {name!r} is no name that an address can have; give NAME=FOLDER")
        if name in found:
            raise UserError(
                f"{found[name]} and {path} are both called {name!r}; give one of them another name: NAME={path}"
            )
        found[name] = path
    if not found:
        raise UserError("no folder to serve: give folders of runs or of adapters")
    return found


class Catalogue:
    """The classifiers of some folders.

    Args:
        folders: by name: of finished runs, or that `save_pretrained` wrote.
        device: where models run.

    Raises:
        UserError: one is no image classifier, or cannot be loaded; the message says which.
    """

    def __init__(self, folders: Mapping[str, Path], device: torch.device | str = "cpu"):
        self.folders, self.device = dict(folders), device
        self._mixed: dict[str, Mixed] = {}
        self._times = itertools.count()
        self.served: dict[str, Served] = {}
        self.reload()

    def reload(self) -> None:
        """Reads every folder again; what runs meanwhile ends with what it began with. Where one fails, all stay as they were."""
        found = {name: self._ready(name, folder) for name, folder in self.folders.items()}
        for mixed in self._mixed.values():
            mixed.update({served.key: source for served, source in found.values() if served.mixed is mixed})
        for served, _ in found.values():
            weakref.finalize(served, _let_go, served.mixed, served.key).atexit = False
        self.served = {name: served for name, (served, _) in found.items()}

    def __getitem__(self, name: str) -> Served:
        if name not in self.served:
            raise UnknownName(f"no adapter {name!r}; there are {', '.join(self.served)}")
        return self.served[name]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of all of them."""
        return sum(mixed.weight_bytes for mixed in self._mixed.values())

    def _ready(self, name: str, folder: Path) -> tuple[Served, Adapted]:
        inner = folder / "adapter" if (folder / "adapter").is_dir() else folder
        config, _ = storage.read(inner)
        origin.check(config["backbone"])
        key = json.dumps(config["backbone"], sort_keys=True)
        if key not in self._mixed:
            self._mixed[key] = Mixed(origin.load(config["backbone"], config["head"]).to(self.device))
        mixed = self._mixed[key]
        source = mixed.taken(inner)
        task = tasks.of(source)
        if not isinstance(task, tasks.ClassifyingImages):
            raise UserError(f"{folder}: an adapter for {task.name}; only classifiers of images are served")
        said, key = config["backbone"], f"{name} {next(self._times)}"
        return Served(folder, task.labels, task.preprocessing, f"{said['class']} {said['name']}", mixed, key), source


def _let_go(mixed: Mixed, key: str) -> None:
    """Lets an adapter go that was replaced, once no request waits for it any more; in a thread, for others wait."""
    threading.Thread(target=mixed.remove, args=(key,), daemon=True).start()


@torch.no_grad()
def probabilities(asked: Sequence[tuple[Served, Tensor]]) -> list[dict[str, float]]:
    """For images [3, S, S] of one size, each for a classifier of one backbone, the probability of every label, likeliest first."""
    mixed = asked[0][0].mixed
    device = next(mixed.backbone.parameters()).device
    pixels = torch.stack([image for _, image in asked]).to(device)
    logits: Any = mixed(pixel_values=pixels, adapter=[served.key for served, _ in asked]).logits
    found = []
    for row, (served, _) in zip(logits.double(), asked, strict=True):
        shares = row[: len(served.labels)].softmax(0).tolist()
        found.append(dict(sorted(zip(served.labels, shares, strict=True), key=lambda pair: -pair[1])))
    return found
