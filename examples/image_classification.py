"""Teach a vision transformer to classify images with VPT, on the plain Hugging Face Trainer, from loading to predicting.

    python examples/image_classification.py --data photos              # photos/train/CLASS/*.jpg, photos/test/CLASS/*.jpg
    python examples/image_classification.py --data digits --size 56    # a set that comes with scikit-learn, some minutes

The same with a warm start, resuming, learning curves and a report: gossamer train examples/image_classification.yaml
"""

from __future__ import annotations

import argparse

import torch
from transformers import Trainer, TrainingArguments

import gossamer as gm


def main() -> None:
    """Loads, adapts, trains, scores, saves, loads again, predicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images, an offline set, or a data set of the hub")
    parser.add_argument("--model", default="dinov2-small", help="a model of the zoo or hub, or a folder")
    parser.add_argument("--size", type=int, default=84, help="pixels a side")
    parser.add_argument("--prompts", type=int, default=10, help="learnt tokens in every block")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--output", default="runs/example")
    chosen = parser.parse_args()

    # Images with labels, a part of them held out, and how they become tensors.
    images = gm.data.load(chosen.data, "train")
    train, held_out = gm.data.split(images, fraction=0.2)
    prepare = gm.data.Preprocessing(size=chosen.size)

    # A pre-trained backbone, frozen; prompts in every block and a new head, trainable.
    torch.manual_seed(0)
    model = gm.zoo.load(chosen.model, task="image-classification", num_labels=len(images.classes))
    adapted = gm.adapt(model, gm.VPT(prompts=chosen.prompts), num_labels=len(images.classes))
    print(adapted.cost(image_size=chosen.size))

    # The Trainer as it is: it sees a model with a loss, and its checkpoints hold the adapter only.
    arguments = TrainingArguments(
        output_dir=f"{chosen.output}/checkpoints",
        num_train_epochs=chosen.epochs,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
    trainer = Trainer(
        adapted, arguments, train_dataset=train, eval_dataset=held_out, data_collator=gm.data.Collate(prepare)
    )
    trainer.train()

    # What must be known to use the adapter later travels with it.
    adapted.metadata |= {
        "labels": list(images.classes),
        "preprocessing": prepare.to_dict(),
        "task": "image-classification",
    }
    adapted.save_pretrained(f"{chosen.output}/adapter")

    # Somewhere else, later: the folder is all that is needed (and the backbone, which it names).
    again = gm.load(f"{chosen.output}/adapter")
    scores = gm.evaluate.evaluate(again, held_out)
    print(f"held-out accuracy {scores.accuracy:.1%} of {scores.n} images, balanced {scores.balanced_accuracy:.1%}")
    with torch.no_grad():
        shares = again(pixel_values=prepare(held_out[0]["image"])[None]).logits.softmax(1)[0]
    print(f"{held_out.describe(0)}: {again.metadata['labels'][int(shares.argmax())]} ({float(shares.max()):.1%})")


if __name__ == "__main__":
    main()
