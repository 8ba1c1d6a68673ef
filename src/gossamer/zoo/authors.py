"""Self-supervised vision transformers as their authors publish them: one .pth file, whose tensors become a folder in timm's layout.

`zoo.load("moco-v3:vit-b-300ep.pth.tar")`: the name of the authors' layout, a colon, the file. Only tensors and plain containers are
read from it; what else a checkpoint can hold is refused, never run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gossamer.carriers import sha256
from gossamer.documents import expanded
from gossamer.errors import UserError
from gossamer.models.checkpoints import contents
from gossamer.zoo import cache


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one publication stores its backbone.

    Attributes:
        about: authors, title, source.
        inside: name of the dictionary that holds the tensors, or None where the file is that dictionary.
        prefix: of the backbone's tensors; others belong to parts that pre-training alone uses.
        dropped: beginnings of names, after the prefix, that are no part of the backbone: projection heads.
        pool: what is read out: "token" the class token, "avg" the mean of the other tokens, before the last norm.
        heads: attention heads by width.
    """

    about: str
    inside: str | None = None
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    pool: str = "token"
    heads: dict[int, int]


_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
LAYOUTS = {
    "moco-v3": Layout(
        about="X. Chen, S. Xie, K. He: An Empirical Study of Training Self-Supervised Vision Transformers, arXiv 2104.02057",
        inside="state_dict",
        prefix="module.base_encoder.",
        dropped=("head.",),
        heads={**_HEADS, 384: 12},
    ),
    "dino": Layout(
        about="M. Caron et al.: Emerging Properties in Self-Supervised Vision Transformers, arXiv 2104.14294",
        dropped=("head.",),
        heads=_HEADS,
    ),
    "mae": Layout(
        about="K. He et al.: Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377",
        inside="model",
        dropped=("decoder_", "decoder.", "mask_token"),
        pool="avg",
        heads=_HEADS,
    ),
}


def of(name: str) -> tuple[Layout, Path] | None:
    """The layout and the file that a name such as "mae:mae_pretrain_vit_base.pth" means; None for other names."""
    kind, colon, file = name.partition(":")
    return (LAYOUTS[kind], expanded(file)) if colon and kind in LAYOUTS else None


def resolve(name: str, layout: Layout, file: Path) -> Path:
    """Cache folder of the converted checkpoint: config.json and model.safetensors in timm's layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read safely, or does not hold what the layout says.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{name}: there is no file {file}")
    digest = sha256(file)

    def build(folder: Path) -> None:
        from safetensors.torch import save_file

        tensors = backbone(_read(file), layout, name)
        (folder / "config.json").write_text(json.dumps(config(tensors, layout), indent=1), encoding="utf-8")
        save_file(tensors, folder / "model.safetensors")

    return cache.entry(f"{name.partition(':')[0]}-{digest[:16]}", {"file": digest}, build)


def backbone(stored: dict[str, Any], layout: Layout, name: str) -> dict[str, Tensor]:
    """The backbone's tensors under timm's names, contiguous float32.

    Raises:
        ValueError: the dictionary is not there, or holds no such backbone; the message says what was found.
    """
    if layout.inside is not None:
        if layout.inside not in stored:
            raise UserError(f"{name}: expected the tensors under {layout.inside!r}, found {_some(stored)}")
        stored = stored[layout.inside]
        if not isinstance(stored, dict):
            raise UserError(f"{name}: {layout.inside!r} holds a {type(stored).__name__}, not tensors by name")
    own = {key.removeprefix(layout.prefix): t for key, t in stored.items() if str(key).startswith(layout.prefix)}
    own = {key: t for key, t in own.items() if isinstance(t, Tensor) and not key.startswith(layout.dropped or ("\0",))}
    missing = [k for k in ("cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight") if k not in own]
    if missing or not any(key.startswith("blocks.0.") for key in own):
        raise UserError(
            f"{name}: no vision transformer in it ({', '.join(missing or ['blocks'])} not there); its names are {_some(stored)}"
        )
    if layout.pool == "avg":  # timm keeps the norm after the mean under a name of its own
        own = {re.sub(r"^norm\.", "fc_norm.", key): tensor for key, tensor in own.items()}
    return {key: tensor.float().contiguous() for key, tensor in own.items()}


def config(tensors: dict[str, Tensor], layout: Layout) -> dict[str, Any]:
    """timm's config.json for these tensors: sizes are read off their shapes.

    Raises:
        ValueError: a width that was never published, so that the number of heads is unknown.
    """
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5) * patch
    if width not in layout.heads:
        raise UserError(f"width {width}: the heads are known for {', '.join(map(str, layout.heads))} ({layout.about})")
    depth = 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks."))
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": 0,
        "global_pool": layout.pool,
        "model_args": {
            "img_size": side,
            "patch_size": patch,
            "embed_dim": width,
            "depth": depth,
            "num_heads": layout.heads[width],
            "mlp_ratio": hidden / width,
            "global_pool": layout.pool,
        },
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "url": "",
            "license": "",
        },
    }


def _read(file: Path) -> dict[str, Any]:
    found = contents(file)
    if not isinstance(found, dict):
        raise UserError(f"{file} holds a {type(found).__name__}, not a dictionary of tensors")
    return found


def _some(stored: dict[str, Any]) -> str:
    names = [str(key) for key in stored]
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
