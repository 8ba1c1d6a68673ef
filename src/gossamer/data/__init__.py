"""Labelled images from folders, from data sets of the hub or of files, and from small real sets that need no hub.

train = data.load("photos", "train")              # photos/train/CLASS/*.jpg
test = data.load("elpv", "test")                   # a set that a package carries
train, held = data.split(train, fraction=0.2)      # for choosing settings
DataLoader(train, collate_fn=data.Collate(data.Preprocessing(size=224)))
"""

from gossamer.data.images import ImageDataset, open_image, to_rgb
from gossamer.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Collate, Preprocessing
from gossamer.data.sets import load, offline_names, splits
from gossamer.data.stratify import split, stratified

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Collate",
    "ImageDataset",
    "Preprocessing",
    "load",
    "offline_names",
    "open_image",
    "split",
    "splits",
    "stratified",
    "to_rgb",
]
