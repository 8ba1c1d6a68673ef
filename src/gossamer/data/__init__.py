"""Labelled images and texts about images: from folders, hub and files, as published benchmarks, and from sets that need no hub.

train = data.load("photos", "train")              # photos/train/CLASS/*.jpg
test = data.load("elpv", "test")                   # a set that a package carries
few = data.load("vtab/dtd", "trainval", path="/data/vtab-1k")       # a published benchmark
questions = data.load_image_text("vqav2", "val", path="/data/vqav2")  # one of texts about images
train, held = data.split(train, fraction=0.2)      # for choosing settings
DataLoader(train, collate_fn=data.Collate(data.Preprocessing(size=224)))
"""

from gossamer.data.captioned import CaptionedImages, caption_splits, has_captions, load_captions, load_subject
from gossamer.data.image_text import Example, ImageTextDataset
from gossamer.data.images import ImageDataset, joined, open_image, to_rgb
from gossamer.data.masks import MaskDataset
from gossamer.data.preprocess import Collate, Preprocessing
from gossamer.data.registry import (
    CAPTION_SETS,
    IMAGE_TEXT_SETS,
    MASK_SETS,
    has_masks,
    load_image_text,
    load_masks,
    mask_set_splits,
)  # fmt: skip
from gossamer.data.sets import load, names, offline_names, require_apart, splits
from gossamer.data.stratify import keep_classes, split, stratified
from gossamer.pixels import IMAGENET_MEAN, IMAGENET_STD

__all__ = [
    "CAPTION_SETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_TEXT_SETS",
    "MASK_SETS",
    "CaptionedImages",
    "Collate",
    "Example",
    "ImageDataset",
    "ImageTextDataset",
    "MaskDataset",
    "Preprocessing",
    "caption_splits",
    "has_captions",
    "has_masks",
    "joined",
    "keep_classes",
    "load",
    "load_captions",
    "load_image_text",
    "load_masks",
    "load_subject",
    "mask_set_splits",
    "names",
    "offline_names",
    "open_image",
    "require_apart",
    "split",
    "splits",
    "stratified",
    "to_rgb",
]
