"""Numbers about images that settings and preprocessing share; no torch, so that help and mistakes in a run file cost no time."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIZE = 8192  # settings come with adapters of others: no tensor beyond a GiB an image
