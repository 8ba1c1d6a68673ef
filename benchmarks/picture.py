"""The picture of the README: what deep prompts cost on ViT-B/16 at 224, as tokens and in the exact form, by closed form.

python benchmarks/picture.py    # writes docs/deep_prompts.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

import gossamer as gm
from gossamer import architectures

PROMPTS = range(0, 201, 10)
TOKENS = {"vision": 197}
PATCHES = 196 * 768 * 3 * 16 * 16  # multiply-adds of the patch embedding


def main(path: Path = Path(__file__).parent.parent / "docs" / "deep_prompts.png") -> None:
    anatomy = gm.read(architectures.build("vit-b16"))
    bare = PATCHES + sum(block.sizes.macs(TOKENS["vision"]) for block in anatomy.blocks())
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for form, label in (
        ("sequence", "prompts as tokens (as published)"),
        ("exact", "Gossamer's exact form: same outputs"),
    ):
        added = [gm.VPT(prompts=p, form=form).macs(anatomy, TOKENS) for p in PROMPTS]
        axes.plot(list(PROMPTS), [(bare + a) / 1e9 for a in added], marker=".", label=label)
    axes.axhline(bare / 1e9, color="grey", linestyle=":", label="bare ViT-B/16")
    axes.set(xlabel="deep prompts per block", ylabel="GMACs per image", ylim=(0, None))
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
