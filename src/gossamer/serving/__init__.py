"""A small HTTP server of image classifiers that share backbones."""
