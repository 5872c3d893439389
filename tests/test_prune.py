"""Pruning decides as Optuna would of the same values, also after an interruption and in workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError, Space, TrialPruned
from nasplug.kernel.trial import State

optuna = pytest.importorskip("optuna")
pytest.importorskip("nasplug_baselines")
SPACE = Space({f"d{i}": range(5) for i in range(6)}, name="toy")
STEPS = 9
PRUNERS = (
    "median", "median(n_startup_trials=2, n_warmup_steps=1)", "percentile(percentile=30.0)",
    "successivehalving", "hyperband(min_resource=1, max_resource=9)", "threshold(lower=20.0)",
    "nop",
)  # fmt: skip


def curve(arch):
    """What is reported of an arch: curves that cross, some of them broken."""
    total = sum(arch.values())
    values = [total * step + 10.0 * ((total * 7) % 5) for step in range(1, STEPS + 1)]
    return [np.nan, *values[1:]] if total % 11 == 0 else values


def evaluate(arch, trial):
    for step, value in enumerate(curve(arch), 1):
        trial.report(value, step)
        if trial.should_prune():
            raise TrialPruned
    if sum(arch.values()) % 4 == 0:
        raise ValueError("failed after its last step")
    return value


def search(prune="median", **options):
    options = {"evaluate": evaluate, "budget": 120, "tracking": False, **options}
    return nasplug.search("random", space=SPACE, prune=prune, **options).search.trials


def by_optuna(archs, pruner, direction):
    """The steps that each arch reached, as Optuna itself would have run them."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(study_name="nasplug", pruner=pruner, direction=direction)
    queue = iter(archs)

    def objective(trial):
        arch = SPACE.to_dict(next(queue))
        for step, value in enumerate(curve(arch), 1):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        if sum(arch.values()) % 4 == 0:
            raise ValueError
        return value

    study.optimize(objective, n_trials=len(archs), catch=ValueError)
    return [len(trial.intermediate_values) for trial in study.trials]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("prune", PRUNERS)
def test_trials_end_where_optuna_ends_them(prune, direction):
    trials = search(prune, direction=direction)
    reached = [len(trial.intermediate_values) for trial in trials]
    name, _, options = prune.partition("(")
    cls = {n.lower(): getattr(optuna.pruners, n) for n in dir(optuna.pruners)}[f"{name}pruner"]
    pruner = cls(**eval(f"dict({options or ')'}"))
    assert reached == by_optuna(trials.archs, pruner, direction)
    pruned = {trial.state for trial in trials if len(trial.intermediate_values) < STEPS}
    assert pruned == (set() if prune == "nop" else {State.PRUNED})


def test_true_is_the_median_and_an_object_is_taken_as_it_is(tmp_path):
    median = optuna.pruners.MedianPruner(n_startup_trials=5)
    assert search(True).states.tolist() == search(median).states.tolist()
    search(median, out=tmp_path / "run", budget=20)
    with pytest.raises(NasplugError, match="prune=pruner"):
        nasplug.resume(tmp_path / "run", evaluate=evaluate)
    nasplug.resume(tmp_path / "run", evaluate=evaluate, prune=median)


@pytest.mark.parametrize("prune", ["median", "hyperband(min_resource=1, max_resource=9)"])
def test_an_interrupted_search_prunes_the_same(tmp_path, prune):
    calls = iter(range(70))

    def interrupted(arch, trial):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return evaluate(arch, trial)

    whole = search(prune)
    with pytest.raises(KeyboardInterrupt):
        search(prune, evaluate=interrupted, out=tmp_path / "run")
    again = nasplug.resume(tmp_path / "run", evaluate=evaluate).search.trials
    assert np.array_equal(again.archs, whole.archs)
    assert np.array_equal(again.states, whole.states)


@pytest.mark.parametrize("prune", ["median", "hyperband(min_resource=1, max_resource=9)"])
def test_workers_prune_by_the_rounds_before(prune):
    first, again = (search(prune, workers=ThreadPoolExecutor(3)) for _ in range(2))
    assert first.states.tolist() == again.states.tolist()
    assert 0 < (first.states == State.PRUNED).sum() < 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": "nosuch"}, "unknown pruner"),
        ({"prune": "hyperband(no=1)"}, "HyperbandPruner takes"),
        ({"prune": 3}, "one of Optuna's pruners"),
        ({"evaluate": lambda arch: 1.0}, "prune is for trials that report"),
    ],
)
def test_refused(options, message):
    with pytest.raises(NasplugError, match=message):
        search(**options)
