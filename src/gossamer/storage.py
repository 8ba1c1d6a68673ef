"""An adapter on disk: a folder of three files, written so that no kill harms it, read so that nothing odd passes.

`adapter_config.json` says what the adapter is, `adapter_model.safetensors` holds its tensors, `README.md` is its card.

How a write survives a kill at any moment. All three files are first written and synced in a hidden folder. A new
adapter then appears by one rename of that folder. Over an older adapter, the hidden folder lies inside the adapter's
folder and its files are moved out one by one, `adapter_config.json` first. That move is the moment of change: the
configuration holds the SHA-256 of its tensors, and `read` takes the tensors with that digest, whether they have been
moved out yet or not. Exchanging whole folders would be no simpler: POSIX cannot rename one over another that has files,
so for a moment there would be none under the name, and the user's own files would have to move house with each save.

This module knows dictionaries, tensors and files; what the fields mean is known to `gossamer.adapted`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gossamer.documents import strict_json
from gossamer.errors import AdapterError
from gossamer.fingerprint import combined, fingerprint
from gossamer.version import __version__

FORMAT = 1
CONFIG, TENSORS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
OWN_FIELDS = {"format", "gossamer_version", "tensors", "card"}

__all__ = [
    "AdapterError", "check_fields", "check_tensors", "check_types", "combined", "fingerprint", "read", "write",
]  # fmt: skip

_STAGED = ".gossamer-saving-"
_MAX_CONFIG_BYTES = 16 * 2**20
_MAX_DEPTH = 64
_SHOWN = 5  # problems listed in one message
_UNREADABLE = (SafetensorError, AssertionError, KeyError, RuntimeError, TypeError, ValueError)


def write(folder: str | os.PathLike[str], config: dict[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Save an adapter in `folder`, which afterwards, or after a kill at any moment, holds the old adapter or this one.

    `config` is plain JSON (string keys, finite numbers; tuples become lists) without the fields storage adds itself
    (`OWN_FIELDS`). `tensors` may be on any device, share memory or be strided: each is stored whole. Everything is
    built in memory first, up to three times the size of the tensors. A missing folder is made, and other files in it
    are never touched. Writers of one folder take turns; where the file system has no locks, let only one process write.

    Raises AdapterError, before anything is written, for values that could not be loaded again (NaN and infinite ones
    included) and for a folder where a file of one of the three names belongs to something else; OSError, with the
    folder unchanged, when the disk is full.
    """
    put(folder, _encode(config, tensors, card), _check_replaceable)


def put(folder: str | os.PathLike[str], files: Mapping[str, bytes], check: Callable[[Path], None]) -> None:
    """Writes files of a folder: all of them at once into a new one, else each whole and in their order.

    `check` is asked before a folder that is there is changed. Raises what it raises, and OSError, with the folder unchanged, when
    the disk is full.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder.parent):
        beside = f".{folder.name}{_STAGED}"
        if folder.exists():
            check(folder)
            staged = _stage(folder / f"{_STAGED}{uuid.uuid4().hex}", files, folder)
            _sync_folder(folder)
            for name in files:  # each move is on disk before the next one
                os.replace(staged / name, folder / name)
                _sync_folder(folder)
            _remove_staged(folder, _STAGED)
        else:
            staged = _stage(folder.parent / f"{beside}{uuid.uuid4().hex}", files, folder)
            os.rename(staged, folder)
            _sync_folder(folder.parent)
        _remove_staged(folder.parent, beside)


def read(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors (on the CPU) that `write` was given, and nothing that is not surely that.

    A save that was killed halfway is read as the adapter it replaced or as the new one; `read` itself changes nothing.
    Raises AdapterError for everything else: see docs/saving.md.
    """
    folder = Path(folder)
    while True:
        stamp = _stamp(folder / CONFIG)
        data = _config_bytes(folder)
        config = parse(data, folder / CONFIG)
        record = _check_own_fields(config, folder / CONFIG)
        try:
            tensors = _load_tensors(folder, record)
        except AdapterError:
            if _stamp(folder / CONFIG) == stamp:
                raise
            continue  # another process has saved here in the meantime
        return {name: value for name, value in config.items() if name not in OWN_FIELDS}, tensors


