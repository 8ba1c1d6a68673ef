"""The adapted model: how methods get into a backbone and out of it, the module that is trained, and the plain one that is left."""

from gossamer.adapted.finishing import Finished, finish, settle
from gossamer.adapted.module import AdaptedModule
from gossamer.adapted.placement import occupant

__all__ = ["AdaptedModule", "Finished", "finish", "occupant", "settle"]
