"""Killed and resumed: the same trials as never killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import Method, NasplugError, Space, hookimpl
from nasplug.kernel.trial import State
from nasplug.run.directory import RunDirectory
from nasplug.run.journal import Journal

SPACE = Space({f"d{i}": range(4) for i in range(6)})

# The search that is killed: a method with memory and randomness, archs that take a while.
SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_resume import SPACE, METHODS, score
import nasplug

def slow(arch):
    time.sleep(0.004)
    return score(arch)

nasplug.search(METHODS[{method!r}](), space=SPACE, evaluate=slow, budget=120, seed=7,
               repeats={repeats!r}, out={out!r}, tracking=False)
"""


def score(arch):
    return sum(choice * (i + 1) for i, choice in enumerate(arch.values()))


class Climber(Method):
    """Mutates its best in batches; replayed from the start."""

    def setup(self, search):
        self.best, self.height = None, -np.inf

    @hookimpl
    def propose(self, search, subspace):
        if self.best is None or search.rng.random() < 0.2:
            return subspace.sample(3, search.rng)
        return subspace.mutate(np.repeat(self.best[None], 3, 0), search.rng)

    @hookimpl
    def update(self, trials):
        for arch, value in zip(trials.archs, trials.scores.tolist(), strict=True):
            if value > self.height:
                self.best, self.height = arch.copy(), value


class Checkpointed(Climber):
    """The same, continued from a checkpoint instead."""

    def state(self):
        best = np.empty(0, int) if self.best is None else self.best
        return {"best": best, "height": float(self.height)}

    def load_state(self, state):
        self.best = state["best"].astype(SPACE.dtype) if len(state["best"]) else None
        self.height = state["height"]


METHODS = {"replayed": Climber, "checkpointed": Checkpointed}


def table(trials):
    names = ("archs", "values", "numbers", "rounds", "repeats", "states")
    return {name: getattr(trials, name).tolist() for name in names}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("repeats", ["free", "count"])
