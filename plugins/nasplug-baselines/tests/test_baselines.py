"""The baselines: each against what its algorithm says."""

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError, Space
from nasplug.testing import method_checks
from nasplug_baselines.local_search import LocalSearch
from nasplug_baselines.random import Random
from nasplug_baselines.regularized_evolution import RegularizedEvolution
from nasplug_baselines.reinforce import Reinforce

SPACE = Space({f"d{i}": range(4) for i in range(6)})
METHODS = ["random", "regularized-evolution", "local-search", "reinforce"]
CHECKED = [*METHODS, "bananas", "nsga2", "hyperband", "successive-halving"]
CHECKS = {f"{name}-{check}": check for name in CHECKED for check in method_checks(name)}


def count_threes(arch):
    return sum(choice == 3 for choice in arch.values())


def search(method, **options):
    options = {"space": SPACE, "evaluate": count_threes, "budget": 150, "tracking": False} | options
    return nasplug.search(method, **options)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_they_behave(check):
    check()


@pytest.mark.parametrize("method", METHODS[1:])
def test_learning_beats_random_search(method):
    def mean(name):
        return np.mean([search(name, seed=seed, budget=80).best.value for seed in range(10)])

    assert mean(method) > mean("random") + 0.5


def test_random_proposes_in_batches():
    result = search(Random(batch=64), budget=100, repeats="count")
    assert np.bincount(result.search.trials.rounds).tolist() == [64, 36]


def test_evolution_mutates_the_best_of_its_tournament_and_forgets_the_oldest():
    method = RegularizedEvolution(population=5, tournament=5)
    trials = search(method, budget=40, repeats="count").search.trials
    for i in range(5, 40):
        alive = slice(i - 5, i)
        best = trials.archs[alive][
            np.flatnonzero(trials.values[alive] == trials.values[alive].max())
        ]
        assert SPACE.distance(best, trials.archs[i]).min() == 1
    with pytest.raises(NasplugError, match="cannot exceed population"):
        search(RegularizedEvolution(population=2, tournament=3))


@pytest.mark.parametrize("step", ["best", "first"])
def test_local_search_climbs_to_an_optimum_before_it_restarts(step):
    """On a function without local optima it ends at the top: every move is one edit up."""
    trials = search(LocalSearch(step=step), budget=90, repeats="count").search.trials
    top = int(np.flatnonzero(trials.values == 6)[0])
    standing = 0
    for i in range(1, top + 1):
        assert SPACE.distance(trials.archs[standing], trials.archs[i]) == 1
        if step == "first" and trials.values[i] > trials.values[standing]:
            standing = i
        if step == "best" and i - standing_since(trials, i) == 18:
            since = standing_since(trials, i)
            standing = since + 1 + int(np.argmax(trials.values[since + 1 : i + 1]))


def standing_since(trials, i):
    """With the best step, neighborhoods of 18 are tried whole: where the current one began."""
    return (i - 1) // 18 * 18


def test_reinforce_against_a_hand_computed_step():
    """The first reward is the baseline, so it teaches nothing; the second moves the logits."""
    method = Reinforce(lr=0.5, decay=0.9)
    space = Space({"a": range(2), "b": range(3)})
    run = nasplug.Search(
        nasplug.Problem(space, "hand", nasplug.Method(), "none"), method, budget=2, repeats="count"
    )
    for value in (1.0, 3.0):
        trials = run.candidates([[1, 2]])
        trials.tell(values=[value])
        method.update(search=run, trials=trials)
    # advantage 3 - 1 = 2; gradient 2 * (chosen - p); Adam's second step on (0, g) moves by
    # lr * (0.1 g / 0.19) / sqrt(0.001 g^2 / 0.001999).
    step = 0.5 * (0.1 / 0.19) / np.sqrt(0.001 / 0.001999)
    assert method.baseline == pytest.approx(1.2)
    expected = [[-step, step, -np.inf], [-step, -step, step]]
    np.testing.assert_allclose(method.logits, expected, rtol=1e-6)
    assert method.probabilities()[0, 2] == 0
