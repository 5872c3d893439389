"""Trials at once: the same trials whoever scores them, and none lost when a worker dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import psutil
import pytest

import nasplug
from nasplug import NasplugError, State, TrialPruned, hookimpl
from nasplug.run.directory import RunDirectory

pytest.importorskip("loky")
pytest.importorskip("nasplug_baselines")
SPACE = nasplug.Space({f"x{i}": [0, 1, 2, 3, 4] for i in range(5)})


def total(arch):
    return sum((i + 1) * x for i, x in enumerate(arch.values()))


def search(method="regularized-evolution", evaluate=total, budget=24, **options):
    options = {"workers": 2, "tracking": False, "progress": False} | options
    return nasplug.search(method, space=SPACE, evaluate=evaluate, budget=budget, **options)


def rows(result):
    """What must not depend on who scored it."""
    trials = result.search.trials
    return [(t.number, t.arch.tolist(), t.value, t.state, t.round) for t in trials]


def threads(n):
    """An executor like any other, and quick."""
    return ThreadPoolExecutor(n)


# ---- the same trials


def test_processes_threads_and_the_next_run_score_the_same():
    first = search()
    assert rows(first) == rows(search()) == rows(search(workers=threads(2)))
    assert rows(first) != rows(search(workers=threads(3))), "rounds are of as many as workers"
    assert max(trial.round for trial in first.search.trials) < len(first.search.trials) - 1


@pytest.mark.parametrize("method", ["random", "local-search", "reinforce", "regularized-evolution"])
def test_no_worker_waits_where_there_is_something_to_do(method):
    found = search(method, workers=threads(4), budget=40)
    sizes = np.bincount(found.search.trials.rounds)
    assert len(found.search.trials) == 40
    assert np.median(sizes) >= 3


@pytest.mark.parametrize("method", ["dsm", "lissnas", "shrink-random"])
def test_methods_of_larger_rounds_take_workers_too(method):
    pytest.importorskip(f"nasplug_{'shrinkers' if 'shrink' in method else method}")
    assert len(search(method, workers=threads(3), budget=40).search.trials) == 40


def test_interrupted_and_resumed_by_others_is_never_interrupted(tmp_path):
    never = search(workers=threads(3))

    class Interrupt:
        @hookimpl
        def update(self, search):
            if search.round == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(workers=threads(3), out=tmp_path / "run", plugins=[Interrupt()])
    with pytest.raises(NasplugError, match="workers=executor"):
        nasplug.resume(tmp_path / "run", evaluate=total)
    found = nasplug.resume(tmp_path / "run", evaluate=total, workers=threads(1), progress=False)
    assert rows(found) == rows(never)


def test_a_run_knows_its_processes(tmp_path):
    found = search(out=tmp_path / "run")
    again = nasplug.resume(tmp_path / "run", evaluate=total, progress=False)
    assert rows(found) == rows(again)
    assert again.search.at_once == 2


# ---- what a trial says comes back


def test_reports_attributes_metrics_and_states_come_back():
    def evaluate(arch, trial):
        trial.report(0.5, 1)
        trial.set_user_attr("process", os.getpid())
        if arch["x0"] == 0:
            raise TrialPruned
        if arch["x0"] == 1:
            raise ValueError("no")
        return {"value": arch["x1"], "report": 7.0, "cost": 2.0, "latency": 3.0}

    trials = search("random", evaluate, budget=30).search.trials
    assert {trial.state for trial in trials} == {State.COMPLETE, State.PRUNED, State.FAILED}
    for trial in trials:
        assert trial.user_attrs["process"] != os.getpid()
        assert trial.intermediate_values == {1: 0.5}
        if trial.state == State.COMPLETE:
            assert (trial.report_value, trial.cost, trial.metrics) == (7.0, 2.0, {"latency": 3.0})
        elif trial.state == State.FAILED:
            assert f"ValueError: no ({__file__}, line" in trial.user_attrs["error"]
        else:
            assert trial.value == 0.5


def test_an_error_that_cannot_travel_is_a_failed_trial():
    def evaluate(arch):
        class OddError(Exception):
            def __reduce__(self):
                raise TypeError("never")

        raise OddError("what went wrong")

    with pytest.raises(NasplugError, match="every trial failed; the last said: OddError"):
        search(evaluate=evaluate, budget=4)


def test_pruning_works_across_processes():
    def evaluate(arch, trial):
        for step in range(3):
            trial.report(total(arch), step)
            if trial.should_prune():
                raise TrialPruned
        return total(arch)

    found = search("random", evaluate, budget=40, prune=True, workers=threads(2))
    states = [trial.state for trial in found.search.trials]
    assert states.count(State.PRUNED) > 5
    assert rows(found) == rows(search("random", evaluate, budget=40, prune=True))


# ---- workers that die


def workers():
    """The processes of this one's workers."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it is dying
            if "loky.backend.popen" in (line := " ".join(child.cmdline())):
                found += [child.pid] if "resource_tracker" not in line else []
    return found


