"""The same in a plain PyTorch loop: what an adapted model trains is `requires_grad`, and its loss comes with labels.

python examples/plain_loop.py --data photos --size 84              # photos/train/CLASS/*.jpg
"""

from __future__ import annotations

import argparse

import torch
from torch.utils.data import DataLoader

import gossamer as gm


def main() -> None:
    """Adapts, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images, an offline set, or a data set of the hub")
    parser.add_argument("--model", default="dinov2-small", help="a model of the zoo or hub, or a folder")
    parser.add_argument("--size", type=int, default=84, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", default="runs/plain")
    chosen = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = gm.data.load(chosen.data, "train")
    collate = gm.data.Collate(gm.data.Preprocessing(size=chosen.size))
    loader = DataLoader(images, batch_size=16, shuffle=True, collate_fn=collate)

    adapted = gm.adapt(gm.zoo.load(chosen.model), gm.VPT(prompts=10), num_labels=len(images.classes)).to(device)
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=chosen.epochs * len(loader))
    for epoch in range(chosen.epochs):
        adapted.train()  # methods and head; the frozen backbone stays in evaluation mode
        total = 0.0
        for batch in loader:
            loss = adapted(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += float(loss.detach()) * len(batch["labels"])
        print(f"epoch {epoch + 1}: loss {total / len(images):.3f}")
    adapted.eval().save_pretrained(chosen.output)


if __name__ == "__main__":
    main()
