"""Pruning by the median: against numpy's, and after an interruption."""

import numpy as np
import pytest

import nasplug
from nasplug import Space, TrialPruned
from nasplug.kernel.trial import State

SPACE = Space({f"d{i}": range(5) for i in range(6)}, name="toy")
STEPS, WARMUP = 4, 5


def curve(arch):
    """What is reported of an arch: curves that cross, some of them broken."""
    total = sum(arch.values())
    values = [total * step + 10.0 * ((total * 7) % 5) for step in range(STEPS)]
    return [np.nan, *values[1:]] if total % 11 == 0 else values


def evaluate(arch, trial):
    for step, value in enumerate(curve(arch)):
        trial.report(value, step)
        if trial.should_prune():
            raise TrialPruned
    if sum(arch.values()) % 4 == 0:
        raise ValueError("failed after its last step")
    return value


def search(**options):
    options = {"evaluate": evaluate, "budget": 150, "prune": True, "tracking": False, **options}
    return nasplug.search("random", space=SPACE, **options)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_pruned_is_what_is_worse_than_the_median_of_those_before(direction):
    trials = search(direction=direction).search.trials
    sign = 1 if direction == "maximize" else -1
    reported = [trial.intermediate_values for trial in trials]
    for number, trial in enumerate(trials):
        for step, value in reported[number].items():
            before = [past[step] for past in reported[:number] if step in past]
            before = [one for one in before if not np.isnan(one)]
            worse = len(before) >= WARMUP and sign * value < sign * np.median(before)
            last = step == max(reported[number])
            assert worse == (last and trial.state == State.PRUNED), (number, step)
    assert {State.COMPLETE, State.PRUNED, State.FAILED} == {trial.state for trial in trials}


def test_an_interrupted_search_prunes_the_same(tmp_path):
    calls = iter(range(70))

    def interrupted(arch, trial):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return evaluate(arch, trial)

    whole = search().search.trials
    with pytest.raises(KeyboardInterrupt):
        search(evaluate=interrupted, out=tmp_path / "run")
    again = nasplug.resume(tmp_path / "run", evaluate=evaluate).search.trials
    assert np.array_equal(again.archs, whole.archs)
    assert np.array_equal(again.states, whole.states)
