"""An adapted model in Lightning: a module like any other, of whose optimizer only what is trained is told.

pip install lightning
python examples/lightning_module.py --data photos --size 84        # photos/train/CLASS/*.jpg
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import gossamer as gm


class Classifier(lightning.LightningModule):
    """Trains an adapted model by its own loss."""

    def __init__(self, adapted: gm.Adapted):
        super().__init__()
        self.adapted = adapted

    def on_train_epoch_start(self) -> None:
        """Methods and head in training mode; the frozen backbone stays in evaluation mode."""
        self.adapted.train()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        loss: Tensor = self.adapted(**batch).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW over what is trained."""
        return torch.optim.AdamW(self.adapted.trainable().values(), lr=1e-2)


def main() -> None:
    """Adapts, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images, an offline set, or a data set of the hub")
    parser.add_argument("--model", default="dinov2-small", help="a model of the zoo or hub, or a folder")
    parser.add_argument("--size", type=int, default=84, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", default="runs/lightning")
    chosen = parser.parse_args()

    lightning.seed_everything(0)
    images = gm.data.load(chosen.data, "train")
    collate = gm.data.Collate(gm.data.Preprocessing(size=chosen.size))
    loader = DataLoader(images, batch_size=16, shuffle=True, collate_fn=collate)
    adapted = gm.adapt(gm.zoo.load(chosen.model), gm.VPT(prompts=10), num_labels=len(images.classes))
    lightning.Trainer(max_epochs=chosen.epochs, logger=False).fit(Classifier(adapted), loader)
    adapted.eval().save_pretrained(chosen.output)


if __name__ == "__main__":
    main()
