"""The arguments of `gossamer cost`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


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
        "settings", nargs="*", metavar="NAME=VALUE", help="image_size, tokens, num_labels, and the method's own"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_intermixed_args(arguments)
    settings = {}
    for token in asked.settings:
        name, equals, value = token.partition("=")
        if not equals:
            raise ValueError(f"{token!r} is no setting; settings are NAME=VALUE, such as prompts=100")
        settings[name] = value
    from gossamer import cost

    print(cost.command(asked.model, asked.method, settings, asked.json))
