"""Studies: what is offered, in which order, what is kept, and what bad input is told."""

import csv
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import Bool, Choice, Float, Int, Method, NasplugError, Space, hookimpl

if importlib.util.find_spec("optuna") is None:
    pytest.skip("needs optuna", allow_module_level=True)

import optuna
from optuna.trial import TrialState

from nasplug.tracking import read_lines
from nasplug.tracking.locks import Presence
from nasplug.tuning import report
from nasplug.tuning.space import HyperparameterSpace
from nasplug.tuning.storage import RETRIES, Roll, counted, next_position

SPACE = Space({f"d{i}": range(4) for i in range(6)}, name="toy")


def score(arch):
    return float(sum(choice * (i + 1) for i, choice in enumerate(arch.values())))


class Climber(Method):
    """Edits of the best arch, or uniform samples."""

    edits = Int(6, low=1, high=6, doc="decisions drawn anew")
    rate = Float(0.5, low=1e-3, high=1.0, log=True, doc="means nothing")
    mode = Choice("sample", choices=("sample", "climb"))
    patience = Int(3, low=1, high=9, when="mode=climb")
    loud = Bool(False, tunable=False)
    margin = Float(0.0, doc="unbounded")

    @hookimpl
    def propose(self, search, subspace):
        arch = subspace.sample(1, search.rng)
        if self.mode == "climb" and len(search.trials) > self.patience:
            best = search.trials.archs[search.trials.scores.argmax()]
            kept = search.rng.permutation(6)[self.edits :]
            arch[0, kept] = best[kept]
        return arch


def tune(out, method=Climber, evaluate=score, **options):
    options = {"trials": 6, "seeds": 2, "budget": 15, "tracking": False, "space": SPACE, **options}
    return nasplug.tune(method, evaluate=evaluate, out=out, **options)


def offered(study):
    return [(trial.params, trial.values, trial.state) for trial in study.trials]


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch, request):
    """They take most of the time of a small study."""
    if request.node.originalname != "test_plots":
        for name in ("_draw", "_draw_page"):
            monkeypatch.setattr(f"nasplug.tuning.report.{name}", lambda *_: None)


# ---- what a method declares


def suggested(params, **values):
    space = HyperparameterSpace(Climber.declared(), params, {})
    return space.suggest(optuna.trial.FixedTrial(values))


def test_a_condition_decides_what_is_offered():
    climbing = suggested(("patience", "mode"), mode="climb", patience=5)
    assert climbing == {"mode": "climb", "patience": 5}
    assert suggested(("patience", "mode"), mode="sample") == {"mode": "sample"}


def test_by_default_all_that_can_be_tuned():
    space = HyperparameterSpace(Climber.declared(), None, {})
    assert space.names == ("edits", "rate", "mode", "patience")
    assert space.defaults == {"edits": 6, "rate": 0.5, "mode": "sample"}
    assert HyperparameterSpace(Climber.declared(), None, {"mode": "sample"}).names == (
        "edits",
        "rate",
    )


