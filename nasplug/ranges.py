"""Range: numbers between two as the options of a decision."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np

from nasplug.errors import NasplugError, check_number

DIGITS = 4  # of each number, so that choices print well


def Range(  # noqa: N802
    low: float, high: float, *, log: bool = False, steps: int = 8
) -> tuple[float, ...]:
    """`steps` numbers from low to high, as far apart from each other, or on a log scale: the
    options of a decision of a Space, or of a `nasplug.nn.Choice`.

    Real numbers have four digits. Between whole numbers there are whole numbers, fewer if so many
    are not different.

    >>> Range(1e-4, 1e-1, log=True, steps=4), Range(16, 64, steps=4), Range(1, 3)
    ((0.0001, 0.001, 0.01, 0.1), (16, 32, 48, 64), (1, 2, 3))
    """
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, bool) or not isinstance(bound, Real) or not np.isfinite(bound):
            raise NasplugError(f"{name} of a Range is a number, got {bound!r}")
    if not low < high:
        raise NasplugError(f"Range({low!r}, {high!r}): low is to be less than high")
    if log and low <= 0:
        raise NasplugError(f"Range({low!r}, {high!r}, log=True): low is to be above 0")
    check_number("steps of a Range", steps, 2)
    numbers = np.geomspace(low, high, steps) if log else np.linspace(low, high, steps)
    if isinstance(low, Integral) and isinstance(high, Integral):
        return tuple(np.unique(numbers.round().astype(int)).tolist())
    found = tuple(float(f"{x:.{DIGITS}g}") for x in numbers)
    if len({*found}) < steps:
        raise NasplugError(
            f"Range({low!r}, {high!r}) has no {steps} numbers that differ in {DIGITS} digits: "
            "take fewer steps"
        )
    return found
