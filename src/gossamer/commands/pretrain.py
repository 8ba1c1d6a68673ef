"""`gossamer pretrain`: makes one of the small pre-trained models that no registry carries."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gossamer.documents import read_json
from gossamer.made import PRETRAINED


def command(arguments: Sequence[str]) -> None:
    """Trains what is not there yet, and prints its scores on held-out images and the hash of its weights."""
    parser = argparse.ArgumentParser(
        prog="gossamer pretrain",
        description="Pre-train a small model on captions of drawings or garments, once, into the cache.",
        epilog="Interrupted, the same command continues.",
    )
    parser.add_argument("model", choices=PRETRAINED, help="; ".join(f"{n}: {about}" for n, about in PRETRAINED.items()))
    asked = parser.parse_args(arguments)
    from gossamer.carriers import sha256
    from gossamer.pretraining import aligning, denoising
    from gossamer.pretraining.pretrain import RECORD, pretrain

    others = {aligning.NAME: aligning.align, denoising.NAME: denoising.denoise}
    folder = others[asked.model]() if asked.model in others else pretrain(asked.model)
    found = read_json(folder / RECORD)["held_out"]
    for what, share in found.items():
        print(f"{what:<10}{share:>8.1%}")
    print(f"SHA-256 of the weights {sha256(next(folder.glob('*.safetensors')))}")
    print(f"{asked.model} is in {folder}; use it by its name")
