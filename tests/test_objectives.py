"""Several objectives: fronts and hypervolumes against pymoo, searches by rank and by one number."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasplug

pytest.importorskip("moocore")

from nasplug.run.objectives import crowding, ranking, volume

SPACE = nasplug.Space({f"x{i}": list(range(5)) for i in range(5)}, "toy")
OBJECTIVES = ["good", "-bad"]


def evaluate(arch: dict[str, int]) -> dict[str, float]:
    """Two ends of one compromise: `good` grows with all of x, `bad` faster, but for x0."""
    x = np.array([*arch.values()])
    return {"value": float(x.sum()), "good": float(x.sum()), "bad": float((x[1:] ** 2).sum())}


def search(method: str, budget: int = 120, **options: Any) -> nasplug.Selection:
    return nasplug.search(
        method, space=SPACE, evaluate=evaluate, budget=budget, tracking=False,
        **{"objectives": OBJECTIVES, **options},
    )  # fmt: skip


def true_front() -> set[tuple[float, float]]:
    found = [evaluate(dict(enumerate(arch))) for arch in SPACE.all().tolist()]
    points = {(one["good"], one["bad"]) for one in found}
    return {
        p for p in points if not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points)
    }  # fmt: skip


def points(draw: Any, n: int = 30) -> np.ndarray:
    seed, m = draw(st.integers(0, 10**6)), draw(st.integers(2, 4))
    rng = np.random.default_rng(seed)
    return rng.integers(0, 8, (draw(st.integers(1, n)), m)).astype(float)


# ---- mathematics


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_fronts_and_hypervolumes_are_pymoos(data):
    pytest.importorskip("pymoo")
    from pymoo.indicators.hv import HV
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    found = points(data.draw)
    _, ranks = NonDominatedSorting().do(-found, return_rank=True)
    ours = ranking(found)
    assert (np.ceil(-ours).astype(int) - 1 == ranks).all() or (np.floor(-ours) == ranks).all()
    reference = np.full(found.shape[1], -1.0)
    assert volume(found, reference) == pytest.approx(HV(ref_point=-reference)(-found))


def test_crowding_by_hand():
    line = np.array([[0.0, 10.0], [1.0, 9.0], [4.0, 2.0], [10.0, 0.0]])
    # (4-0)/10 + (10-2)/10, and (10-1)/10 + (9-0)/10
    assert crowding(line).tolist() == pytest.approx([np.inf, 1.2, 1.8, np.inf])


def test_hypervolume_by_hand():
    # Two rectangles above (0, 0): 3 x 1 and 1 x 2, which share 1 x 1.
    assert volume(np.array([[3.0, 1.0], [1.0, 2.0]]), np.zeros(2)) == 4.0


def test_the_knee_is_farthest_from_the_line_between_the_extremes():
    def evaluate(arch):
        x, y = [(0, 0), (1, 5), (5, 6), (10, 20)][arch["x"]]
        return {"value": x, "cost_": y}

    found = nasplug.search(
        "random", space=nasplug.Space({"x": range(4)}, "four"), evaluate=evaluate, budget=4,
        objectives=["value", "-cost_"], tracking=False,
    )  # fmt: skip
    # On the way from (0, 0) to (10, 20) a straight line has (5, 10): (5, 6) is the farthest below.
    assert found.best.value == found.front.knee.value == 5
    assert found.front.best([1, 0]).value == 10
    assert found.front.best([0, 1]).value == 0
    assert found.front.reference == [0, 20]
    assert found.front.hypervolume == 5 * 14 - 1 * 0 + (1 * 15 - 1 * 14)
    with pytest.raises(nasplug.NasplugError, match="weights are 2 numbers"):
        found.front.best([1])


# ---- searches


@pytest.mark.parametrize("method", ["local-search", "nsga2"])
def test_what_searches_by_dominance_finds_the_front(method):
    front = search(method, 600).front
    assert {tuple(point) for point in front.points.tolist()} == true_front()


@pytest.mark.parametrize("scalarise", ["chebyshev", "linear"])
@pytest.mark.parametrize("method", ["regularized-evolution", "dsm", "local-search"])
def test_other_methods_see_one_number(method, scalarise):
    reference = [-1.0, 65.0]
    found = [search(method, 150, seed=s, scalarise=scalarise).front for s in range(4)]
    drawn = [search("random", 150, seed=s).front for s in range(4)]
    mean = np.mean([front.volume(reference) for front in found])
    assert mean > np.mean([front.volume(reference) for front in drawn])


@pytest.mark.parametrize("method", ["local-search", "nsga2", "dsm", "regularized-evolution"])
def test_a_resumed_search_has_the_same_trials_and_front(method, tmp_path):
    whole = search(method, 80, out=tmp_path / "whole")
    killed = tmp_path / "killed"

    class Stop:
        @nasplug.hookimpl
        def update(self, search):
            if search.finished >= 45:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(method, 80, out=killed, plugins=[Stop()])
    again = nasplug.resume(killed, space=SPACE, evaluate=evaluate)
    assert (again.search.trials.archs == whole.search.trials.archs).all()
    assert again.front.rows() == whole.front.rows()
    assert (killed / "front.csv").read_bytes() == (tmp_path / "whole" / "front.csv").read_bytes()


def test_what_is_written(tmp_path):
    found = search("nsga2", 80, out=tmp_path / "run")
    rows = [*csv.DictReader((tmp_path / "run" / "front.csv").open())]
    assert [float(row["good"]) for row in rows] == found.front.points[:, 0].tolist()
    volumes = [*csv.DictReader((tmp_path / "run" / "hypervolume.csv").open())]
    grown = [float(row["hypervolume"]) for row in volumes]
    assert grown == sorted(grown)
    assert grown[-1] == pytest.approx(found.front.hypervolume)
    said = json.loads((tmp_path / "run" / "selection.json").read_text())
    assert said["objectives"] == OBJECTIVES
    assert said["hypervolume"] == found.front.hypervolume
    assert [row["arch"] for row in said["front"]] == [row["arch"] for row in rows]
    assert said["best"]["arch"] == str(found.front.knee)
    assert (tmp_path / "run" / "front.png").stat().st_size > 10_000
    assert not (tmp_path / "run" / "curve.png").exists()


def test_what_the_space_tells_is_an_objective_too(tmp_path):
    space = nasplug.space("nb201:C=4,N=1")
    found = nasplug.search(
        "nsga2", space=space, evaluate=lambda arch: sum("conv" in op for op in arch.values()),
        budget=100, objectives=["value", "-params"], tracking=False, out=tmp_path / "run",
    )  # fmt: skip
    archs = np.array([trial.arch for trial in found.front.trials])
    assert found.front.points[:, 1].tolist() == space.params(archs).tolist()


def test_constraints_and_failures_stay_off_the_front():
    def evaluate_some(arch):
        if arch["x0"] == 4:
            raise ValueError("too large")
        return evaluate(arch) if arch["x1"] != 3 else {"value": 1.0, "good": 50.0}

    found = nasplug.search(
        "nsga2", space=SPACE, evaluate=evaluate_some, budget=200, objectives=OBJECTIVES,
        constraints=["bad<=9"], tracking=False,
    )  # fmt: skip
    archs = np.array([trial.arch for trial in found.front.trials])
    assert (archs[:, 0] < 4).all()
    assert (archs[:, 1] != 3).all()  # `bad` is not known there
    assert (found.front.points[:, 1] <= 9).all()


def test_workers_score_the_same(tmp_path):
    pytest.importorskip("loky")
    alone = search("nsga2", 60, population=12)
    together = search("nsga2", 60, population=12, workers=2)
    assert (alone.search.trials.archs == together.search.trials.archs).all()


def test_trials_are_pruned_by_their_rank():
    optuna = pytest.importorskip("optuna")

    def train(arch, trial):
        for step in (1, 2):
            trial.report([evaluate(arch)["good"] * step, evaluate(arch)["bad"]], step)
            if trial.should_prune():
                raise nasplug.TrialPruned
        return evaluate(arch)

    found = nasplug.search(
        "random", space=SPACE, evaluate=train, budget=60, objectives=OBJECTIVES,
        prune=optuna.pruners.MedianPruner(n_startup_trials=10), tracking=False,
    )  # fmt: skip
    trials = found.search.trials
    pruned = trials.states == nasplug.State.PRUNED
    assert not pruned[:10].any()
    assert 5 <= pruned.sum() <= 45
    x = trials.archs.astype(float)
    costs = np.column_stack([-x.sum(1), (x[:, 1:] ** 2).sum(1)])
    first = int(np.flatnonzero(pruned)[0])
    before = costs[: first + 1]
    ranks = ranking(-before)
    # As Optuna's median of those that ended: the first that was pruned is in the worse half.
    assert np.floor(-ranks)[-1] > np.median(np.floor(-ranks)[:-1])
    assert not set(found.front.trials.numbers.tolist()) & set(np.flatnonzero(pruned).tolist())


# ---- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objectives": ["good"]}, "two or more different names"),
        ({"objectives": ["good", "-good"]}, "two or more different names"),
        ({"objectives": "good"}, "a list of names"),
        ({"objectives": ["good", "-heat"]}, "unknown objective 'heat'; known: bad, flops, good"),
        ({"objectives": ["-value", "-bad"]}, "the objective is value"),
        ({"scalarise": "sum"}, "scalarise is chebyshev, linear or pareto"),
        ({"scalarise": "pareto", "method": "dsm"}, "scalarise is chebyshev or linear"),
        ({"objectives": [], "scalarise": "linear"}, "scalarise is about several objectives"),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(nasplug.NasplugError, match=words):
        search(**{"method": "random", "budget": 10, **options})


def test_a_front_is_of_several_objectives():
    with pytest.raises(nasplug.NasplugError, match="a front is of several objectives"):
        _ = search("random", 10, objectives=[]).front


def test_supernets_have_one_loss():
    with pytest.raises(nasplug.NasplugError, match="darts trains one network, by one loss"):
        nasplug.search("darts", "nb201:C=4,N=1/digits", budget=1, objectives=["value", "-params"])


def test_the_command_line(tmp_path):
    def run(*options):
        return subprocess.run(
            [Path(sys.executable).parent / "nasplug", "run", "nsga2", "--on", "nb201/digits",
             "--evaluator", "proxy:params", "--budget", "40", "--no-track", *options],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip

    done = run("--objective", "value", "--objective", "-flops", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hypervolume"] > 0
    assert "hypervolume" in done.stderr
    done = run("--objective", "value", "--objective", "-heat")
    assert done.returncode == 2
    assert "unknown objective 'heat'" in done.stderr


def test_the_page_runs(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "against" in done.stdout
