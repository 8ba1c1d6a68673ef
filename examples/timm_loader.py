"""timm's data sets, augmentation and loader, as its own training script has them, around an adapted model of timm.

python examples/timm_loader.py --data photos/train --model vit_small_patch16_224.augreg_in21k    # photos/train/CLASS/*.jpg
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch.nn import functional as F

import gossamer as gm


def main() -> None:
    """Adapts, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with a folder of images for each class")
    parser.add_argument("--model", default="vit_small_patch16_224.augreg_in21k", help="a model of timm")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--scratch", action="store_true", help="random weights, to try it without a network")
    parser.add_argument("--output", default="runs/timm")
    chosen = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = create_dataset("", root=chosen.data)
    classes = len(images.reader.class_to_idx)
    model = timm.create_model(chosen.model, pretrained=not chosen.scratch, num_classes=classes, img_size=chosen.size)
    told = timm.data.resolve_model_data_config(model)
    loader = create_loader(
        images, (3, chosen.size, chosen.size), batch_size=16, is_training=True, use_prefetcher=False, mean=told["mean"],
        std=told["std"], hflip=0.5, color_jitter=0.2, num_workers=0, device=device,
    )  # fmt: skip

    adapted = gm.adapt(model, gm.VPT(prompts=10)).to(device)  # its own head, which timm has made anew
    optimizer = create_optimizer_v2(adapted, opt="adamw", lr=1e-3, weight_decay=0.01)
    for epoch in range(chosen.epochs):
        adapted.train()
        for pixels, labels in loader:
            loss = F.cross_entropy(adapted(pixels.to(device)), labels.to(device))  # an image alone: timm's own logits
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: last loss {float(loss.detach()):.3f}")
    adapted.eval().save_pretrained(chosen.output)


if __name__ == "__main__":
    main()
