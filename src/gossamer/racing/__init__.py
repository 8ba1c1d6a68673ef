"""Races: which arms of a method are best, decided by short runs of the very thing that is trained afterwards."""
