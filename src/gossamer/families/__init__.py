"""Backbone families: where parts sit. One file each, with its `STACKS`; every file of this folder is known."""

import importlib
import pkgutil

from gossamer.anatomy.stack import Stack

FAMILIES: tuple[Stack, ...] = tuple(
    stack
    for file in pkgutil.iter_modules(__path__)
    for stack in importlib.import_module(f"{__name__}.{file.name}").STACKS
)
