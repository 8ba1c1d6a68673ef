"""One backbone, many adapters: batches whose rows are for different ones."""

from gossamer.mixed.mixed import Group, Mixed

__all__ = ["Group", "Mixed"]
