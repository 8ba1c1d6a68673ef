"""`gossamer cost`: the cost sheet of a model with methods, from names alone."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gossamer.documents import parse_yaml
from gossamer.errors import UserError

if TYPE_CHECKING:
    from gossamer.methods.base import Method

SIZES = ("image_size", "tokens", "batch", "steps", "guidance")
SETTINGS = (*SIZES, "num_labels")  # what may be set besides the fields of the methods


def command(arguments: Sequence[str]) -> None:
    """Prints the cost sheet of a model with methods."""
    parser = argparse.ArgumentParser(
        prog="gossamer cost",
        description="Parameters, multiply-adds and training FLOPs of a model with a method. No weights are read.",
        epilog="example: gossamer cost --model vit-b16 --method vpt prompts=100 image_size=224",
    )
    parser.add_argument(
        "--model", required=True, help="an architecture such as vit-b16, a config.json, a folder, a hub name"
    )
    parser.add_argument(
        "--method", action="append", default=[], help="vpt, adapter, ..., peft; may be given more than once"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="NAME=VALUE", help="image_size, tokens, steps, num_labels, and the method's own"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_intermixed_args(arguments)
    settings = {}
    for token in asked.settings:
        name, equals, value = token.partition("=")
        if not equals:
            raise UserError(f"{token!r} is no setting; settings are NAME=VALUE, such as prompts=100")
        settings[name] = value
    print(answer(asked.model, asked.method, settings, asked.json))


def answer(model: str, method: list[str], settings: dict[str, Any], as_json: bool) -> str:
    """The answer of `gossamer cost`: a table, or JSON.

    Args:
        model: an architecture of `gossamer.architectures`, a config.json, a folder, or a model of the hub; no weights are read.
        method: names of methods ("vpt", "adapter", ..., "peft"); none for the bare backbone.
        settings: image_size, tokens, batch, steps, guidance, num_labels, and any field of these methods; strings are read as YAML.
        as_json: the sheet as JSON.

    Raises:
        ValueError: a name or a setting that is not known; the message lists what is.
    """
    from gossamer import architectures
    from gossamer.adapting import adapt
    from gossamer.cost import cost

    settings = {k: parse_yaml(v, f"{k}={v}") if isinstance(v, str) else v for k, v in settings.items()}
    for name in ("image_size", "num_labels"):
        value = settings.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(f"{name} must be a whole number from 1 on, got {value!r}")
    applied = _chosen(method, settings)
    backbone = architectures.build(model, image_size=settings.get("image_size"))
    labels = settings.get("num_labels")
    if labels is not None and not applied:
        raise UserError(f"num_labels={labels} asks for a head, which comes with a method: add --method linear_probe")
    adapted = adapt(backbone, applied, num_labels=labels) if applied else backbone
    sizes = {k: settings[k] for k in SIZES if k in settings}
    sheet = dataclasses.replace(cost(adapted, **sizes), model=model)
    return json.dumps(sheet.to_dict(), indent=2) if as_json else str(sheet)


def _chosen(names: list[str], settings: dict[str, Any]) -> list[Method]:
    from gossamer import methods

    fields = {name: _fields(name, settings.get("peft_type")) for name in names}
    known = {*SETTINGS, *(f for found in fields.values() for f in found)}
    for key in settings:
        if key not in known:
            of_methods = "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in fields.items())
            raise UserError(
                f"no setting {key!r}; cost has {', '.join(SETTINGS)}; {of_methods or 'no method was named'}"
            )
    values = [{"method": n, **{k: v for k, v in settings.items() if k in found}} for n, found in fields.items()]
    return [methods.from_dict(v) for v in values]


def _fields(name: str, peft_type: str | None) -> list[str]:
    if name == "peft":
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        config = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)  # type: ignore[arg-type]  # its keys are strings as well
        return (
            ["peft_type", *(f.name for f in dataclasses.fields(config) if f.name != "peft_type")]
            if config
            else ["peft_type"]
        )
    from gossamer.methods import METHODS

    found = METHODS.get(name)
    return [f.name for f in dataclasses.fields(found)] if found else []  # type: ignore[arg-type]
