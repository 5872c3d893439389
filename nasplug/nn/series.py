"""Series of the UEA archive, in the .ts files that `aeon` brings; it is not imported."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError

Floats = npt.NDArray[np.float64]
Parts = tuple[tuple[Floats, list[str]], tuple[Floats, list[str]]]


def folder(name: str) -> Path | None:
    """Where the files of a data set lie: under NASPLUG_DATA or in `aeon`, if anywhere."""
    aeon = find_spec("aeon")
    within = [Path(os.environ.get("NASPLUG_DATA") or "/nowhere")]
    if aeon is not None and aeon.origin is not None:
        within.append(Path(aeon.origin).parent / "datasets" / "data")
    there = (place / name for place in within)
    return next((place for place in there if (place / f"{name}_TRAIN.ts").exists()), None)


def series(name: str, length: int) -> Parts:
    """Training and test part of a data set, each the series (n, channels, length), with nan after
    the end of those that are shorter, and their labels. NasplugError if it is not here."""
    place = folder(name)
    if place is None:
        raise NasplugError(
            f"{name} comes with aeon: pip install 'nasplug[series]', or set NASPLUG_DATA to a "
            f"folder with {name}/{name}_TRAIN.ts and {name}_TEST.ts in it"
        )
    train, test = (read(place / f"{name}_{part}.ts", length) for part in ("TRAIN", "TEST"))
    return train, test


def read(path: Path, length: int) -> tuple[Floats, list[str]]:
    """A .ts file: after @data a line per series, its channels and its label parted by colons, the
    numbers of a channel by commas. NasplugError if it is damaged, or a series is too long."""
    try:
        _, _, rows = path.read_text(encoding="utf-8").partition("@data")
        *given, labels = zip(*(row.split(":") for row in rows.split()), strict=True)
        found = np.full((len(labels), len(given), length), np.nan)
        for k, channel in enumerate(given):
            for i, text in enumerate(channel):
                numbers = np.array(text.split(","), float)
                found[i, k, : len(numbers)] = numbers
    except (OSError, ValueError) as error:
        raise NasplugError(f"{path} is no file of series up to {length} long: {error}") from None
    return found, list(labels)