def check_fields(section: Any, fields: Iterable[str], where: str) -> None:
    """Nothing, if `section` is a dict with exactly these fields; AdapterError naming the wrong ones if not.

    `where` begins the message, such as "adapter_config.json, methods[0] (vpt)".
    """
    known = sorted(fields)
    if not isinstance(section, dict):
        raise AdapterError(f"{where}: expected an object with the fields {', '.join(known)}; found {section!r:.80}")
    problems = []
    for name in sorted(section.keys() - set(known)):
        close = difflib.get_close_matches(name[:80], known, n=1) if len(problems) < _SHOWN else []
        problems.append(f"unknown field {name!r:.80}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    problems += [f"missing field {name!r}" for name in known if name not in section]
    if problems:
        raise AdapterError(
            f"{where}: {_listed(problems)}; the fields are {', '.join(known) or 'none'}; correct the file, or load it "
            "with the version of Gossamer that wrote it"
        )


def check_types(section: Any, fields: dict[str, Any], where: str) -> None:
    """Nothing, if `section` has exactly these fields, each of its type; AdapterError naming what is wrong if not."""
    check_fields(section, fields, where)
    for name, kind in fields.items():
        value = section[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            found = getattr(kind, "__name__", str(kind))
            raise AdapterError(f"{where}: {name} must be {found}, found {value!r:.60}; correct the file")


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Nothing, if both hold the same names with the same shapes; AdapterError listing every difference if not.

    Of `expected` only names, shapes and dtypes are read, so its tensors may be meta ones. Floating-point dtypes may
    differ among themselves (an adapter trained in bfloat16 fits a float32 backbone); any other dtype must be equal.
    """
    problems = [f"missing {name!r:.80}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"not expected {name!r:.80}" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        have, want = found[name], expected[name]
        if have.shape != want.shape:
            problems.append(f"{name!r} has shape {tuple(have.shape)}, expected {tuple(want.shape)}")
        elif have.dtype != want.dtype and not (have.is_floating_point() and want.is_floating_point()):
            problems.append(f"{name!r} is {have.dtype}, expected {want.dtype}")
    if problems:
        raise AdapterError(
            f"the adapter's tensors ({len(found)}) are not those that its configuration and this backbone call for "
            f"({len(expected)}): {_listed(problems)}; load it over the backbone it was trained on"
        )


def _encode(config: dict[str, Any], tensors: Mapping[str, Tensor], card: str) -> dict[str, bytes]:
    """The three files' contents, the configuration first."""
    taken = sorted(OWN_FIELDS & config.keys())
    if taken:
        raise AdapterError(f"cannot save: the configuration has {_listed(taken)}, which storage writes itself")
    _check_json(config, "cannot save: the configuration")
    _check_json(card, "cannot save: the card")
    packed, text = pack(tensors), card.encode("utf-8")
    own = {"format": FORMAT, "gossamer_version": __version__, "tensors": _record(TENSORS, packed)}
    full = {**config, **own, "card": _record(CARD, text)}
    data = (json.dumps(full, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode("utf-8")
    if len(data) > _MAX_CONFIG_BYTES:
        raise AdapterError(
            f"cannot save: the configuration is {len(data):,} bytes of JSON and at most {_MAX_CONFIG_BYTES:,} "
            "can be loaded; keep large data out of it"
        )
    return {CONFIG: data, TENSORS: packed, CARD: text}


def _record(name: str, data: bytes) -> dict[str, Any]:
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as a safetensors file; AdapterError where one cannot be stored, or is not finite."""
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise AdapterError(f"cannot save: {name!r} is not possible as a tensor's name; give it another")
        if not isinstance(tensor, Tensor):
            raise AdapterError(f"cannot save: {name!r} is a {type(tensor).__name__}; only tensors are stored")
        if tensor.is_meta or tensor.layout != torch.strided:
            found = "on the meta device, without values" if tensor.is_meta else str(tensor.layout)
            raise AdapterError(f"cannot save: tensor {name!r} is {found}; only dense tensors with values are stored")
        check_finite(
            name, tensor, "cannot save", "has training diverged? go back to an earlier state or lower the learning rate"
        )
    # A clone each: safetensors refuses tensors that share memory, such as tied weights.
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    try:
        return safetensors.torch.save(own)
    except _UNREADABLE as error:
        kinds = ", ".join(sorted({str(tensor.dtype) for tensor in own.values()}))
        raise AdapterError(f"cannot save: safetensors does not take these tensors ({kinds}): {error}") from error


def check_finite(name: str, tensor: Tensor, where: str, advice: str) -> None:
    """AdapterError for a tensor with values that are NaN or infinite; one on the meta device has none."""
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return
    values = tensor.detach()
    finite = torch.isfinite(values.float() if values.itemsize == 1 else values)  # not defined for 8-bit floats
    if not finite.all():
        bad = int((~finite).sum())
        raise AdapterError(
            f"{where}: {bad:,} of the {finite.numel():,} values of tensor {name!r:.80} are NaN or infinite; {advice}"
        )


def _check_json(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what would not come back from JSON as it was; `where` grows with the path of the field."""
    if depth > _MAX_DEPTH:
        raise AdapterError(f"{where:.200} is nested more than {_MAX_DEPTH} levels deep; nothing Gossamer writes is")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise AdapterError(f"{where} has the key {key!r}; JSON keys are strings: write {str(key)!r}")
            _check_json(key, f"{where}, a key")
            _check_json(item, f"{where}, {key!r:.80}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise AdapterError(f"{where} is {value}; JSON has finite numbers only: use null where there is no value")
    elif isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise AdapterError(f"{where} is {value!r:.80}, which holds half a Unicode character; replace it")
    elif not (value is None or isinstance(value, int)):
        raise AdapterError(f"{where} is a {type(value).__name__}; JSON has numbers, strings, lists, objects and null")


@contextlib.contextmanager
def _only_writer(parent: Path) -> Iterator[None]:
    """Hold the lock of `parent`, which the system lets go of when a process dies, and which leaves no file behind."""
    if os.name == "nt":  # no lock on folders there
        yield
        return
    import fcntl

    handle = os.open(parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would not do, had this process forked meanwhile
        os.close(handle)


def _check_replaceable(folder: Path) -> None:
    """Refuse to write over a file that no adapter of ours put there, such as a project's README.md."""
    if not folder.is_dir():
        raise AdapterError(f"cannot save to {folder}: it is a file; give the name of a folder")
    present = [name for name in (CONFIG, TENSORS, CARD) if os.path.lexists(folder / name)]
    if not present:
        return
    try:
        ours = "gossamer_version" in parse(_config_bytes(folder), folder / CONFIG)
    except AdapterError:
        ours = False
    if not ours or not all((folder / name).is_file() for name in present):
        raise AdapterError(
            f"cannot save to {folder}: its {' and '.join(present)} is not from an adapter saved by Gossamer and would "
            "be lost; choose another folder, or remove it first"
        )


def _stage(staged: Path, files: Mapping[str, bytes], folder: Path) -> Path:
    """The new hidden folder with all files in it, safely on disk; on an error it is removed again."""
    try:
        staged.mkdir()
        for name, data in files.items():
            with open(staged / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(staged)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        size = sum(map(len, files.values()))
        raise OSError(
            error.errno,
            f"could not save the adapter to {folder}: {error.strerror} ({size:,} bytes are needed); "
            "what was there before is unchanged",
        ) from error
    return staged


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _staged_in(folder: Path, start: str) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.name.startswith(start)]


def _remove_staged(folder: Path, start: str) -> None:
    """Clear what this write and killed ones before it left; only once the three files in place agree."""
    for staged in _staged_in(folder, start):
        shutil.rmtree(staged, ignore_errors=True)  # what cannot be removed does no harm


def _stamp(path: Path) -> tuple[int, int] | None:
    """What no two saves give a file, even of the same bytes; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _config_bytes(folder: Path) -> bytes:
    path = folder / CONFIG
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "it does not exist"
        raise AdapterError(f"no adapter at {folder}: {found}; give the folder that was saved to")
    if not path.is_file():  # says no to pipes and devices too, which could block for ever
        names = _listed([f"{name!r:.80}" for name in sorted(os.listdir(folder))]) or "nothing"
        raise AdapterError(f"no adapter in {folder}: it has no file {CONFIG}; it holds {names}")
    with open(path, "rb") as file:
        data = file.read(_MAX_CONFIG_BYTES + 1)
    if len(data) > _MAX_CONFIG_BYTES:
        raise AdapterError(
            f"{path} is larger than {_MAX_CONFIG_BYTES:,} bytes, so it is not a file that Gossamer wrote; save again"
        )
    return data


def parse(data: bytes, path: Path) -> dict[str, Any]:
    """An object of strict JSON, of bounded depth; AdapterError that names the file for anything else."""
    try:
        config = strict_json(data.decode("utf-8"))
    except RecursionError:
        raise AdapterError(f"{path} is nested more than {_MAX_DEPTH} levels deep; nothing Gossamer writes is") from None
    except ValueError as error:
        raise AdapterError(f"{path} is not valid JSON: {error}; correct it or save the adapter again") from error
    _check_json(config, str(path))
    if not isinstance(config, dict):
        raise AdapterError(f"{path} should hold a JSON object and holds a {type(config).__name__}; save again")
    return config


def _check_own_fields(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record of the tensor file, once the fields that storage wrote are as storage writes them."""
    version = config.get("gossamer_version")
    if not isinstance(version, str) or "format" not in config:
        hint = "; it looks like one of peft: load it with peft" if "peft_type" in config else ""
        raise AdapterError(
            f"{path} is not the configuration of a Gossamer adapter: no 'format' and 'gossamer_version'{hint}"
        )
    if type(config["format"]) is not int or config["format"] != FORMAT:
        raise AdapterError(
            f"{path} has format {config['format']!r:.80}, written by Gossamer {version!r:.40}; this is {__version__}, "
            f"which reads format {FORMAT}: install the version that wrote it, or save again with this one"
        )
    for field, name in (("tensors", TENSORS), ("card", CARD)):
        record: Any = config.get(field)
        where = f"{path}, {field!r}"
        check_fields(record, ("file", "sha256", "bytes"), where)
        if record["file"] != name:
            raise AdapterError(f"{where} names the file {record['file']!r:.80}; it can only be {name!r}")
        if not isinstance(record["sha256"], str) or type(record["bytes"]) is not int:
            raise AdapterError(f"{where} should hold a SHA-256 and a number of bytes; save again")
    return config["tensors"]


def _load_tensors(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    # Hidden folders first: a file moves out of one, so that a reader who looks in this order cannot miss it.
    for path in [staged / TENSORS for staged in _staged_in(folder, _STAGED)]:
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size == record["bytes"]:
                data = path.read_bytes()
                if hashlib.sha256(data).hexdigest() == record["sha256"]:
                    return unpack(data, path)
    path = folder / TENSORS
    if not path.is_file():
        raise AdapterError(f"{path} is missing; {CONFIG} is there, so copy the whole folder again")
    size = path.stat().st_size
    if size != record["bytes"]:
        raise AdapterError(
            f"{path} is {size:,} bytes long and {CONFIG} records {record['bytes']:,}: it was cut short or replaced; "
            "copy the whole folder again, or save again"
        )
    data = path.read_bytes()
    tensors = unpack(data, path)
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise AdapterError(
            f"{path} was altered after it was saved: its SHA-256 is not the one in {CONFIG}; copy the whole folder "
            "again, or save again"
        )
    return tensors


def unpack(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, all finite; AdapterError for anything else."""
    try:
        tensors = safetensors.torch.load(data)
    except _UNREADABLE as error:
        raise AdapterError(f"{path} is not a safetensors file: {error}; copy the whole folder again") from error
    for name, tensor in tensors.items():
        check_finite(name, tensor, str(path), "such an adapter answers nothing; take an earlier save")
    return tensors


def _listed(problems: list[str]) -> str:
    more = len(problems) - _SHOWN
    return ", ".join(problems[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
