"""What several tests stand on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasplug.evaluators.table import TableEvaluator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No worker is left with a long test when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def nb201_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for NASPLUG_DATA with all of NAS-Bench-201, scored on a data set named toy."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    import nasplug

    space = nasplug.space("nb201")
    archs = space.all()
    score = (archs == 3).sum(axis=1) + 0.1 * (archs == 1).sum(axis=1)
    noise = np.random.default_rng(0).normal(0, 0.1, len(archs))
    folder = tmp_path_factory.mktemp("data")
    table = {
        "arch": [space.to_str(arch) for arch in archs],
        "toy/val_acc@12": 60 + 4 * score + noise,
        "toy/test_acc@200": 80 + 2 * score,
    }
    parquet.write_table(pyarrow.table(table), folder / "nas-bench-201.parquet")
    return folder


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no distribution that carries tables were installed."""
    for name, (package, layout) in TableEvaluator.packages.items():
        absent = replace(package, distribution=f"no-{package.distribution}")
        monkeypatch.setitem(TableEvaluator.packages, name, (absent, layout))
