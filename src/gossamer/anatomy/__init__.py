"""Where the parts of a transformer sit, and the verbs a method may use on them."""

from gossamer.anatomy.anatomy import Anatomy, Branch
from gossamer.anatomy.changes import VERBS
from gossamer.anatomy.places import STACK_ORDER

__all__ = ["STACK_ORDER", "VERBS", "Anatomy", "Branch"]
