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
    with pytest.raises(NasplugError, match="delete it to replay"):
        nasplug.resume(tmp_path / "run", method=Climber(), evaluate=score)
    (tmp_path / "run" / "checkpoint.npz").unlink()
    for file in (tmp_path / "run").glob("journal.sqlite*"):
        file.write_bytes(b"not a database" * 100)
    with pytest.raises(NasplugError, match=r"journal in .* cannot be opened"):
        nasplug.resume(tmp_path / "run", method=Climber(), evaluate=score)