class Ranged(Climber):
    """Edits half of the decisions, by default."""

    edits = Int(0, low=0, high=999, doc="0: half of the decisions")

    @classmethod
    def ranges(cls, space):
        return {"edits": dataclasses.replace(cls.edits, default=space.d // 2, low=1, high=space.d)}


def test_a_method_says_what_makes_sense_on_the_space(tmp_path):
    study = tune(tmp_path / "s", Ranged, params=("edits",), trials=12, sampler="random")
    edits = [trial.params["edits"] for trial in study.trials]
    assert edits[0] == 3
    assert {4, 5} <= set(edits) <= set(range(1, 7))
    # What is set may be whatever the method allows.
    study = tune(tmp_path / "t", Ranged, params=("rate",), trials=1, edits=0)
    assert study.trials[0].params == {"rate": 0.5}


def test_types_bounds_and_scales():
    study = optuna.create_study()
    trial = study.ask()
    HyperparameterSpace(Climber.declared(), None, {"mode": "climb"}).suggest(trial)
    assert trial.distributions["edits"] == optuna.distributions.IntDistribution(1, 6)
    assert trial.distributions["rate"] == optuna.distributions.FloatDistribution(
        1e-3, 1.0, log=True
    )
    assert "patience" in trial.distributions


@pytest.mark.parametrize(
    ("params", "fixed", "message"),
    [
        (("edit",), {}, "did you mean edits"),
        (("loud",), {}, "loud cannot be tuned: the method declares it so"),
        (("margin",), {}, "margin cannot be tuned: it has no bounds"),
        (("patience",), {}, "only matters if mode=climb"),
        (("edits",), {"edits": 3}, "edits cannot be tuned: it is set"),
        (None, {"edits": 9}, r"within \[1, 6\]"),
        ((), {}, "nothing to tune"),
    ],
)
def test_what_cannot_be_tuned(params, fixed, message):
    with pytest.raises(NasplugError, match=message):
        HyperparameterSpace(Climber.declared(), params, fixed)


class Evolving(Method):
    """Two of its hyperparameters cannot exceed a third."""

    tournament = Int(3, low=2, high=1000, log=True, at_most="population")
    population = Int(10, low=1, high=64, log=True)
    share = Float(2.5, low=0.5, high=80, at_most="population")

    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(1, search.rng)


def test_a_hyperparameter_that_cannot_exceed_another_is_refused_at_once():
    assert Evolving(population=3, tournament=3).tournament == 3
    with pytest.raises(NasplugError, match=r"tournament \(4\) cannot exceed population \(3\)"):
        Evolving(population=3, tournament=4)
    with pytest.raises(NasplugError, match=r"tournament \(3\) cannot exceed population \(2\)"):
        Evolving(population=2)
    assert Evolving.tournament.bounds == "[2, 1000] log, at most population"


def bounds(space, **values):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(values)
    space.suggest(trial := study.ask())
    return {name: (one.low, one.high) for name, one in trial.distributions.items()}


def test_bounds_that_depend_on_each_other():
    declared = Evolving.declared()
    space = HyperparameterSpace(declared, None, {})
    assert space.names == ("population", "tournament", "share")
    assert bounds(space, population=7) == {
        "population": (2, 64), "tournament": (2, 7), "share": (0.5, 7),
    }  # fmt: skip
    # What is not tuned keeps its value, and the others keep to that.
    space = HyperparameterSpace(declared, ("population",), {"tournament": 20})
    assert bounds(space) == {"population": (20, 64)}
    assert space.defaults == {"population": 20}
    space = HyperparameterSpace(declared, ("tournament",), {"population": 2, "share": 1})
    assert bounds(space) == {"tournament": (2, 2)}
    assert space.defaults == {"tournament": 2}


@pytest.mark.parametrize(
    "sampler", ["random", "tpe(n_startup_trials=4)", "nsgaii(population_size=5)"]
)
def test_no_trial_is_lost_to_bounds_that_depend_on_each_other(tmp_path, sampler):
    """Random search with regularized evolution lost every second trial."""
    study = tune(tmp_path / "s", Evolving, trials=16, seeds=1, budget=3, sampler=sampler)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert len({trial.params["tournament"] for trial in study.trials}) > 3
    for trial in study.trials:
        assert trial.params["tournament"] <= trial.params["population"]
    best = json.loads((tmp_path / "s/best.json").read_text())
    assert best["hyperparameters"] == study.best_params
    ranges = report._of_one_range(study).trials[-1].distributions
    assert ranges["tournament"].high == max(t.params["population"] for t in study.trials)
    assert len({str(t.distributions) for t in report._of_one_range(study).trials}) == 1


def test_a_subclass_that_gives_what_bounds_another_a_value(tmp_path):
    class Fixed(Evolving):
        population = 4

    with pytest.raises(NasplugError, match=r"cannot exceed population \(4\)"):
        Fixed(tournament=5)
    study = tune(tmp_path / "s", Fixed, trials=8, seeds=1, budget=3, sampler="random")
    assert {trial.params["tournament"] for trial in study.trials} == {2, 3, 4}


@pytest.mark.parametrize("mode", ["climb", "sample"])
def test_a_subclass_that_decides_a_condition(tmp_path, mode):
    """A study of it ended with a KeyError: the other hyperparameter was no hyperparameter."""

    class Decided(Climber):
        pass

    Decided.mode = mode
    study = tune(tmp_path / "s", Decided, trials=2, seeds=1, budget=3)
    names = {"edits", "rate"} | ({"patience"} if mode == "climb" else set())
    assert study.trials[0].params.keys() == names
    if mode == "sample":
        with pytest.raises(NasplugError, match="patience cannot be tuned"):
            tune(tmp_path / "t", Decided, params=["patience"])
    tune(tmp_path / "u", Decided, trials=1, seeds=1, budget=3, patience=2)


# ---- a study


def test_defaults_first_and_what_is_left(tmp_path):
    study = tune(tmp_path / "s", trials=8)
    assert isinstance(study, optuna.Study)
    assert study.directory == tmp_path / "s"
    assert study.trials[0].params == {"edits": 6, "rate": 0.5, "mode": "sample"}
    assert len(study.trials) == 8
    for trial in study.trials:
        assert ("patience" in trial.params) == (trial.params["mode"] == "climb")
    best = json.loads((tmp_path / "s/best.json").read_text())
    assert best["method"] == "Climber"
    assert best["hyperparameters"] == study.best_params
    assert best["value"] == study.best_value
    assert best["measured"]["defaults"] == study.trials[0].value
    by_seed = best["measured"]["by_seed"]
    assert len(by_seed) == 2
    assert sum(value for (value,) in by_seed.values()) / 2 == pytest.approx(best["value"])
    with (tmp_path / "s/trials.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["number"]) for row in rows] == list(range(8))
    # What was found is what a search with it finds.
    seed, (value,) = next(iter(by_seed.items()))
    method = Climber(**best["hyperparameters"])
    again = nasplug.search(
        method, space=SPACE, evaluate=score, budget=15, seed=int(seed), tracking=False
    )
    assert again.best.value == value


def test_same_seed_same_study(tmp_path):
    first = tune(tmp_path / "a", trials=14)
    again = tune(tmp_path / "b", trials=14)
    assert offered(first) == offered(again)
    assert offered(tune(tmp_path / "c", trials=14, seed=1))[1:] != offered(first)[1:]
    # A study that was made in two goes is the same, beyond the sampler's random start.
    tune(tmp_path / "d", trials=5)
    assert offered(tune(tmp_path / "d", trials=14)) == offered(first)


@pytest.mark.parametrize(
    "sampler",
    [
        "random",
        "nsgaii",
        "qmc",
        "bruteforce",
        "cmaes",
        "tpe(multivariate=True, n_startup_trials=2)",
    ],
)
def test_samplers_by_name(tmp_path, sampler):
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    first = tune(tmp_path / "a", sampler=sampler, params=("edits",), trials=4)
    again = tune(tmp_path / "b", sampler=sampler, params=("edits",), trials=4)
    assert offered(first) == offered(again)


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(tmp_path):
    calls = 0

    def interrupted(arch):
        nonlocal calls
        calls += 1
        if calls == 100:
            raise KeyboardInterrupt
        return score(arch)

    options = {"sampler": "tpe(n_startup_trials=2)", "pruner": "nop"}
    whole = tune(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt, match=r"after 3 of 6 trials; it goes on with out=.*cut"):
        tune(tmp_path / "cut", evaluate=interrupted, **options)
    status = json.loads((tmp_path / "cut/status.json").read_text())
    assert status["state"] == "killed"
    study = tune(tmp_path / "cut", **options)
    assert offered(study) == offered(whole)


KILLED = """
import itertools, os, random, sys
from pathlib import Path
import optuna
from sqlalchemy import event
from sqlalchemy.engine import Engine
import nasplug
from nasplug import Int, Method, Space, hookimpl
from nasplug.tuning import report, storage

report._draw = report._draw_page = lambda *_: None

class Sampler(Method):
    K, L = Int(3, low=1, high=50), Int(3, low=1, high=50)
    @hookimpl
    def propose(self, search, subspace):
        archs = subspace.sample(1, search.rng)
        return archs % (1 + self.K % 4)

def study(folder):
    nasplug.tune(
        Sampler, space=Space({f"d{i}": range(4) for i in range(6)}, name="toy"),
        evaluate=lambda arch: sum(arch.values()), trials=8, seeds=2, budget=4,
        sampler=sys.argv[2], out=folder, tracking=False,
    )

def killed(folder, statement, n):
    "Go on with the study in a fork that dies before it executes this SQL for the nth time."
    child = os.fork()
    if not child:
        def die(connection, cursor, text, *_):
            if statement in text and not next(left):
                os.kill(os.getpid(), 9)

        left = itertools.count(n - 1, -1)
        event.listen(Engine, "before_cursor_execute", die)
        try:
            study(folder)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

def kept(folder):
    found = optuna.load_study(
        study_name=folder.name, storage=storage.open_storage(f"sqlite:///{folder}/study.db")
    )
    return [
        (t.number, t.params, t.values, t.state.name, t.user_attrs.get("measured"))
        for t in storage.counted(found)
    ]

folder = Path(sys.argv[1])
study(folder / "whole")  # here, so that no fork imports what it needs anew
moments = [
    ("INSERT INTO study_user_attributes", 1),  # the study is half created
    ("INSERT INTO trial_params", 2),  # a trial has one of its two hyperparameters
    ("INSERT INTO trial_intermediate_values", 2),  # between two searches
    ("UPDATE trials SET state", 5),  # before a trial ends
    ("INSERT INTO trials ", 2),
    ("", random.Random(0).randrange(100, 200)),
]
for moment in moments:
    assert killed(folder / "cut", *moment), moment
study(folder / "cut")
whole = kept(folder / "whole")
assert len(whole) == 8
assert kept(folder / "cut") == whole, (kept(folder / "cut"), whole)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "sampler",
    [
        "tpe(n_startup_trials=3)",
        pytest.param("cmaes(n_startup_trials=3)", marks=pytest.mark.slow),
    ],
)
def test_a_study_that_is_killed_anywhere_is_the_one_that_never_was(tmp_path, sampler):
    """It was another one if it was killed between two hyperparameters, and could not go on at all
    if it was killed while the study was being created."""
    if "cmaes" in sampler:
        pytest.importorskip("cmaes")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), sampler], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError("No module named 'gp'")])
def test_a_trial_cut_short_before_its_first_search_waits_again(tmp_path, monkeypatch, error):
    url = f"journal://{tmp_path}/study.log"
    with monkeypatch.context() as patch:
        patch.setattr(optuna.samplers.TPESampler, "sample_independent", raising(error))
        with pytest.raises((KeyboardInterrupt, NasplugError)):
            tune(tmp_path / "s", storage=url)
    study = tune(tmp_path / "s", storage=url)
    kept = counted(study)
    assert len(kept) == 6
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in kept)
    assert not list(tmp_path.glob("**/worker-*.lock"))


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_what_was_searched_is_not_searched_again(tmp_path):
    calls = []

    def recording(arch):
        calls.append(arch)
        return score(arch)

    study = tune(tmp_path / "s", evaluate=recording, params=("mode",), trials=10, pruner="nop")
    assert len({trial.params["mode"] for trial in study.trials}) == 2
    assert len(calls) == 2 * 2 * 15
    lines = (tmp_path / "s/searches.jsonl").read_text().splitlines()
    assert sum("ended" not in json.loads(line) for line in lines) == 20


class Noisy(Method):
    """Good only with a high level."""

    level = Int(9, low=0, high=9)

    @hookimpl
    def propose(self, search, subspace):
        archs = subspace.sample(200, search.rng)
        return archs[archs.sum(axis=1) <= 2 + self.level][:1]


@pytest.mark.parametrize(
    "pruner", ["median", "wilcoxon", "successivehalving", "percentile(percentile=25)"]
)
def test_hopeless_trials_are_given_up_after_some_seeds(tmp_path, pruner):
    study = tune(tmp_path / "s", Noisy, trials=14, seeds=7, budget=5, pruner=pruner)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        assert 1 <= len(trial.user_attrs["measured"]["objectives"]) < 7
    assert study.best_params["level"] >= 7


def test_several_objectives(tmp_path):
    def costly(arch):
        return {"value": score(arch), "cost": 1.0 + arch["d5"], "latency": arch["d5"] + 0.5}

    study = tune(tmp_path / "s", Noisy, costly, trials=10, objectives=("value", "cost", "latency"))
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    front = json.loads((tmp_path / "s/pareto.json").read_text())
    assert len(front) == len(study.best_trials) > 1
    assert set(front[0]["objectives"]) == {"value", "cost", "latency"}
    best = json.loads((tmp_path / "s/best.json").read_text())
    assert best["value"] == max(one["value"] for one in front)


def test_the_cost_of_a_table_that_states_none_is_the_searches_time(
    nb201_table, tmp_path, monkeypatch
):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    study = nasplug.tune(
        "regularized-evolution", "nb201/toy", trials=2, seeds=2, budget=12, tournament=2,
        objectives=("value", "cost", "params"), out=tmp_path / "s", tracking=False,
    )  # fmt: skip
    records = [r for r, _ in read_lines(tmp_path / "s/searches.jsonl") if "seed" in r]
    for record in records:
        _, cost, size = record["objectives"]
        assert record["cost"] is None
        assert cost == record["seconds"] > 0
        assert size > 1e4
    assert len(study.best_trials) >= 1


def test_an_objective_that_nobody_knows(tmp_path):
    with pytest.raises(NasplugError, match=r"objective 'report' is not known here; known: cost"):
        tune(tmp_path / "s", objectives=("value", "report"))
    assert not list((tmp_path / "s").glob("*.lock"))


class Fragile(Noisy):
    """Refuses half of its own hyperparameters."""

    def setup(self, search):
        if self.level < 5:
            raise NasplugError("the level is too low")


def test_hyperparameters_that_a_method_refuses(tmp_path):
    study = tune(tmp_path / "s", Fragile, trials=8)
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert failed
    assert all(trial.user_attrs["error"] == "the level is too low" for trial in failed)
    assert len(study.trials) == 8
    assert (
        report.table(study)[-1][""] == f"{len(failed)} failed; the last said: the level is too low"
    )
    summary = report.summary(study, tmp_path / "s")
    assert (summary["failed"], summary["last_error"]) == (len(failed), "the level is too low")
    assert summary["states"]["fail"] == len(failed)
    assert report.headline(study).endswith(f", {len(failed)} failed")
    assert "failed" not in str(report.table(tune(tmp_path / "t", trials=1)))


class Sour(Noisy):
    """Refuses with a word that a spreadsheet would run."""

    def setup(self, search):
        if self.level < 5:
            raise NasplugError("=1+1 is too low")


def test_cells_that_a_spreadsheet_would_run_are_marked_as_text(tmp_path):
    """A study's trials.csv had the errors of trials as formulas, other than that of a search."""
    tune(tmp_path / "s", Sour, trials=8)
    with (tmp_path / "s/trials.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["error"] for row in rows} == {"", "'=1+1 is too low"}
    assert {row["value"] == "" for row in rows if row["error"]} == {True}
    assert "None" not in (tmp_path / "s/trials.csv").read_text()


def test_a_study_within_a_part_of_the_space_and_under_limits(tmp_path):
    half = nasplug.Mask(SPACE, {"d0": [0, 1]})
    options = {"within": half, "constraints": ["size<=6"]}

    def sized(arch):
        return {"value": score(arch), "size": float(arch["d5"] * 3)}

    first = offered(tune(tmp_path / "s", evaluate=sized, trials=2, **options))
    records = [r for r, _ in read_lines(tmp_path / "s/searches.jsonl") if "arch" in r]
    archs = np.array([SPACE.from_str(record["arch"]) for record in records])
    assert half.contains(archs).all()
    assert (3 * archs[:, 5] <= 6).all()
    with pytest.raises(NasplugError, match="has within"):
        tune(tmp_path / "s", evaluate=sized, trials=3)
    again = tune(tmp_path / "s", evaluate=sized, trials=3, **options)
    assert offered(again)[:2] == first


def test_a_study_under_a_limit_by_a_table_of_latencies(tmp_path):
    table = tmp_path / "table.json"
    costs = {name: {"0": 0, "1": 1, "2": 2, "3": 3} for name in SPACE.names}
    options = {
        "latency": table, "constraints": ["latency<=7ms"], "objectives": ["value", "latency"],
    }  # fmt: skip

    def study(trials, fixed):
        table.write_text(json.dumps({"unit": "ms", "fixed": fixed, "decisions": costs}))
        return offered(tune(tmp_path / "s", trials=trials, **options))

    first = study(2, fixed=1)
    records = [r for r, _ in read_lines(tmp_path / "s/searches.jsonl") if "arch" in r]
    found = [1 + int(SPACE.from_str(record["arch"]).sum()) for record in records]
    assert max(found) <= 7
    assert [record["objectives"][1] for record in records] == found
    with pytest.raises(NasplugError, match=r"has latency \w{12}, not \w{12}: another --out"):
        study(3, fixed=2)
    assert study(3, fixed=1)[:2] == first


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ddsas", {"params": ("lr",), "batch": 16, "M": 2}),
        ("regularized-evolution", {"params": ("population",), "tournament": 1}),
    ],
)
def test_a_space_and_a_data_set(tmp_path, method, options):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 3, 8, 8, generator=generator)
    mine = torch.utils.data.TensorDataset(images, torch.randint(3, (60,), generator=generator))
    study = nasplug.tune(
        method, space=nasplug.space("nb201:C=2,N=1"), data=mine, trials=2, seeds=2, budget=2,
        out=tmp_path / "s", tracking=False, **options,
    )  # fmt: skip
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    written = json.loads((tmp_path / "s/study.json").read_text())
    assert written["problem"] == "nb201:C=2,N=1,classes=3,resolution=8/data"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "nb201/digits", "data": "digits"}, "not both"),
        ({"space": SPACE}, "how are archs of the space scored"),
        ({"space": SPACE, "evaluate": score, "data": "digits"}, "not both"),
        ({}, "what to search"),
    ],
)
def test_what_is_searched_is_described_as_to_search(tmp_path, options, message):
    with pytest.raises(NasplugError, match=message):
        nasplug.tune(Climber, out=tmp_path / "s", tracking=False, **options)


