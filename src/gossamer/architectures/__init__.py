"""Published architectures by name, as shapes without weights: enough to know what they cost.

One JSON file each, `NAME.json`: where it was published, the transformers class, and what its configuration says. A new file is a
new name.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gossamer.documents import expanded
from gossamer.errors import MissingPackage, UserError
from gossamer.zoo import denoisers
from gossamer.zoo.sources import config as config_of
from gossamer.zoo.sources import read_by_library

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names that `build` knows, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def build(name: str, image_size: int | None = None, **overrides: Any) -> nn.Module:
    """A model on the meta device, in evaluation mode: all shapes, no weights, no memory.

    Args:
        name: one of `names()` or the beginning of exactly one; a config.json or a folder with one (of transformers or timm);
            a model of the zoo or of the Hugging Face hub, of which only the configuration is fetched.
        image_size: pixels a side. Only models of timm are made for one size; others are built as published and run at any.
        overrides: other values for fields of the configuration.

    Raises:
        ValueError: nothing has this name, the configuration is of no known library, or has no such field.
        ConnectionError: the hub would be needed and cannot be reached.
    """
    found = [n for n in names() if n == name] or [n for n in names() if n.startswith(name)]
    if len(found) == 1:
        named = json.loads((FOLDER / f"{found[0]}.json").read_text(encoding="utf-8"))
        if "model_type" not in named["config"]:
            return of_diffusers(named["class"], named["config"], overrides)
        return of_transformers(named["class"], named["config"], named.get("arguments", {}), overrides)
    config = config_of(_config_file(name))
    if "_class_name" in config:
        return of_diffusers(config["_class_name"], config, overrides)
    if "architecture" in config and "model_type" not in config:
        published = {k: config[k] for k in ("num_classes", "global_pool") if k in config}
        sized = {} if image_size is None else {"img_size": image_size}
        return of_timm(config["architecture"], {**published, **config.get("model_args", {}), **sized, **overrides})
    return _published(name, config, overrides)


def _config_file(name: str) -> Path:
    from gossamer import zoo

    path = expanded(name)
    if path.is_file():
        return path
    if path.is_dir() or name in zoo.names():
        return zoo.resolve(name) / "config.json"
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(
            f"no architecture {name!r}: there are {', '.join(names())}, config files, folders and hub names"
        )
    from huggingface_hub import errors, hf_hub_download

    offline = zoo.offline_reason()
    try:
        return Path(hf_hub_download(name, "config.json", local_files_only=offline is not None))
    except errors.LocalEntryNotFoundError as error:
        reason = offline or "the hub did not answer"
        raise ConnectionError(f"the configuration of {name} is not on this machine, and {reason}") from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise UserError(f"no configuration of {name!r} on the hub, and no architecture {', '.join(names())}") from error


def _published(name: str, config: dict[str, Any], overrides: dict[str, Any]) -> nn.Module:
    """A configuration in the form of transformers: its first class, or the plain model of its kind."""
    import transformers

    from gossamer import models

    kind = config.get("model_type")
    published = (config.get("architectures") or [""])[0]
    models.register()
    if kind not in transformers.CONFIG_MAPPING:
        raise UserError(f"{name}: model_type is {kind!r}, which transformers {transformers.__version__} does not know")
    return of_transformers(published if models.find(published) else "AutoModel", config, {}, overrides)


def of_transformers(
    kind: str, config: dict[str, Any], arguments: dict[str, Any], overrides: dict[str, Any]
) -> nn.Module:
    """A model of transformers, or one of ours in its style, by the name of its class."""
    import transformers

    from gossamer import models
    from gossamer.quiet import quiet

    model_class: Any = models.find(kind)
    config_class = transformers.CONFIG_MAPPING[config["model_type"]]
    for field in overrides:
        if not hasattr(config_class(), field):
            raise UserError(f"{config_class.__name__} has no field {field!r}")
    with read_by_library(f"of {kind} with this configuration"):
        values = config_class.from_dict({**config, **overrides})
    with quiet(), torch.device("meta"), read_by_library(f"of {kind} with this configuration"):
        make = model_class.from_config if kind == "AutoModel" else model_class
        return make(values, **arguments).eval()


def of_diffusers(kind: str, config: dict[str, Any], overrides: dict[str, Any]) -> nn.Module:
    """A model of diffusers by the name of its class."""
    model_class = denoisers.kind(kind)
    fields = inspect.signature(model_class.__init__).parameters
    for field in overrides:
        if field not in fields:
            raise UserError(f"{kind} has no setting {field!r}")
    values = {name: value for name, value in config.items() if not name.startswith("_")}
    with torch.device("meta"), read_by_library(f"of {kind} with this configuration"):
        return model_class.from_config({**values, **overrides}).eval()


def of_timm(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """A model of timm by the name of its architecture."""
    try:
        import timm
    except ImportError as error:
        raise MissingPackage(f"{architecture} is a model of timm: pip install 'gossamer[timm]'") from error
    if not timm.is_model(architecture):
        raise UserError(f"timm {timm.__version__} has no architecture {architecture!r}")
    with torch.device("meta"), read_by_library(f"{architecture} with {arguments}"):
        return timm.create_model(architecture, pretrained=False, **arguments).eval()
