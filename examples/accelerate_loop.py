"""A loop of accelerate, on any number of processes, each with its part of every batch.

accelerate launch --num_processes 2 examples/accelerate_loop.py --data photos --size 84
accelerate launch --num_processes 2 --cpu examples/accelerate_loop.py --data photos --size 28
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

import gossamer as gm


def main() -> None:
    """Adapts, trains on every process, saves on the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images, an offline set, or a data set of the hub")
    parser.add_argument("--model", default="dinov2-small", help="a model of the zoo or hub, or a folder")
    parser.add_argument("--size", type=int, default=84, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", default="runs/accelerate")
    chosen = parser.parse_args()

    accelerator = Accelerator()
    set_seed(0)  # the same prompts and the same head on every process
    images = gm.data.load(chosen.data, "train")
    collate = gm.data.Collate(gm.data.Preprocessing(size=chosen.size))
    loader = DataLoader(images, batch_size=16, shuffle=True, collate_fn=collate)
    adapted = gm.adapt(gm.zoo.load(chosen.model), gm.VPT(prompts=10), num_labels=len(images.classes))
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(adapted, optimizer, loader)
    for epoch in range(chosen.epochs):
        model.train()
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        mean = accelerator.reduce(loss.detach(), "mean")
        accelerator.print(f"epoch {epoch + 1}: last loss {float(mean):.3f} on {accelerator.num_processes} processes")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).eval().save_pretrained(chosen.output)
    accelerator.end_training()


if __name__ == "__main__":
    main()
