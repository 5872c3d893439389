"""The checks of methods name every planted fault, and nothing where there is none."""

import random
import threading
import time

import pytest

from nasplug import hookimpl
from nasplug.testing import CheckFailed, NotApplicable, check_method, method_checks, results
from nasplug.testing.bench import Bench
from tests import faulty_methods as faulty

STRANGERS = [faulty.Correct, faulty.Checkpointed]
INSIDE = {"stays_in_a_mask", "stays_in_a_ball", "stays_in_layers"}
UNSTEADY = {  # what compares searches that have to be the same
    "same_seed_same_trials", "begins_anew", "searches_share_nothing", "failures_teach_nothing",
    "minimises_as_it_maximises", "resumes_as_if_never_interrupted", "proposes_several_at_once",
    "takes_workers",
}  # fmt: skip

# The check that has to name the fault, and those that may fail because of it.
FAULTS = {
    faulty.LeaksOverSearches: ("searches_share_nothing", UNSTEADY),
    faulty.NeverForgets: ("begins_anew", set()),
    faulty.ForgetsItsState: ("takes_up_its_state", {"resumes_as_if_never_interrupted"}),
    faulty.StatesObjects: ("keeps_a_plain_and_small_state", {"resumes_as_if_never_interrupted"}),
    faulty.SharesRandomness: ("leaves_global_randomness_alone", UNSTEADY),
    faulty.IgnoresTheSeed: ("other_seed_other_trials", set()),
    faulty.IgnoresWithin: ("stays_in_a_set", INSIDE),
    faulty.MutatesByHand: ("proposes_no_isomorphs_as_new", set()),
    faulty.SelectsTheHighest: ("selects_what_keeps_to_constraints", {"goes_on_after_failures"}),
    faulty.ListsTheSpace: ("takes_a_trillion_archs", set()),
    faulty.WantsTwoChoices: ("takes_one_choice", set()),
    faulty.MutatesTheHistory: ("leaves_the_history_alone", set()),
    faulty.MisreadsTheDirection: ("minimises_as_it_maximises", set()),
    faulty.TrustsFailures: ("failures_teach_nothing", set()),
    faulty.ForgetsFailures: ("goes_on_after_failures", set()),
    faulty.ExpectsOne: ("proposes_several_at_once", {"takes_workers"}),
    faulty.NotAsynchronous: ("learns_in_any_order", set()),
    faulty.StopsOneShort: ("spends_its_budget", {"takes_a_budget_of_one", "counts_repeats"}),
    faulty.BreaksAtItsBound: ("works_at_every_bound", set()),
    faulty.MisspellsAnAblation: ("declares_ablations_it_takes", set()),
}


def failed(checks):
    return {result.name for result in results(checks) if result.state == "failed"}


@pytest.mark.parametrize("method", FAULTS)
def test_every_fault_is_named(method):
    expected, may = FAULTS[method]
    found = failed(method_checks(method()))
    assert expected in found
    assert found <= may | {expected}


def test_a_slow_method_is_named(monkeypatch):
    monkeypatch.setattr("nasplug.testing.methods.SECONDS", 0.01)
    checks = {check.name: check for check in method_checks(faulty.Dawdles)}
    checks["searches"]()
    with pytest.raises(CheckFailed, match=r"proposes_quickly\n.*\n.*0.02 s a round\n.*vectorise"):
        checks["proposes_quickly"]()


@pytest.mark.parametrize("method", STRANGERS)
def test_a_correct_stranger_passes(method):
    assert not failed(method_checks(method()))


def test_a_search_is_set_up_once_to_see_what_a_method_needs():
    class Evaluates(faulty.Correct):
        setups = 0

        def setup(self, search):
            super().setup(search)
            Evaluates.setups += 1

        @hookimpl
        def evaluate(self, candidates):
            return candidates.tell(values=candidates.archs.sum(1))

    assert not Bench(Evaluates).trains
    assert Evaluates.setups == 1


def test_one_error_names_all_that_failed():
    with pytest.raises(
        CheckFailed, match=r"failed: spends_its_budget, takes_a_budget_of_one, "
    ) as e:
        check_method(faulty.StopsOneShort)
    assert "happened: 23 trials with a budget of 24: nothing new is proposed" in str(e.value)
    assert "fix: `propose` returns at least one arch" in str(e.value)
    check_method(faulty.Correct)


def test_what_does_not_apply_is_skipped_with_its_reason():
    checks = {check.name: check for check in method_checks(faulty.Correct())}
    with pytest.raises(NotApplicable, match="keeps no state"):
        checks["takes_up_its_state"]()


def test_pytest_shows_the_names_of_checks(pytester):
    pytester.makepyfile(
        """
        import pytest
        from nasplug.testing import method_checks

        @pytest.mark.parametrize("check", method_checks("random")[:3])
        def test_it_behaves(check):
            check()

        @pytest.mark.parametrize("check", method_checks("random")[-1:])
        def test_of_a_state(check):
            check()
        """
    )
    result = pytester.runpytest_subprocess("-v", "-rs", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*::test_it_behaves?spends_its_budget? PASSED*"])
    result.stdout.fnmatch_lines(["SKIPPED*it keeps no state, and is replayed*"])
    result.assert_outcomes(passed=3, skipped=1)


def test_what_other_threads_draw_is_not_the_methods():
    """As those of a cluster that some other test has left do."""
    over = threading.Event()

    def draw():
        while not over.is_set():
            random.random()
            time.sleep(0.001)

    other = threading.Thread(target=draw)
    other.start()
    try:
        (check,) = (
            check for check in method_checks(faulty.Correct())
            if check.name == "leaves_global_randomness_alone"
        )  # fmt: skip
        check()
    finally:
        over.set()
        other.join()
