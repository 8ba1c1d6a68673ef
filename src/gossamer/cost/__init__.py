"""What an adapted model costs: by closed form, counted on the meta device, and on the clock."""

from gossamer.cost.sheet import CostSheet, Macs, cost

__all__ = ["CostSheet", "Macs", "cost"]