def test_every_trial_fails(tmp_path):
    def broken(arch):
        raise ValueError("always")

    with pytest.raises(NasplugError, match=r"every trial failed; the last said: .*always"):
        tune(tmp_path / "s", evaluate=broken)


# ---- storages


@pytest.mark.parametrize("url", ["sqlite:///{}/other.db", "journal://{}/study.log"])
def test_storage_by_url(tmp_path, url):
    url = url.format(tmp_path)
    study = tune(tmp_path / "s", storage=url)
    assert offered(study) == offered(tune(tmp_path / "plain"))
    assert not (tmp_path / "s/study.db").exists()
    # Another directory of the same name is the same study, and nothing is left to do.
    (tmp_path / "elsewhere").mkdir()
    again = tune(tmp_path / "elsewhere/s", storage=url, evaluate=score)
    assert offered(again) == offered(study)
    assert not (tmp_path / "elsewhere/s/searches.jsonl").exists()


def test_one_trial_too_many_does_not_count(tmp_path, monkeypatch):
    """As if another machine, which does not see this one's lock, had asked at the same time."""
    ahead = iter([5, 5])

    def late(study, wanted):
        position = next_position(study, wanted)
        return next(ahead, None) if position is None else position

    monkeypatch.setattr("nasplug.tuning.worker.next_position", late)
    study = tune(tmp_path / "s")
    assert offered(study)[:6] == offered(tune(tmp_path / "plain"))
    assert [trial.state for trial in study.trials[6:]] == [TrialState.FAIL] * 2
    assert [trial.number for trial in counted(study)] == list(range(6))
    assert report.failures(study) == (0, "")
    # They do not count as begun if more trials are wanted later.
    assert len(counted(tune(tmp_path / "s", trials=8))) == 8