@pytest.mark.parametrize("after", [0.05, 0.3])
def test_killed_and_resumed_is_never_killed(tmp_path, method, repeats, after):
    out = tmp_path / "run"
    script = SCRIPT.format(
        tests=str(Path(__file__).parent), method=method, repeats=repeats, out=str(out)
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (out / "journal.sqlite").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    journaled = Journal(out, read=True).read()
    assert len(journaled) < 120
    calls = []

    def evaluate(arch):
        calls.append(arch)
        return score(arch)

    resumed = nasplug.resume(out, method=METHODS[method](), evaluate=evaluate, progress=False)
    never = nasplug.search(
        METHODS[method](), space=SPACE, evaluate=score, budget=120, seed=7, repeats=repeats,
        tracking=False,
    )  # fmt: skip
    assert table(resumed.search.trials) == table(never.search.trials)
    assert str(resumed.best) == str(never.best)
    fresh = (~never.search.trials.repeats).sum()
    known = sum(not row.repeat for row in journaled)
    assert len(calls) == fresh - known  # what was scored before is not scored again
    rows = Journal(out, read=True).read()
    assert [row.number for row in rows] == list(range(120))
    assert resumed.search.elapsed >= max(row.elapsed for row in rows)


def run(path, **options):
    options = {"space": SPACE, "evaluate": score, "budget": 30, "tracking": False} | options
    return nasplug.search(Climber(), out=path, **options)


def test_resuming_a_finished_run_gives_its_selection_again(tmp_path):
    first = run(tmp_path / "run")
    again = nasplug.resume(tmp_path / "run", method=Climber(), evaluate=lambda arch: 1 / 0)
    assert table(again.search.trials) == table(first.search.trials)


def test_failures_and_notes_survive(tmp_path):
    def evaluate(arch, trial):
        trial.set_user_attr("first", arch["d0"])
        if arch["d0"] == 3:
            raise ValueError("three")
        return {"value": score(arch), "latency": 2.5}

    first = run(tmp_path / "run", evaluate=evaluate)
    again = nasplug.resume(tmp_path / "run", method=Climber(), evaluate=lambda arch: 1 / 0)
    assert again.search.trials.notes == first.search.trials.notes
    assert np.array_equal(
        again.search.trials.metrics["latency"], first.search.trials.metrics["latency"],
        equal_nan=True,
    )  # fmt: skip


def test_searches_within_a_subspace_resume_within_it(tmp_path):
    region = nasplug.Ball(SPACE, [1] * 6, 2)
    first = run(tmp_path / "run", within=region)
    again = nasplug.resume(tmp_path / "run", method=Climber(), evaluate=score)
    assert table(again.search.trials) == table(first.search.trials)
    assert again.search.region.describe() == region.describe()


class Shrinks(Climber):
    @hookimpl
    def select_final(self, search):
        return nasplug.Ball(search.space, search.trials.archs[0], 2)


def test_what_a_run_ended_with_says_in_which_space_it_lies(tmp_path):
    options = {"evaluate": score, "budget": 10}
    nasplug.search(Shrinks(), space=SPACE, out=tmp_path / "run", tracking=False, **options)
    inside = nasplug.search(Climber(), within=tmp_path / "run", tracking=False, **options)
    assert inside.search.space.decisions == SPACE.decisions
    assert inside.search.region.describe().startswith("ball")


class Other(Climber):
    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(1, search.rng)


def test_what_cannot_be_resumed_is_named(tmp_path):
    with pytest.raises(NasplugError, match="is not a run directory"):
        nasplug.resume(tmp_path)
    run(tmp_path / "run")
    with pytest.raises(NasplugError, match="holds a run already: `nasplug resume"):
        run(tmp_path / "run")
    with pytest.raises(NasplugError, match="function of yours"):
        nasplug.resume(tmp_path / "run")
    with pytest.raises(NasplugError, match="does not replay: trial 1 was another arch"):
        nasplug.resume(tmp_path / "run", method=Other(), evaluate=score)
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(NasplugError, match="written in format 99"):
        nasplug.resume(tmp_path / "run", method=Climber(), evaluate=score)
    file.write_text("{")
    with pytest.raises(NasplugError, match="is not a run directory"):
        nasplug.resume(tmp_path / "run")


class Mirrored(Space):
    """Archs read the same backwards."""

    def canonical(self, archs):
        return np.minimum(archs, archs[:, ::-1])


def test_a_space_is_found_again_by_its_name_or_has_to_be_given(tmp_path):
    nb201 = nasplug.space("nb201")
    first = nasplug.search(
        Climber(), space=nb201, evaluate=len, budget=20, out=tmp_path / "known", tracking=False
    )
    again = nasplug.resume(tmp_path / "known", method=Climber(), evaluate=len)
    assert type(again.search.space) is type(nb201)
    assert table(again.search.trials) == table(first.search.trials)

    mine = Mirrored(SPACE.decisions, "mirrored")
    first = run(tmp_path / "mine", space=mine)
    with pytest.raises(NasplugError, match="mirrored is a space of yours, which has to be given"):
        nasplug.resume(tmp_path / "mine", method=Climber(), evaluate=score)
    again = nasplug.resume(tmp_path / "mine", method=Climber(), evaluate=score, space=mine)
    assert table(again.search.trials) == table(first.search.trials)


class Odd:
    """A choice whose text says where it lies in memory."""


@pytest.mark.parametrize(
    "choices",
    [[(3, 3), (5, 5)], [int, float], [np.float64(0.5), np.float64(1.5)], [{1: 2}, {1: 3}],
     [[(1,)], [(2,)]], [float("inf"), 1.0], [Odd(), np.int8(3)], [lambda: 1, min]],
    ids=lambda choices: type(choices[0]).__name__,
)  # fmt: skip
def test_choices_that_json_does_not_hold_are_asked_for_again(tmp_path, choices):
    """They came back as lists or as their texts, and another arch won."""
    space = Space({"a": choices, "b": [1, 2]})

    def evaluate(arch):
        assert any(arch["a"] is choice for choice in choices)
        return choices.index(arch["a"]) + arch["b"]

    first = run(tmp_path / "run", space=space, evaluate=evaluate, budget=4)
    again = {"method": Climber(), "evaluate": evaluate}
    with pytest.raises(NasplugError, match="again: space=space, or"):
        nasplug.resume(tmp_path / "run", **again)
    resumed = nasplug.resume(tmp_path / "run", space=space, **again)
    assert table(resumed.search.trials) == table(first.search.trials)


def test_choices_that_json_holds_come_back_as_they_are(tmp_path):
    choices = {"a": ["1", 1.5, None, True], "b": [[1, [2]], {"x": 1.0}], "\udc80": [2, 3]}
    seen = []
    run(tmp_path / "run", space=Space(choices), evaluate=lambda arch: 1.0, budget=5)
    for file in (tmp_path / "run").glob("journal.sqlite*"):
        file.unlink()
    nasplug.resume(
        tmp_path / "run", method=Climber(), evaluate=lambda arch: seen.append(arch) or 1.0
    )
    assert seen
    for arch in seen:
        for name, choice in arch.items():
            assert choice in choices[name]
            assert repr(choice) in map(repr, choices[name])


def test_a_space_that_is_given_again_is_the_same(tmp_path):
    """Another order of the choices went unnoticed: the same numbers, other archs."""
    space = Space({"a": [(1,), (2,)], "b": [1, 2]}, "mine")
    run(tmp_path / "run", space=space, evaluate=len, budget=4)
    for other in (
        Space({"a": [(2,), (1,)], "b": [1, 2]}, "mine"),
        Space({"a": [(1,), (2,), (3,)], "b": [1, 2]}, "mine"),
        Space({"a": [(1,), (2,)], "c": [1, 2]}, "mine"),
        Mirrored(space.decisions, "mine"),
    ):
        with pytest.raises(NasplugError, match="searched another space mine: the decisions or"):
            nasplug.resume(tmp_path / "run", method=Climber(), evaluate=len, space=other)
    named = Space({"a": [(1,), (2,)]}, "nb201")  # by a name that another space has
    run(tmp_path / "named", space=named, evaluate=len, budget=2)
    with pytest.raises(NasplugError, match="nb201 is a space of yours, which has to be given"):
        nasplug.resume(tmp_path / "named", method=Climber(), evaluate=len)


def test_numbers_of_numpy_are_numbers(tmp_path):
    one = run(tmp_path / "one", seed=np.int64(3), budget=np.int64(12))
    again = nasplug.resume(tmp_path / "one", method=Climber(), evaluate=score)
    assert table(one.search.trials) == table(again.search.trials)


def test_nothing_is_written_for_a_search_that_cannot_start(tmp_path):
    with pytest.raises(NasplugError, match="budget"):
        run(tmp_path / "run", budget=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_named():
    with pytest.raises(NasplugError, match="cannot write the run directory"):
        run("/proc/run")


def test_damaged_files_are_named(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.npz").write_bytes(b"PK nonsense")
    with pytest.raises(NasplugError, match=r"delete checkpoint.npz to replay"):
        nasplug.resume(tmp_path / "run", method=Climber(), evaluate=score)
    (tmp_path / "run" / "checkpoint.npz").unlink()
    for file in (tmp_path / "run").glob("journal.sqlite*"):
        file.write_bytes(b"not a database" * 100)
    with pytest.raises(NasplugError, match=r"journal .* cannot be opened"):
        nasplug.resume(tmp_path / "run", method=Climber(), evaluate=score)


# ---- what has finished stays as it was


def forbidden(arch):
    raise AssertionError("scored again")


class Stops(Climber):
    """Has had enough after some rounds, or does not find anything any more."""

    @hookimpl
    def update(self, search, trials):
        super().update(trials)
        if search.round == 4:
            search.stop("it is good enough")


class StatefulStops(Checkpointed, Stops):
    pass


class Draws(Climber):
    """Its answer takes random numbers."""

    @hookimpl
    def select_final(self, search):
        return search.space.sample(3, search.rng)


class StatefulDraws(Checkpointed, Draws):
    pass


@pytest.mark.parametrize("method", [Climber, Checkpointed, Stops, StatefulStops, Draws,
                                    StatefulDraws])  # fmt: skip
@pytest.mark.parametrize(
    "options", [{}, {"repeats": "count"}, {"max_seconds": 1.0, "budget": 10**5}], ids=str
)
def test_what_has_finished_is_not_changed_by_resuming(tmp_path, monkeypatch, method, options):
    monkeypatch.setattr("nasplug.run.report.draw_picture", lambda *_: None)

    def slow(arch):
        time.sleep(0.002)
        return score(arch)

    options = {"budget": 20} | options
    first = nasplug.search(
        method(),
        space=SPACE,
        evaluate=slow,
        seed=2,
        out=tmp_path / "run",
        tracking=False,
        **options,
    )
    for _ in range(2):
        again = nasplug.resume(tmp_path / "run", method=method(), evaluate=forbidden)
        assert table(again.search.trials) == table(first.search.trials)
        assert np.array_equal(again.archs, first.archs)
        assert again.search.elapsed == first.search.elapsed
        assert again.search.stopped == first.search.stopped
        assert again.search.round == first.search.round
    if "max_seconds" in options and "Stops" not in method.__name__:
        assert first.search.stopped == "time is up"
    if "Stops" in method.__name__:
        assert first.search.stopped == "it is good enough"


@pytest.mark.parametrize("method", [Climber, Checkpointed])
def test_the_clock_takes_no_trial_that_was_scored(tmp_path, monkeypatch, method):
    """What was scored before the interruption is kept, even if to replay it took longer."""
    monkeypatch.setattr("nasplug.run.report.draw_picture", lambda *_: None)
    calls = 0

    def interrupted(arch):
        nonlocal calls
        calls += 1
        time.sleep(0.002)
        if calls == 30:
            raise KeyboardInterrupt
        return score(arch)

    options = {"space": SPACE, "seed": 2, "budget": 10**5, "max_seconds": 1.5, "tracking": False}
    with pytest.raises(KeyboardInterrupt):
        nasplug.search(method(), evaluate=interrupted, out=tmp_path / "run", **options)
    journal = Journal(tmp_path / "run", read=True)
    rows = journal.read()
    journal.close()
    elapsed = max(row.elapsed for row in rows)

    class Sluggish(method):
        @hookimpl
        def sample_space(self, search):
            time.sleep(0.1)
            return search.region

    resumed = nasplug.resume(tmp_path / "run", method=Sluggish(), evaluate=score)
    assert len(rows) == 29
    assert resumed.search.trials.archs[:29].tobytes() == b"".join(row.arch for row in rows)
    assert len(resumed.search.trials) > 29
    assert resumed.search.stopped == "time is up"
    assert resumed.search.elapsed >= max(1.5, elapsed)


class Rounds(Method):
    """Long ones, in which archs come again."""

    @hookimpl
    def propose(self, search, subspace):
        return np.repeat(subspace.sample(200, search.rng), 2, axis=0)


@pytest.mark.parametrize("repeats", ["free", "count"])
@pytest.mark.parametrize("killed", [False, True])
def test_time_that_is_up_ends_a_round_too(tmp_path, monkeypatch, repeats, killed):
    """The clock was looked at between rounds only: one of 100 networks was trained to its end."""
    monkeypatch.setattr("nasplug.run.report.draw_picture", lambda *_: None)
    calls = 0

    def slow(arch):
        nonlocal calls
        calls += 1
        time.sleep(0.02)
        return {"value": score(arch), "more": 1.0}

    options = {"repeats": repeats, "tracking": False, "space": SPACE, "out": tmp_path / "run"}
    first = nasplug.search(Rounds(), budget=10**4, max_seconds=0.5, evaluate=slow, **options)
    trials = first.search.trials
    assert first.search.stopped == "time is up"
    assert first.search.round == 1
    assert 0 < calls < 100
    assert len(trials) == (calls if repeats == "free" else 2 * calls)
    assert (trials.states == State.COMPLETE).all()
    if killed:  # before it could say that it has ended
        (tmp_path / "run/status.json").unlink()
    again = nasplug.resume(
        tmp_path / "run", method=Rounds(), evaluate=slow if killed else forbidden
    )
    assert again.search.round == 1
    if killed:  # maybe between a trial and the look at the clock after it
        n = len(trials)
        assert n <= len(again.search.trials) <= n + 2
        assert np.array_equal(again.search.trials.archs[:n], trials.archs)
    else:
        assert table(again.search.trials) == table(trials)


# ---- one process at a time

HOLDER = """
import sys, time
sys.path.insert(0, {tests!r})
from test_resume import SPACE, Climber, score
import nasplug

def endless(arch):
    print("scoring", flush=True)
    time.sleep(0.01 if arch["d0"] == 0 else 60)
    return score(arch)

nasplug.{call}
"""


@pytest.fixture
def hold():
    """Start a process that searches; its pid once it scores."""
    held = []

    def start(call):
        script = HOLDER.format(tests=str(Path(__file__).parent), call=call)
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        held.append(process)
        assert process.stdout.readline() == b"scoring\n"
        return process

    yield start
    for process in held:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_directory_is_searched_by_one_process(tmp_path, hold):
    out = tmp_path / "run"
    process = hold(
        f"search(Climber(), space=SPACE, evaluate=endless, budget=30, seed=2, out={str(out)!r}, "
        "tracking=False)"
    )
    assert RunDirectory.open(out).in_use()
    in_use = f"is in use: process {process.pid} on .* searches it"
    with pytest.raises(NasplugError, match=in_use):
        nasplug.resume(out, method=Climber(), evaluate=score)
    with pytest.raises(NasplugError, match=in_use):
        run(out, seed=2)
    process.kill()  # kill -9
    process.wait()
    assert not RunDirectory.open(out).in_use()
    assert RunDirectory.open(out).status()["state"] == "running"
    resumed = nasplug.resume(out, method=Climber(), evaluate=score)
    assert table(resumed.search.trials) == table(run(None, seed=2).search.trials)
    assert RunDirectory.open(out).status()["state"] == "finished"
    assert not RunDirectory.open(out).in_use()


def test_one_that_resumes_holds_it_too(tmp_path, hold):
    out = tmp_path / "run"

    def interrupted(arch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out, evaluate=interrupted)
    assert not RunDirectory.open(out).in_use()
    process = hold(f"resume({str(out)!r}, method=Climber(), evaluate=endless)")
    with pytest.raises(NasplugError, match=f"is in use: process {process.pid}"):
        nasplug.resume(out, method=Climber(), evaluate=score)
    process.kill()
    process.wait()
    assert len(nasplug.resume(out, method=Climber(), evaluate=score).search.trials) == 30


def test_the_same_process_cannot_search_it_twice_at_once(tmp_path):
    found = []

    def evaluate(arch):
        if not found:
            found.append(RunDirectory.open(tmp_path / "run").in_use())
            for again in (
                lambda: nasplug.resume(tmp_path / "run", method=Climber(), evaluate=score),
                lambda: run(tmp_path / "run"),
            ):
                with pytest.raises(NasplugError, match=f"is in use: process {os.getpid()}"):
                    again()
        return score(arch)

    assert len(run(tmp_path / "run", evaluate=evaluate).search.trials) == 30
    assert found == [True]
    assert not RunDirectory.open(tmp_path / "run").in_use()


def test_a_directory_that_was_looked_at_is_free(tmp_path):
    run(tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    assert not directory.in_use()
    directory.lock()
    assert RunDirectory.open(tmp_path / "run").in_use()
    assert directory.in_use()
    directory.close()
    assert not directory.in_use()
    assert not RunDirectory.open(tmp_path / "run").in_use()


def test_a_search_that_fails_to_start_leaves_it_free(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(NasplugError, match="holds a run already"):
        run(tmp_path / "run")
    with pytest.raises(NasplugError, match="does not replay"):
        nasplug.resume(tmp_path / "run", method=Other(), evaluate=score)
    assert not RunDirectory.open(tmp_path / "run").in_use()
