"""The checks of spaces, evaluators and plugins name every planted fault, and nothing else."""

import numpy as np
import pytest

import nasplug
from nasplug.kernel.registry import registry
from nasplug.testing import (
    CheckFailed,
    TinySpace,
    check_evaluator,
    check_plugin,
    check_space,
    evaluator_checks,
    plugin_checks,
    results,
    space_checks,
    tiny_problem,
)
from tests import faulty_others as faulty
from tests.faulty_methods import Correct

# The check that has to name the fault, and those that may fail because of it.
SPACES = {
    faulty.WritesTooLittle: ("reads_the_text_it_writes", set()),
    faulty.ReadsBackwards: ("reads_the_text_it_writes", set()),
    faulty.SamplesAnything: (
        "samples_valid_archs", {"has_mutual_neighbors", "has_one_canonical_form"}
    ),
    faulty.MovesOn: ("has_one_canonical_form", set()),
    faulty.WritesOver: ("has_one_canonical_form", {"has_mutual_neighbors", "mutates_to_neighbors"}),
    faulty.LooksUpward: ("has_mutual_neighbors", set()),
    faulty.MutatesFar: ("mutates_to_neighbors", set()),
    faulty.NamesByAddress: ("keeps_its_fingerprint", set()),
    faulty.MiscountsParams: ("counts_params_of_what_it_builds", set()),
    faulty.ChoosesTooWide: ("chooses_in_its_supernet", set()),
}  # fmt: skip
UNSTEADY = {  # what scores the same archs in two ways
    "keeps_the_order", "scores_alone_as_together", "leaves_told_rows_alone", "scores_in_a_worker",
    "scores_in_a_search_as_outside", "scores_the_same_again",
}  # fmt: skip
EVALUATORS = {
    faulty.SaysNothing: ("says_what_it_is", set()),
    faulty.SkipsTheLast: ("scores_every_row", UNSTEADY),
    faulty.Sorts: ("keeps_the_order", UNSTEADY),
    faulty.RanksThem: ("scores_alone_as_together", UNSTEADY),
    faulty.CountsCalls: ("scores_the_same_again", UNSTEADY),
    faulty.SharesNoise: ("leaves_global_randomness_alone", UNSTEADY),
    faulty.Raises: (
        "fails_row_by_row", UNSTEADY | {"scores_every_row", "leaves_global_randomness_alone"}
    ),
    faulty.FailsSilently: ("fails_row_by_row", set()),
    faulty.TellsAllAgain: ("leaves_told_rows_alone", set()),
    faulty.HoldsALock: ("scores_in_a_worker", set()),
    faulty.KnowsTheRound: ("scores_in_a_search_as_outside", set()),
}  # fmt: skip
PLUGINS = {
    faulty.CountsSearches: (
        "searches_share_nothing",
        {"same_seed_same_trials", "begins_anew", "resumes_as_if_never_interrupted",
         "stays_in_a_set", "takes_workers"},
    ),
    faulty.WantsTrials: ("hands_regions_on", set()),
    faulty.AddsItsOwn: ("stays_in_a_set", {"takes_workers"}),
    faulty.ShiftsValues: ("leaves_the_history_alone", set()),
    faulty.StopsAtOnce: ("begins_anew", set()),
}  # fmt: skip


def failed(checks):
    return {result.name for result in results(checks) if result.state == "failed"}


def assert_named(checks, expected, may):
    found = failed(checks)
    assert expected in found
    assert found <= may | {expected}


@pytest.mark.parametrize("space", SPACES)
def test_every_fault_of_a_space_is_named(space):
    if hasattr(space, "shape"):
        pytest.importorskip("torch")
    assert_named(space_checks(space()), *SPACES[space])


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_every_fault_of_an_evaluator_is_named(evaluator):
    pytest.importorskip("cloudpickle")
    assert_named(evaluator_checks(evaluator()), *EVALUATORS[evaluator])


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_fault_of_a_plugin_is_named(plugin):
    pytest.importorskip("cloudpickle")
    assert_named(plugin_checks(plugin), *PLUGINS[plugin])


def test_correct_strangers_pass():
    for space in (TinySpace(), nasplug.Space({"a": ["only"]}), nasplug.Space({"a": range(300)})):
        check_space(space)
    check_evaluator(faulty.Scores())
    check_evaluator(tiny_problem(direction="minimize"))
    check_plugin(faulty.Counts)


def test_a_correct_space_that_builds_passes():
    pytest.importorskip("torch")
    states = {result.name: result.state for result in results(space_checks(faulty.Builds()))}
    assert states["counts_params_of_what_it_builds"] == states["builds_networks"] == "ok"
    assert "failed" not in states.values()


@pytest.mark.parametrize("name", registry().spaces)
def test_every_space_of_the_project_passes(name):
    pytest.importorskip("torch")
    check_space(name)


def test_a_table_passes(nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    check_evaluator("nb201/toy")


def test_one_error_names_all_that_failed():
    with pytest.raises(CheckFailed, match="failed: counts_params_of_what_it_builds") as error:
        check_space(faulty.MiscountsParams())
    assert "parameters, and params says" in str(error.value)
    assert "fix: count in `params` what `build` makes" in str(error.value)


# ---- the fixtures of the pytest plugin


def test_fixtures(run_search, tiny_problem):
    found = run_search(Correct(), budget=9, seed=3)
    assert len(found.search.trials) == 9
    assert found.search.space.fingerprint == tiny_problem.space.fingerprint
    again = run_search(Correct(), problem=tiny_problem, budget=9, seed=3)
    assert np.array_equal(found.search.trials.archs, again.search.trials.archs)
