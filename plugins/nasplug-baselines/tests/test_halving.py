"""Successive halving, ASHA and Hyperband, against the tables and boxes of their papers."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError, Space, State
from nasplug_baselines.hyperband import Hyperband
from nasplug_baselines.successive_halving import SuccessiveHalving

SPACE = Space({f"d{i}": range(9) for i in range(6)})


def evaluate(arch, trial):
    """Better the longer it is trained, and the best become better still."""
    return sum(arch.values()) * trial.fidelity


def search(method, budget, fidelity=(1, 81), function=evaluate, **options):
    return nasplug.search(
        method, space=SPACE, evaluate=function, fidelity=fidelity, budget=budget, tracking=False,
        progress=False, **options,
    )  # fmt: skip


def rungs(trials):
    """[(archs, fidelity)] as they come one after the other."""
    found: list[list[int]] = []
    for fidelity in trials.fidelities.tolist():
        if not found or found[-1][1] != fidelity:
            found.append([0, fidelity])
        found[-1][0] += 1
    return [tuple(rung) for rung in found]


def test_the_brackets_of_hyperband_are_those_of_the_paper():
    """Li et al. (2018) for R = 81, η = 3: n = ⌈B/R · η^s/(s+1)⌉, n_i = ⌊n η^-i⌋, r_i = r η^i."""
    trials = search("hyperband", 206).search.trials
    assert rungs(trials) == [
        (81, 1), (27, 3), (9, 9), (3, 27), (1, 81),
        (34, 3), (11, 9), (3, 27), (1, 81),
        (15, 9), (5, 27), (1, 81),
        (8, 27), (2 + 5, 81),  # the last bracket begins where this one ends
    ]  # fmt: skip


def test_hyperband_begins_again_and_may_be_kept_to_its_first_brackets():
    found = rungs(search(Hyperband(brackets=2), 200, (1, 9)).search.trials)
    first = [(9, 1), (3, 3), (1, 9), (5, 3), (1, 9)]
    assert found[: len(first)] == first
    assert found[len(first) : len(first) + 2] == first[:2]


@pytest.mark.parametrize(
    ("fidelity", "eta", "fidelities"),
    [
        ((1, 27), 3, [1, 3, 9, 27]), ((2, 27), 3, [3, 9, 27]), ((1, 12), 3, [1, 4, 12]),
        ((1, 5), 3, [2, 5]), ((5, 12), 3, [12]), ((1, 243), 3, [1, 3, 9, 27, 81, 243]),
        ((1, 10), 2, [1, 2, 5, 10]), ((7, 7), 2, [7]),
    ],
)  # fmt: skip
def test_the_rungs_end_at_the_full_fidelity(fidelity, eta, fidelities):
    trials = search(SuccessiveHalving(eta=eta), 2, fidelity).search
    assert trials.method.fidelities == fidelities


@pytest.mark.parametrize("workers", [None, 4])
def test_of_each_rung_the_best_go_on(workers):
    options = {} if workers is None else {"workers": ThreadPoolExecutor(workers)}
    trials = search("successive-halving", 40, (1, 27), **options).search.trials
    assert rungs(trials) == [(27, 1), (9, 3), (3, 9), (1, 27)]
    first = 0
    for n in (27, 9, 3):
        rung = slice(first, first + n)
        best = trials.archs[rung][np.argsort(-trials.values[rung], kind="stable")][: n // 3]
        assert np.array_equal(trials.archs[first + n : first + n + n // 3], best)
        first += n
    if workers:
        assert np.bincount(trials.rounds).tolist() == [4] * 6 + [3] + [4, 4, 1, 3, 1]


def test_what_has_failed_goes_nowhere_and_a_rung_of_failures_ends_its_bracket():
    def fails(arch, trial):
        if trial.fidelity > 1 or arch["d0"] > 1:
            raise ValueError("no")
        return evaluate(arch, trial)

    trials = search(SuccessiveHalving(n=9), 40, (1, 9), fails).search.trials
    higher = trials.fidelities > 1
    assert (trials.fidelities <= 3).all()
    assert (trials.archs[higher, 0] <= 1).all()
    assert (trials.states[higher] == State.FAILED).all()
    assert 1 < higher.sum() < 20


def test_minimising_promotes_the_smallest():
    trials = search(SuccessiveHalving(n=9), 12, (1, 3), direction="minimize").search.trials
    assert rungs(trials) == [(9, 1), (3, 3)]
    assert sorted(trials.values[9:] / 3) == sorted(trials.values[:9])[:3]


def test_asha_promotes_as_soon_as_the_third_of_a_rung_is_known():
    """One worker, so that the algorithm can be followed by hand."""
    options = {"workers": ThreadPoolExecutor(1), "asynchronous": True}
    trials = search("successive-halving", 60, (1, 9), **options).search.trials
    fidelities = trials.fidelities.tolist()
    assert fidelities[:9] == [1, 1, 1, 3, 1, 1, 1, 3, 1]
    told: dict[int, dict[bytes, float]] = {1: {}, 3: {}, 9: {}}
    for arch, fidelity, value in zip(trials.archs, fidelities, trials.values, strict=True):
        key, promotable = arch.tobytes(), None
        for low, high in ((3, 9), (1, 3)):
            best = sorted(told[low], key=lambda key, low=low: -told[low][key])
            waiting = [key for key in best[: len(best) // 3] if key not in told[high]]
            if waiting:
                promotable = waiting[0], high
                break
        assert (key, fidelity) == promotable if promotable else fidelity == 1
        told[fidelity][key] = value


def test_asha_with_several_workers_promotes_nothing_twice():
    options = {"workers": ThreadPoolExecutor(4), "asynchronous": True}
    trials = search("successive-halving", 120, (1, 27), **options).search.trials
    counts = Counter(trials.fidelities.tolist())
    assert counts[1] > counts[3] > counts[9] > counts[27] > 0
    pairs = {(arch.tobytes(), f) for arch, f in zip(trials.archs, trials.fidelities, strict=True)}
    assert len(pairs) == 120


def test_a_rung_needs_rounds_that_are_whole_in_hyperband():
    with pytest.raises(NasplugError, match="learns from whole rounds"):
        search("hyperband", 9, workers=ThreadPoolExecutor(2), asynchronous=True)


@pytest.mark.parametrize("method", ["hyperband", "successive-halving"])
def test_without_a_fidelity_it_is_refused_in_words(method):
    with pytest.raises(NasplugError, match=f"{method} needs an evaluator with a fidelity"):
        nasplug.search(
            method, space=SPACE, evaluate=lambda arch: 0.0, budget=3, tracking=False
        )  # fmt: skip
