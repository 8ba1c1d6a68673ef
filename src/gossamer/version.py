"""The version of this package: in a file of its own, so that what stands below the public surface can say it."""

__version__ = "0.2.0"