def test_workers_that_are_killed_cost_no_trial(tmp_path):
    def evaluate(arch):
        time.sleep(0.01)
        return total(arch)

    killed = []

    class Killer:
        """Kills a worker while it scores."""

        @hookimpl
        def propose(self, search):
            if search.round % 3 == 1 and (alive := workers()):
                os.kill(alive[0], signal.SIGKILL)
                killed.append(alive[0])

    found = search(evaluate=evaluate, plugins=[Killer()], out=tmp_path / "run")
    assert len(killed) >= 3
    assert rows(found) == rows(search())


def test_an_arch_that_kills_its_workers_has_failed():
    def evaluate(arch):
        if arch["x0"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return total(arch)

    found = search("random", evaluate, budget=10, seed=1)
    deadly = [trial for trial in found.search.trials if trial.params["x0"] == 0]
    assert deadly
    for trial in found.search.trials:
        assert (trial.state == State.FAILED) == (trial.params["x0"] == 0)
    assert "its worker died" in deadly[0].user_attrs["error"]


SCRIPT = """
import os, sys, time, nasplug
def evaluate(arch):
    with open(sys.argv[1], "a") as file:
        print(os.getpid(), file=file, flush=True)
    time.sleep(600)
space = nasplug.Space({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]})
nasplug.search("random", space=space, evaluate=evaluate, budget=9, workers=2, tracking=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_is_left_when_the_search_is_ended(tmp_path, how):
    seen = tmp_path / "workers"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, seen], stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (seen.exists() and len(set(seen.read_text().split())) == 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    process.wait(10)
    workers = [int(pid) for pid in seen.read_text().split()]
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in workers):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.05)


# ---- asynchronous


@pytest.mark.parametrize("method", ["random", "reinforce", "regularized-evolution"])
def test_asynchronous_searches_keep_every_trial_and_go_on(tmp_path, method):
    def evaluate(arch):
        time.sleep(0.002 * arch["x0"])
        return total(arch)

    pending = []

    class Watch:
        @hookimpl
        def update(self, search):
            pending.append(len(search.pending))
            if search.finished >= 15 and search.folder:
                raise KeyboardInterrupt

    options = {"workers": threads(4), "asynchronous": True, "evaluate": evaluate, "budget": 40}
    found = search(method, plugins=[Watch()], **options)
    assert max(pending) == 3
    for result in (found, None):
        if result is None:
            with pytest.raises(KeyboardInterrupt):
                search(method, out=tmp_path / "run", plugins=[Watch()], **options)
            kept = len(RunDirectory.open(tmp_path / "run").journal.read())
            assert 15 <= kept < 40
            result = nasplug.resume(
                tmp_path / "run", evaluate=evaluate, workers=threads(4), progress=False
            )
        trials = result.search.trials
        assert trials.numbers.tolist() == list(range(40))
        assert (trials.states == State.COMPLETE).all()
        assert len(SPACE.unique(trials.archs)) == 40
        for trial in trials:
            assert trial.value == total(trial.params)
    again = nasplug.resume(tmp_path / "run", evaluate=evaluate, workers=threads(4), progress=False)
    assert rows(again) == rows(result)


def test_a_free_worker_does_not_wait_for_a_slow_one():
    def evaluate(arch, trial):
        trial.set_user_attr("began", time.monotonic())
        time.sleep(0.4 if trial.number == 0 else 0.01)
        return total(arch)

    found = search("random", evaluate, budget=20, workers=threads(2), asynchronous=True)
    began = [trial.user_attrs["began"] for trial in found.search.trials]
    assert sum(start < began[0] + 0.35 for start in began) > 10


# ---- bad input


class Silent(Executor):
    def submit(self, call, /, *args, **named):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "no number of processes"),
        ({"workers": 10**6}, "no number of processes"),
        ({"workers": True}, "no number of processes"),
        ({"workers": 2.5}, "no number of processes"),
        ({"workers": "no-such"}, "unknown executor 'no-such'"),
        ({"workers": "2 machines"}, "no number of processes"),
        ({"workers": object()}, "no number of processes"),
        ({"workers": Silent()}, "set its attribute max_workers"),
        ({"workers": None, "asynchronous": True}, "say how many, workers=4"),
        ({"asynchronous": True, "method": "local-search"}, "learns from whole rounds"),
        ({"asynchronous": True, "repeats": "count"}, "cannot be asynchronous"),
        ({"evaluate": partial(getattr, Lock())}, "what scores custom/function cannot be sent"),
    ],
)
def test_refused(options, message):
    with pytest.raises(NasplugError, match=message):
        search(**options)


def test_a_table_needs_no_workers(nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    with pytest.raises(NasplugError, match="leave workers= away"):
        nasplug.search("random", "nb201/toy", budget=3, workers=2, tracking=False)


def test_what_is_large_goes_by_a_file_or_not_at_all():
    large = np.arange(10**6)

    def evaluate(arch):
        return float(large[total(arch)])

    assert search(evaluate=evaluate, budget=4).best.value > 0
    with pytest.raises(NasplugError, match="7 MB, too much to send with each trial"):
        search(evaluate=evaluate, budget=4, workers=threads(2))
    assert not list(Path("/tmp").glob("nasplug-*/problem"))
