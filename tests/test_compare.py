"""Comparisons: what is said of them, what is kept of them, what refuses them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap, wilcoxon

import nasplug
from nasplug import NasplugError, Space, tracking
from nasplug.cli import main
from nasplug.cli.run_checks import examine_run
from nasplug.comparison import Comparison, store
from nasplug.comparison.contenders import Contender
from nasplug.comparison.report import notes
from nasplug.comparison.searches import Clock, Task, describe
from nasplug.comparison.statistics import RESAMPLES, holm, interval, paired
from nasplug.kernel.registry import registry
from nasplug.spaces.nb201.space import CONV_3X3

pytest.importorskip("nasplug_baselines")

A, B = np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3]), np.array([2.0, 7, 1, 8, 2, 8, 1, 8, 2, 8])
METHODS = ["random", "regularized-evolution:population=5,tournament=2"]
OWN = '''
from nasplug import Int, Method, hookimpl

class Mine(Method):
    """Samples in batches."""

    ablations = {"one at a time": {"batch": 1}}
    batch = Int(3, low=1)

    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(self.batch, search.rng)
'''


@pytest.fixture
def runs(tmp_path, nb201_table, monkeypatch):
    """The runs folder, and the searches that were really made: (method, seed)."""
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "runs"))
    made, run = [], Task.run

    def counted(task):
        made.append((task.contender.name, task.seed))
        return run(task)

    monkeypatch.setattr(Task, "run", counted)
    return made


@pytest.fixture
def no_pictures(monkeypatch):
    """Half of the time of a small comparison."""
    monkeypatch.setattr("nasplug.comparison.report.draw_picture", lambda file, draw: None)


def compare(methods=METHODS, on="nb201/toy", **options):
    options = {"budget": 12, "seeds": 3, "workers": 1, "tracking": False, **options}
    return nasplug.compare(methods, on, **options)


def known(comparison):
    """All that the clock has no say in."""
    return [
        table.drop(columns="seconds").to_csv() for table in (comparison.searches, comparison.curves)
    ]


# ---- statistics


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_intervals_are_scipys(statistic):
    found = bootstrap(
        (A,), statistic, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert interval(A, statistic) == pytest.approx((found.low, found.high))
    low, _ = interval(np.stack([A, B]), statistic)
    assert low[0] == pytest.approx(found.low)
    assert np.isnan(interval(A[:1])).all()


def test_pairs_are_scipys():
    found = paired(A - B)
    assert found["p"] == pytest.approx(wilcoxon(A, B).pvalue)
    assert (found["wins"], found["ties"], found["losses"]) == (6, 0, 4)
    assert found["gain"] == pytest.approx(-0.8)
    same = paired(A - A)
    assert (same["p"], same["ties"], same["low"], same["high"]) == (1.0, 10, 0.0, 0.0)
    assert np.isnan(paired(A[:1] - B[:1])["p"])


def test_holm():
    """By hand: 3 · 0.01, then 2 · 0.03, and never less than the one before."""
    found = holm(np.array([0.01, 0.04, np.nan, 0.03]))
    assert found == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)


# ---- a comparison


def test_what_is_said_of_a_comparison(runs):
    found = compare(seeds=6)
    assert found.methods == ["random", "regularized-evolution:population=5,tournament=2"]
    final = found.final("nb201/toy")
    one, other = (final[name].to_numpy() for name in found.methods)
    for seed, score in enumerate(one):
        best = nasplug.search("random", "nb201/toy", budget=12, seed=seed, tracking=False)
        assert score == pytest.approx(best.report)
    row = found.summary().iloc[0]
    assert (row["mean"], row["std"], row["median"]) == pytest.approx(
        (one.mean(), one.std(ddof=1), np.median(one))
    )
    test = found.tests().iloc[0]
    assert test.p == test.p_holm == pytest.approx(wilcoxon(one, other).pvalue)
    assert test.wins + test.ties + test.losses == 6
    ranks = found.ranks()
    assert ranks.sum() == 3
    assert ranks.idxmin() == found.methods[int(other.mean() > one.mean())]
    # The bands end at what was selected, and are as wide as the moments before.
    bands = found.bands().set_index(["method", "x"])
    assert bands.loc[("random", 12), "report"] == pytest.approx(one.mean())
    assert bands.loc[("random", 12), "report_low"] == pytest.approx(row.mean_low)
    assert bands.loc[("random", 1)].notna().all()
    again = Comparison(found.path)
    assert again.summary().equals(found.summary())
    names = {file.name for file in found.path.iterdir()}
    assert {"curve.png", "final.png", "table.md", "table.tex", "tests.csv"} <= names
    assert "cd.png" not in names  # of one problem
    assert not notes(found)
    # What is there is not written again, and what was deleted is.
    written = {file: file.stat().st_mtime_ns for file in found.path.iterdir()}
    (found.path / "final.png").unlink()
    table = found.path / "table.md"
    assert compare(seeds=6).path == found.path
    assert (found.path / "final.png").exists()
    assert table.stat().st_mtime_ns > written[table]
    written[table] = table.stat().st_mtime_ns
    compare(seeds=6)
    assert table.stat().st_mtime_ns == written[table]
    renamed = compare({"plain": "random", "small": METHODS[1]}, seeds=6)  # known by other names
    assert (renamed.path, renamed.methods) == (found.path, ["plain", "small"])
    (check,) = examine_run(found.path)
    assert (check.state, check.found) == ("ok", "plain, small on nb201/toy, budget 12, 6 seeds")
    (note,) = notes(compare(seeds=4))
    assert note == "4 seeds: with 1 pair no p can be below 0.12; take 6 or more"


@pytest.mark.usefixtures("no_pictures")
def test_only_what_is_new_is_searched(runs):
    first = compare()
    assert len(runs) == 6
    assert known(compare()) == known(first)
    assert compare().path == first.path
    assert len(runs) == 6
    compare([*METHODS, "local-search"])
    assert runs[6:] == [("local-search", seed) for seed in range(3)]
    compare(seeds=4)
    assert runs[9:] == [("random", 3), (METHODS[1], 3)]
    compare({"plain": "random", "small": METHODS[1]})  # by other names, the same
    assert len(runs) == 11
    for options in ({"budget": 13}, {"reward": "test_acc@200"}, {"constraints": ["flops<=1e9"]}):
        compare(**options, seeds=1)
        assert len(runs) == 13
        del runs[11:]


@pytest.mark.usefixtures("no_pictures")
def test_a_limit_by_a_table_of_latencies(runs, tmp_path):
    space = nasplug.space("nb201")
    ops = {op: 10.0 * (op == "nor_conv_3x3") for op in space.decisions[space.names[0]]}
    table = tmp_path / "table.json"

    def searched(fixed):
        content = {"unit": "ms", "fixed": fixed, "decisions": dict.fromkeys(space.names, ops)}
        table.write_text(json.dumps(content))
        return compare(constraints=["latency<=15ms"], latency=table)

    found = searched(fixed=0)
    archs = space.canonical(np.array([space.from_str(arch) for arch in found.searches["arch"]]))
    assert (archs == CONV_3X3).sum(1).max() == 1
    assert len(runs) == 6
    assert searched(fixed=0).path == found.path
    assert len(runs) == 6
    assert searched(fixed=2).path != found.path
    assert len(runs) == 12
    with pytest.raises(NasplugError, match=r"table\.json is of another space: "):
        compare(on=["nb201/toy", "macro/digits"], latency=table)


@pytest.mark.usefixtures("no_pictures")
def test_a_changed_file_is_another_method(runs, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    compare(["random", f"{file}:Mine:batch=2"], seeds=1)
    compare(["random", f"{file}:Mine:batch=2"], seeds=1)
    assert runs == [("random", 0), ("Mine:batch=2", 0)]
    file.write_text(OWN.replace("(self.batch,", "(self.batch + 1,"))
    compare(["random", f"{file}:Mine:batch=2"], seeds=1)
    assert runs[2:] == [("Mine:batch=2", 0)]
    found = nasplug.ablate(
        f"{file}:Mine", "nb201/toy", budget=6, seeds=1, workers=1, tracking=False
    )
    assert found.methods == ["Mine", "one at a time"]
    assert [one["hyperparameters"] for one in found.about["methods"]] == [
        {"batch": 3},
        {"batch": 1},
    ]


@pytest.mark.usefixtures("no_pictures")
def test_interrupted_and_continued_it_is_the_same(runs, tmp_path, monkeypatch):
    whole = compare(["random", "local-search", *METHODS[1:]])
    assert len(runs) == 9
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "others"))
    put, kept = store.Store.put, []

    def interrupted(self, key, record):
        if len(kept) == 4:
            raise KeyboardInterrupt
        kept.append(key)
        put(self, key, record)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "put", interrupted)
        with pytest.raises(KeyboardInterrupt, match="after 4 of 9 searches, which are kept"):
            compare(["random", "local-search", *METHODS[1:]])
    (folder,) = (tmp_path / "others").glob("compare-*")
    with pytest.raises(NasplugError, match="has not ended"):
        _ = Comparison(folder).searches
    (check,) = examine_run(folder)
    assert check.state == "warn"
    assert check.found.endswith("has not ended")
    continued = compare(["random", "local-search", *METHODS[1:]], workers=2)
    assert len(runs) == 9 + 5  # two processes have made the other five
    assert continued.path == folder
    assert known(continued) == known(whole)


@pytest.mark.slow
def test_killed_and_continued_it_is_the_same(runs, tmp_path):
    whole = compare()
    code = (
        f"import nasplug; nasplug.compare({METHODS!r}, 'nb201/toy', budget=12, seeds=3, "
        "workers=2, tracking=False)"
    )
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "NASPLUG_RUNS": str(folder)}
    )
    while not (kept := _kept(folder)):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert kept
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "NASPLUG_RUNS": str(folder)}, check=True
    )
    (continued,) = folder.glob("compare-*")
    assert known(Comparison(continued)) == known(whole)


def _kept(folder: Path) -> int:
    try:
        with sqlite3.connect(folder / "comparisons.db") as database:
            return database.execute("SELECT count(*) FROM searches").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_beyond_a_limit_nothing_counts():
    """Trials that cost 3 each: of a batch of five, the limit of 10 has room for three."""
    space = Space({"x": range(100)})

    class Counts(nasplug.Method):
        @nasplug.hookimpl
        def propose(self, search, subspace):
            return len(search.trials) + np.arange(5)[:, None]

    problem = nasplug.Problem.of(
        space=space, evaluate=lambda arch: {"value": arch["x"], "report": -arch["x"], "cost": 3}
    )
    search = nasplug.Search(problem, Counts(), budget=20, max_cost=10)
    clock = Clock(search)
    record = describe(search.run(), clock.seconds)
    assert (record["value"], record["report"]) == (2, -2)
    assert [row[:2] for row in record["curve"]] == [(1, 3), (2, 6), (3, 9)]
    assert (record["trials"], record["cost"]) == (5, 15)


# ---- names, tables, the command line


@pytest.mark.parametrize(
    ("text", "name", "method", "given"),
    [
        ("dsm", "dsm", "dsm", {}),
        ("dsm:K=4, M=2", "dsm:K=4,M=2", "dsm", {"K": "4", "M": "2"}),
        ("as in the paper=dsm:K=4", "as in the paper", "dsm", {"K": "4"}),
        ("x:sampler=hub:a/b,n=1", "x:sampler=hub:a/b,n=1", "x", {"sampler": "hub:a/b", "n": "1"}),
    ],
)
def test_methods_as_text(monkeypatch, text, name, method, given):
    monkeypatch.setattr("nasplug.comparison.contenders.name_of", str)
    found = Contender.parse(text)
    assert (found.name, found.method, found.given) == (name, method, given)


def test_names_are_text_and_no_markup(runs, capsys):
    name = r"a <b>[red] $x_1$ & 5% | \x{}"
    options = "--on nb201/toy --budget 6 --seeds 1 --workers 1 --no-track --json"
    with pytest.raises(SystemExit) as end:
        main(["compare", f"{name}=random", "local-search", *options.split()])
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    assert name in err  # the table, as it is
    assert "one seed: no deviations, no intervals and no tests; take 6 or more" in err
    said = json.loads(out)
    assert said["summary"][0]["method"] == name
    assert said["summary"][0]["std"] is None
    folder = Path(said["comparison_dir"])
    row = (folder / "table.md").read_text().splitlines()[2]
    assert row.startswith(r"| a \<b\>\[red\] $x\_1$ & 5% \| \\x\{\} | ")
    assert (
        r"a \textless{}b\textgreater{}[red] \$x\_1\$ \& 5\% \textbar{} \textbackslash{}x\{\} & "
        in (folder / "table.tex").read_text(encoding="utf-8")
    )
    assert (folder / "curve.png").exists()
    assert Comparison(folder).methods == [name, "local-search"]


@pytest.mark.parametrize(
    ("methods", "options", "said"),
    [
        (["random"], {}, "of two methods or more"),
        (["random", "random"], {}, "two methods go by the name random"),
        (["random", "rando"], {}, "unknown method 'rando'; did you mean random"),
        (["random", "local-search:stop=1"], {}, "unknown hyperparameter 'stop'"),
        (["random", "local-search"], {"on": []}, "one problem or several different ones"),
        (["random", "local-search"], {"on": Space({"x": [1, 2]})}, "is on problems by name"),
        (["random", "local-search"], {"seeds": 0}, "seeds must be a whole number from 1"),
        (["random", "local-search"], {"budget": 0}, "budget must be a whole number from 1"),
        (["random", "local-search"], {"max_cost": 5}, "nb201/toy states no costs"),
        (["random", "hyperband"], {}, "hyperband needs an evaluator with a fidelity"),
        ("random", {}, "methods are a list"),
        (["-=random", "local-search"], {}, "begins with a letter"),
    ],
)
def test_what_is_refused(runs, tmp_path, methods, options, said):
    with pytest.raises(NasplugError, match=said):
        compare(methods, **{"on": "nb201/toy", **options})
    assert not runs
    assert not list((tmp_path / "runs").glob("compare-*"))


def test_what_cannot_be_compared(runs, monkeypatch, tmp_path):
    from nasplug.comparison.api import _check_alike
    from nasplug.comparison.searches import Rules

    up, down = (
        nasplug.Problem.of(space=Space({"x": [1, 2]}), evaluate=len, direction=direction)
        for direction in ("maximize", "minimize")
    )
    with pytest.raises(NasplugError, match="a is maximized and b is minimized"):
        _check_alike({"random": False}, {"a": up, "b": down}, Rules(5))
    with pytest.raises(
        NasplugError, match=r"trial of ddsas is an epoch .* one of random is an arch"
    ):
        _check_alike({"random": False, "ddsas": True}, {"a": up}, Rules(5))
    _check_alike({"random": False, "ddsas": True}, {"a": up}, Rules(5, max_seconds=9))
    with pytest.raises(NasplugError, match="random declares no ablations"):
        nasplug.ablate("random", "nb201/toy", budget=5)
    with pytest.raises(NasplugError, match="is no comparison directory"):
        Comparison(tmp_path)
    nasplug.search("random", "nb201/toy", budget=2, out=tmp_path / "run", tracking=False)
    with pytest.raises(NasplugError, match="holds a run"):
        compare(out=tmp_path / "run")


def test_how_long_training_takes_is_said(runs, capsys, monkeypatch):
    monkeypatch.setattr("nasplug.evaluators.table.TableEvaluator.free", False)  # as if it trained
    monkeypatch.setattr("nasplug.comparison.api.LONG", 0.0)
    monkeypatch.setattr("nasplug.comparison.api._Pool.run", lambda self, tasks: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare(budget=3, seeds=2)
    said = capsys.readouterr().err
    assert "nb201/toy is scored by table: a trial took" in said
    assert "4 searches of 3 trials take about" in said


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow")
def test_a_comparison_is_an_experiment(runs, tmp_path):
    """A run per method with the mean curves, and one with the tables and the pictures."""
    found = compare(seeds=2, budget=5)
    sent = tracking.sync(found.path, to=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert sent["complete"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        runs_ = dict(database.execute("SELECT name, run_uuid FROM runs"))
        (experiment,) = database.execute(
            "SELECT DISTINCT e.name FROM runs r JOIN experiments e USING (experiment_id)"
        )
        points = database.execute(
            "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = 'nb201/toy/report'",
            (runs_["random"],),
        ).fetchall()
        (uri,) = database.execute(
            "SELECT artifact_uri FROM runs WHERE run_uuid = ?", (sent["run_id"],)
        ).fetchone()
    assert set(runs_) == {*found.methods, found.path.name}
    assert experiment == (found.path.name,)
    bands = found.bands()
    mine = bands[bands.method == "random"]
    assert points == list(zip(mine.x, mine.report, strict=True))
    artifacts = {file.name for file in Path(uri.removeprefix("file://")).iterdir()}
    assert {"curve.png", "final.png", "summary.csv", "table.tex"} <= artifacts


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("NASPLUG_DATA"), reason="needs a table of CIFAR-10")
def test_the_examples_of_the_page_run(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "compare.md").read_text()
    blocks = {
        language: "\n".join(re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S))
        for language in ("python", "bash")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in ([sys.executable, "-c", blocks["python"]], ["bash", "-c", blocks["bash"]]):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path,
            env={**os.environ, "PATH": path, "NASPLUG_RUNS": str(tmp_path / "runs")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert Comparison(tmp_path / "first").methods[2] == "local-search:step=first"


@pytest.mark.slow
def test_the_ablations_of_the_page_are_those_that_methods_declare():
    page = (Path(__file__).parents[1] / "docs" / "compare.md").read_text()
    rows = dict(re.findall(r"^\| `(\S+)` \| (.*?) \|", page, re.M))
    for method, entry in registry().methods.items():
        declared = getattr(registry().get("method", method), "ablations", {})
        assert rows.get(method, "") == "; ".join(declared), entry
