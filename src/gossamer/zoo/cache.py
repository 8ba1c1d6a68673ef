"""Converted models kept on disk: built once, checked by SHA-256 at each use, rebuilt when damaged."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from gossamer.carriers import sha256
from gossamer.documents import expanded, read_json
from gossamer.errors import UserError

DIGESTS = "digests.json"


def cache_folder() -> Path:
    """Folder of converted models: $GOSSAMER_CACHE, else gossamer/ in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("GOSSAMER_CACHE"):
        return expanded(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gossamer"


def entry(name: str, source: Mapping[str, str], build: Callable[[Path], None]) -> Path:
    """Folder of the cached model `name`, built first where it is absent, damaged, or made from another source.

    `source` maps each file of the origin to its SHA-256; it is stored with the entry, beside the SHA-256 of every file
    that `build(folder)` wrote. The folder appears under its name only when complete. Processes that ask for the same
    entry at the same time wait for the first.
    """
    from filelock import FileLock

    folder = cache_folder() / name
    if _fault(folder, source) is None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):
        fault = _fault(folder, source)
        if fault is None:
            return folder
        if folder.exists():
            warnings.warn(f"the cached model in {folder} is not usable and is built anew: {fault}", stacklevel=2)
        partial = folder.parent / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        build(partial)
        files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        (partial / DIGESTS).write_text(json.dumps({"source": dict(source), "files": files}, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder


def kept(name: str) -> Path:
    """Folder of the cached model `name`, whatever it was made from; ValueError where it is absent or damaged."""
    folder = cache_folder() / name
    fault = _fault(folder) if folder.is_dir() else "it is not there"
    if fault is not None:
        raise UserError(fault)
    return folder


def _fault(folder: Path, source: Mapping[str, str] | None = None) -> str | None:
    """What is wrong with the entry in `folder`, or None where every digest is right, and the source is this one if one is given."""
    try:
        digests = read_json(folder / DIGESTS)
        files, origin = dict(digests["files"]), dict(digests["source"])
    except FileNotFoundError:
        return f"it has no {DIGESTS}"
    except (ValueError, KeyError, TypeError):
        return f"its {DIGESTS} cannot be read"
    if source is not None and origin != dict(source):
        return "it was made from another version of the weights"
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != digest:
            return f"{name} was changed (its SHA-256 is another)"
    return None
