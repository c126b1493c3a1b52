"""What a measured figure depends on; every results file holds it."""

from edgeseg.conditions import conditions

__all__ = ["conditions"]
