"""A set of `datasets` that is streamed while the Hugging Face Trainer trains, never whole in memory or on the disk.

python examples/streaming.py --data cifar10 --image img --label label --classes 10 --steps 500
python examples/streaming.py --data imagefolder --folder photos --classes 4 --steps 200    # photos/train/CLASS/*.jpg
python examples/streaming.py ... --report_to tensorboard                                   # curves in OUTPUT/runs
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from datasets import load_dataset
from transformers import Trainer, TrainingArguments

import gossamer as gm


def main() -> None:
    """Streams, adapts, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, help="a data set of the hub, or a builder of datasets such as imagefolder"
    )
    parser.add_argument("--folder", help="of a builder")
    parser.add_argument("--image", default="image", help="column of images")
    parser.add_argument("--label", default="label", help="column of labels")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--model", default="dinov2-small", help="a model of the zoo or hub, or a folder")
    parser.add_argument("--size", type=int, default=84, help="pixels a side")
    parser.add_argument("--steps", type=int, default=100, help="a stream has no length, so training has")
    parser.add_argument(
        "--report_to", default="none", help="tensorboard, wandb, mlflow, ...: trackers that are installed"
    )
    parser.add_argument("--output", default="runs/streaming")
    chosen = parser.parse_args()

    torch.manual_seed(0)
    options = {"data_dir": chosen.folder} if chosen.folder else {}
    stream = load_dataset(chosen.data, split="train", streaming=True, **options).shuffle(seed=0, buffer_size=1000)
    prepare = gm.data.Preprocessing(size=chosen.size)

    def ready(row: dict[str, Any]) -> dict[str, Any]:
        return {"pixel_values": prepare(row[chosen.image]), "labels": row[chosen.label]}

    adapted = gm.adapt(gm.zoo.load(chosen.model), gm.VPT(prompts=10), num_labels=chosen.classes)
    arguments = TrainingArguments(
        output_dir=chosen.output,
        max_steps=chosen.steps,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        save_strategy="no",
        logging_steps=5,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=chosen.report_to,
    )
    Trainer(adapted, arguments, train_dataset=stream.map(ready, remove_columns=[chosen.image, chosen.label])).train()
    adapted.eval().save_pretrained(f"{chosen.output}/adapter")


if __name__ == "__main__":
    main()
