"""Prompt condensation (PC): of many trained prompts, those that matter are kept, and the others deleted (docs/pc.md)."""

from gossamer.condensation.condense import RANKINGS, Condensed, condense, cut, number, select

__all__ = ["RANKINGS", "Condensed", "condense", "cut", "number", "select"]
