"""Models that `gossamer pretrain` makes on this machine; they are never trained unasked."""

PRETRAINED = {
    "vilt-small-easy": "ViLT-S of DINOv2-S and MiniLM's words, about 25 minutes on one CPU core",
    "meter-small-easy": "METER-S of DINOv2-S and MiniLM, about 25 minutes on one CPU core",
    "clip-small-desk": "DINOv2-S and MiniLM aligned on captions of tinted garments, for classes by words, about a minute",
    "diffusion-small-desk": "a UNet that draws garments and digits by captions read by MiniLM, about 12 minutes on one CPU core",
}
"""Name -> what it is and what it costs to make."""