def test_a_worker_is_seen_to_live(tmp_path):
    file = tmp_path / "worker-1.lock"
    assert Presence.seen(file) is None
    with Presence(file) as worker:
        assert worker.acquire()
        assert not Presence(file).acquire()
        assert Presence.seen(file) is True
    assert Presence.seen(file) is None
    code = f"""
import os
from pathlib import Path
from nasplug.tracking.locks import Presence
Presence(Path({str(file)!r})).__enter__()
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert file.exists()
    assert Presence.seen(file) is False
    assert not file.exists()


@pytest.mark.filterwarnings("ignore")
def test_what_a_dead_worker_had_begun_waits_again_but_not_for_ever(tmp_path):
    study = tune(tmp_path / "s", trials=2)
    for _ in range(RETRIES + 1):
        trial = study.ask()
        trial.set_user_attr("worker", "worker-dead")
        url = f"sqlite:///{tmp_path}/s/study.db"
        Roll(study, study._storage, url, tmp_path / "s").reclaim()
    last = counted(study)[-1]
    assert (len(counted(study)), last.state) == (3, TrialState.FAIL)
    assert report.failures(study) == (1, "its workers died")
    # Another machine's worker is not known to be dead, only its heartbeats tell.
    trial = study.ask()
    trial.set_user_attr("worker", "worker-elsewhere")
    Roll(study, study._storage, "postgresql://host/database", tmp_path / "s").reclaim()
    assert study.trials[trial.number].state == TrialState.RUNNING


def test_two_workers(tmp_path, nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    study = nasplug.tune(
        "regularized-evolution", "nb201/toy", trials=6, seeds=2, budget=20, workers=2,
        tournament=2, out=tmp_path / "s", tracking=False,
    )  # fmt: skip
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    assert len(study.get_trials(states=finished)) == len(study.trials) == 6
    assert study.trials[0].params == {"population": 10}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:1/db", r"postgresql://127\.0\.0\.1:1/db cannot be used"),
        ("nothing://there", "nothing://there cannot be used"),
        ("study.db", "a storage is a URL"),
        ("journal:///no/such/folder/a.log", "cannot be used"),
        ("sqlite:////no/such/folder/a.db", "cannot be used"),
    ],
)
def test_unreachable_storage(tmp_path, url, message):
    with pytest.raises(NasplugError, match=message) as error:
        tune(tmp_path / "s", storage=url)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "s").exists()


def test_a_storage_that_goes_away(tmp_path):
    kept = tmp_path / "storage"
    kept.mkdir()
    calls = 0

    def removing(arch):
        nonlocal calls
        calls += 1
        if calls == 50:
            kept.rename(tmp_path / "away")
        return score(arch)

    options = {"storage": f"journal://{kept}/study.log"}
    with pytest.raises(NasplugError, match=r"study\.log cannot be used"):
        tune(tmp_path / "s", evaluate=removing, **options)
    (tmp_path / "away").rename(kept)
    study = tune(tmp_path / "s", **options)
    done = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(done) == 6
    lines = (tmp_path / "s/searches.jsonl").read_text().splitlines()
    searched = [json.loads(line) for line in lines]
    assert len({line["key"] for line in searched if "key" in line}) == len(
        [line for line in searched if "key" in line]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": Noisy}, "has method Climber, not Noisy"),
        ({"space": Space({"x": range(9)}, name="other")}, "has problem toy/function, not other"),
        ({"budget": 16}, "has budget 15, not 16"),
        ({"params": ("edits",)}, "has tuned edits,rate,mode,patience, not edits"),
    ],
)
def test_a_study_of_something_else_is_not_continued(tmp_path, changes, message):
    tune(tmp_path / "s", trials=1)
    options = {"method": Climber, "space": SPACE, "budget": 15, **changes}
    with pytest.raises(NasplugError, match=message):
        nasplug.tune(
            **options, evaluate=score, seeds=2, trials=1, out=tmp_path / "s", tracking=False
        )


def test_a_directory_of_something_else(tmp_path):
    nasplug.search(
        Climber(), space=SPACE, evaluate=score, budget=5, out=tmp_path / "run", tracking=False
    )
    with pytest.raises(NasplugError, match="holds a run"):
        tune(tmp_path / "run")
    tune(tmp_path / "s", trials=1)
    with pytest.raises(NasplugError, match=r"s holds a study: another --out starts a run"):
        nasplug.search(Climber(), space=SPACE, evaluate=score, budget=5, out=tmp_path / "s")
    assert not (tmp_path / "s/run.json").exists()
    (tmp_path / "s/study.db").unlink()
    with pytest.raises(NasplugError, match="belongs to another study"):
        tune(tmp_path / "s", trials=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be a whole number from 1 on, got 0"),
        ({"seeds": 0}, "seeds must be a whole number from 1 on"),
        ({"workers": 0}, "workers must be a whole number from 1 on"),
        ({"budget": 0}, "budget must be a whole number from 1 on"),
        ({"params": ("edit",)}, "did you mean edits"),
        ({"sampler": "tpee"}, "did you mean tpe"),
        ({"sampler": "grid"}, "unknown sampler"),
        ({"pruner": "percentile"}, "missing 1 required .* takes percentile"),
        ({"sampler": "tpe(multivariat=True)"}, "takes .*multivariate"),
        ({"sampler": "tpe(print())"}, "a sampler is a name"),
        ({"pruner": "threshold"}, "Either lower or upper"),
        ({"seed": -1}, "seed must be a whole number from 0 on"),
        ({"params": ()}, "params must be at least one name"),
        ({"pruner": "middle"}, "unknown pruner"),
        ({"objectives": ()}, "objectives must be"),
        ({"objectives": ("value", "value")}, "objectives must be .* 'value' is given twice"),
        ({"params": ("edits", "edits")}, "params must be .* 'edits' is given twice"),
        ({"objectives": "value"}, r"a list of names, such as .*; got 'value'"),
        ({"sampler": optuna.samplers.RandomSampler()}, "the name of an Optuna sampler"),
        ({"sampler": "tpe(n_startup_trials=-5)"}, "n_startup_trials cannot be -5"),
        ({"sampler": "tpe(seed=3)"}, "the seed is that of the study"),
        ({"storage": Path("study.db")}, "storage must be a URL"),
        ({"storage": "postgresql://me:secret@host:port/db"}, "cannot be used: a URL of a database"),
        ({"method": Climber()}, "method must be a name or a class"),
        ({"out": "x" * 300}, "cannot write the study directory"),
    ],
)
def test_bad_input(tmp_path, options, message):
    options = {"out": tmp_path / "s", **options}
    with pytest.raises(NasplugError, match=message) as error:
        tune(**options)
    assert "secret" not in str(error.value)
    assert not list(tmp_path.iterdir())


# What each argument of `tune` cannot be. None of it may search, write or raise anything raw.
NO_NUMBER = [
    "5",
    2.5,
    True,
    None,
    [3],
    -1,
    0,
    float("nan"),
    float("inf"),
    np.float64(3),
    "x",
    "",
    {},
]
NO_NAMES = ["value", "", None, 3, ["value", "value"], [""], [3], [None], {"value"}, {"value": 1}]
NO_TEXT = ["", 3, True, 2.5, [], ["tpe"], b"tpe", object(), {"name": "tpe"}]
MALFORMED = {
    "trials": NO_NUMBER,
    "seeds": NO_NUMBER,
    "budget": NO_NUMBER,
    "workers": NO_NUMBER,
    "seed": [one for one in NO_NUMBER if one != 0 or isinstance(one, bool)],
    "objectives": [*NO_NAMES, [], "cost,value", [["value"]]],
    "params": ["edits", "", 3, [], ["edits", "edits"], [3], {"edits"}, ["edit"], ["loud"], [""]],
    "sampler": [
        *NO_TEXT, optuna.samplers.RandomSampler(), optuna.samplers.TPESampler, "grid", "tpe(",
        "tpe(3)", "tpe(n_startup_trials=-5)", "tpe(n_startup_trials='x')", "tpe(seed=1)",
        "tpe(multivariate=2.5)", "tpe(n_ei_candidates=True)", "nsgaii(population_size=1)",
        "__import__('os')", "tpe(**{})", "tpe\0", "Base", None,
    ],
    "pruner": [
        *NO_TEXT, optuna.pruners.NopPruner(), optuna.pruners.NopPruner, "percentile", "median(5)",
        "median(n_startup_trials=-1)", "median(interval_steps=0)", "hyperband(min_resource=-2)",
        "percentile(percentile=200)", "threshold", "none", None,
    ],
    "storage": [
        *NO_TEXT, Path("study.db"), "study.db", "nothing://there", "postgresql://host:port/db",
        "mysql+nothing://host/db", "journal:///no/such/folder/a.log", "journal:///", "://", "a://",
        "sqlite:////no/such/folder/a.db", "sqlite:////", "journal:///dev/null/a",
    ],
    "out": ["", 42, True, [], b"x", "x" * 300, Path("y" * 300), "a\0b", "/dev/null/a", "/proc/a"],
    "method": [Climber(), None, 3, "", "climber", Space, dict, object(), ["dsm"], Method],
    "space": [3, "toy", None, {"a": [1, 2]}, [SPACE]],
    "direction": ["up", None, 1, "", True],
    "constraints": ["flops<=3", None, 3, [3], ["flops"], ["flops<=x"], [None], ["<=3"]],
    "within": [42, True, [], "", "no/such/run", Space({"a": range(2)}), Path("no/such/run"), 0.5],
    "edits": ["x", 0, 7, 2.5, None, [], float("nan"), "2.5"],
    "edit": [1, None],
}  # fmt: skip


@pytest.mark.parametrize("argument", MALFORMED)
def test_malformed_calls(tmp_path, monkeypatch, argument):
    """Many of them raised something raw or were accepted: trials="5", trials=2.5, seeds=True,
    sampler=RandomSampler(), storage=Path(...), names of 300 characters ..."""
    monkeypatch.chdir(tmp_path)
    called, passed = [], []
    rng = np.random.default_rng(0)
    for value in MALFORMED[argument]:
        options = {"out": tmp_path / "s", argument: value}
        other = list(MALFORMED)[rng.integers(len(MALFORMED))]  # and one that is wrong in two ways
        wrong = MALFORMED[other][rng.integers(len(MALFORMED[other]))]
        for more in ({}, {other: wrong}):
            try:
                tune(evaluate=called.append, **{**more, **options})
            except NasplugError as error:
                if called:
                    passed.append((argument, value, more, f"searched first: {error}"))
                    called.clear()
            except Exception as error:
                passed.append((argument, value, more, repr(error)))
            else:
                passed.append((argument, value, more, "was accepted"))
    assert not passed, str(passed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"hello\n", b"\x00\xff\xfe" * 50, b"[1]\n", b'{"a": 1}\n'])
def test_a_storage_that_is_some_other_file(tmp_path, content):
    file = tmp_path / "notes"
    file.write_bytes(content)
    for url in (f"journal://{file}", f"sqlite:///{file}"):
        with pytest.raises(NasplugError, match=str(file)):
            tune(tmp_path / "s", storage=url)
    assert file.read_bytes() == content


def test_sync_waits_for_the_process_that_still_sends(tmp_path):
    if importlib.util.find_spec("mlflow") is None:  # it is for another process to import
        pytest.skip("needs MLflow")
    from nasplug.tracking.study import StudySender

    tune(tmp_path / "s", trials=1)
    sender = StudySender(tmp_path / "s", "http://127.0.0.1:1")
    with Presence(tmp_path / "s/tracking.lock"):
        assert not sender.advance(alone=True)
        assert not sender.done


# ---- plots, the command line


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    tune(tmp_path / "s", objectives=("value", "seconds"), trials=4, params=("edits", "rate"))
    for name in ("history", "importance", "parallel", "slice", "pareto"):
        picture = (tmp_path / f"s/{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5000
    if importlib.util.find_spec("plotly") is not None:
        page = (tmp_path / "s/plots.html").read_text()
        assert page.count("plotly-graph-div") >= 5
        assert "cdn." not in page[:2000]


def nasplug_command(*words):
    command = [sys.executable, "-m", "nasplug", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line(tmp_path, nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path))
    words = "tune regularized-evolution --on nb201/toy --trials 3 --seeds 2 --budget 12 --no-track"
    done = nasplug_command(*words.split(), "--params", "population", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["states"].keys() <= {"complete", "pruned"}
    best = tmp_path / "tune-regularized-evolution-nb201-toy-0/best.json"
    assert json.loads(best.read_text())["hyperparameters"] == answer["hyperparameters"]
    assert "defaults" in done.stderr

    run = "run regularized-evolution --on nb201/toy --budget 12 --no-track --set tournament=2"
    done = nasplug_command(*run.split(), "--config", str(best), "--out", str(tmp_path / "r"))
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "r/run.json").read_text())["hyperparameters"]
    assert made == {"tournament": 2, **answer["hyperparameters"]}

    bad = nasplug_command("run", "random", "--on", "nb201/toy", "--config", str(best))
    assert (bad.returncode, "Traceback" in bad.stderr) == (2, False)
    assert "of regularized-evolution, not of random" in bad.stderr
    bad = nasplug_command(*words.split(), "--storage", "postgresql://127.0.0.1:1/x")
    assert (bad.returncode, "Traceback" in bad.stderr) == (2, False)
    assert "127.0.0.1:1/x" in bad.stderr


def test_nasplug_does_not_bring_optuna_along():
    code = "import nasplug, sys; assert 'optuna' not in sys.modules; nasplug.tune"
    subprocess.run([sys.executable, "-c", code], check=True)
