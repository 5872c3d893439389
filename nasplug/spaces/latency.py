"""A table of latencies: what each choice of each decision takes, in ms, which add up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs, Space

Floats = npt.NDArray[np.float64]

UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3}  # in ms


class LatencyTable:
    """(n, d) archs -> (n,) ms: `fixed`, which every network takes, and what its choices add.

    costs: (d, O) ms, where O is the most choices that a decision has; 0 where one has fewer. Of
    isomorphic archs it tells that of their canonical form. about: what else is known of it.
    """

    known = True  # of an arch before it is scored

    def __init__(
        self, space: Space, costs: Floats, fixed: float, about: Mapping[str, Any] | None = None
    ) -> None:
        self.space, self.costs, self.fixed, self.about = space, costs, fixed, dict(about or {})

    def __call__(self, archs: Archs) -> Floats:
        archs = self.space.canonical(archs)
        total: Floats = self.fixed + self.costs[np.arange(self.space.d), archs].sum(1)
        return total

    @classmethod
    def load(cls, space: Space, path: Path | str) -> Self:
        """From JSON; NasplugError if it is of other decisions than the space."""
        try:
            content = json.loads(Path(path).read_text())
        except OSError as error:
            raise NasplugError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise NasplugError(f"{path} is no JSON: {error}") from None
        return cls.of(space, content, str(path))

    @classmethod
    def of(cls, space: Space, content: Any, name: str = "the latency table") -> Self:
        """From what JSON holds: ``{"unit": "ms", "fixed": 1.5, "decisions": {"width": {"8": 0.1,
        "16": 0.3}}}``, with every choice of every decision, and whatever else is to be known."""
        try:
            about = dict(content)
            unit, fixed, decisions = (about.pop(key) for key in ("unit", "fixed", "decisions"))
            decisions = dict(decisions)
        except (TypeError, ValueError, KeyError):
            raise NasplugError(
                f'{name} is no latency table, which has "unit", "fixed" and "decisions": '
                '{"unit": "ms", "fixed": 1.5, "decisions": {"width": {"8": 0.1, "16": 0.3}}}'
            ) from None
        if unit not in UNITS:
            raise unknown("unit of time", str(unit), UNITS, f"in {name}")
        costs = np.zeros((space.d, int(space.cardinalities.max())))
        for row, (decision, choices) in zip(costs, space.decisions.items(), strict=True):
            texts = [str(choice) for choice in choices]
            times = decisions.get(decision)
            if not isinstance(times, dict) or {*times} != {*texts}:
                found = f"has {', '.join(times)}" if isinstance(times, dict) else "lacks it"
                raise NasplugError(
                    f"{name} is of another space: decision {decision!r} of {space.name} has the "
                    f"choices {', '.join(texts)}, and the table {found}"
                )
            row[: len(texts)] = [_number(times[text], name) for text in texts]
        if other := set(decisions) - set(space.names):
            raise NasplugError(
                f"{name} is of another space: {space.name} has no decision {min(other)!r}"
            )
        scale = UNITS[unit]
        return cls(space, scale * costs, scale * _number(fixed, name), about)

    @property
    def content(self) -> dict[str, Any]:
        """What `of` reads."""
        decisions = {
            name: dict(zip(map(str, choices), row.tolist(), strict=False))
            for (name, choices), row in zip(self.space.decisions.items(), self.costs, strict=True)
        }
        return {**self.about, "unit": "ms", "fixed": self.fixed, "decisions": decisions}

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(self.content, indent=1) + "\n")


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NasplugError(f"{name}: a latency is a number, got {value!r}")
    return float(value)
