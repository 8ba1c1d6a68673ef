"""Denoisers of diffusers, which is imported where one is asked for and nowhere else."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gossamer.errors import MissingPackage, UserError
from gossamer.quiet import quiet
from gossamer.zoo.sources import read_by_library


def library(wanted: str) -> Any:
    """The package diffusers.

    Raises:
        MissingPackage: it is not installed; the message says what was `wanted` of it.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise MissingPackage(f"{wanted} is of diffusers: pip install 'gossamer[diffusion]'") from error


def kind(name: str) -> Any:
    """The model class of diffusers that is called so.

    Raises:
        UserError: there is none.
    """
    found = getattr(library(name), name, None)
    if not isinstance(found, type) or not issubclass(found, library(name).ModelMixin):
        raise UserError(f"{name!r:.60} is no model class of diffusers {library(name).__version__}")
    return found


def load(folder: Path, name: str, class_name: str, options: dict[str, Any]) -> Any:
    """A denoiser from its own folder (the `unet` or `transformer` of a pipeline), in evaluation mode, every weight accounted for.

    Raises:
        UserError: some are missing, left over or of another shape.
    """
    options = {("torch_dtype" if option == "dtype" else option): value for option, value in options.items()}
    with quiet(), read_by_library(folder):
        model, report = kind(class_name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True, **options
        )  # fmt: skip
    faults = {what: keys for what, keys in report.items() if keys}
    if faults:
        found = "; ".join(f"{what.replace('_', ' ')}: {', '.join(map(str, keys[:5]))}" for what, keys in faults.items())
        raise UserError(f"the stored weights do not fit {class_name}; {found}")
    model.register_to_config(_name_or_path=name)
    return model.eval()
