"""Comparisons: methods at equal budgets, seed by seed, and what statistics say of them."""

from typing import TYPE_CHECKING

from nasplug._late import late

if TYPE_CHECKING:
    from nasplug.comparison.api import ablate, compare
    from nasplug.comparison.result import Comparison

__all__ = ["Comparison", "ablate", "compare"]

__getattr__ = late(
    __name__,
    {
        "ablate": "nasplug.comparison.api",
        "compare": "nasplug.comparison.api",
        "Comparison": "nasplug.comparison.result",
    },
)
