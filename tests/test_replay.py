"""Killed anywhere, any number of times, and resumed: a search against a model of a few lines."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import nasplug
from nasplug import Method, NasplugError, Space, State, TrialPruned, best_trials, hookimpl
from nasplug.run.directory import environment
from nasplug.run.journal import FILE, Journal

COMPLETE, PRUNED, FAILED = int(State.COMPLETE), int(State.PRUNED), int(State.FAILED)
OUTCOMES = ("value", "value", "value", "error", "nan", "pruned", "pruned at once")


class Weighed(Space):
    """Knows its params; unlike a plain space it has to be given again."""

    def params(self, archs):
        return 10 * np.asarray(archs).sum(1)


SPACE = Weighed({"a": range(3), "b": range(3), "c": range(2)})


class Killed(KeyboardInterrupt):
    """Ctrl-C, or worse."""


class Batches(Method):
    """Proposes what it was given, and something random; remembers what it was told."""

    def __init__(self, plan, tick=lambda: None):
        super().__init__()
        self.plan, self.tick = plan, tick

    def setup(self, search):
        self.search, self.turn, self.memory, self.proposed = search, 0, 0.0, []
        self.draw = None

    @hookimpl
    def propose(self, search, subspace):
        self.tick()
        batch = self.plan.batches[self.turn % len(self.plan.batches)]
        some = subspace.sample(1 + int(self.memory) % 2, search.rng)
        archs = np.concatenate([np.array(batch, SPACE.dtype).reshape(-1, SPACE.d), some])
        self.proposed.append(archs)
        return archs

    @hookimpl
    def update(self, search, trials):
        self.tick()
        self.turn += 1
        good = np.isfinite(trials.scores)
        self.memory += float(trials.scores[good].sum()) + len(trials)
        if self.turn == self.plan.rounds:
            search.stop("the method has had enough")

    @hookimpl
    def select_final(self, search):
        self.draw = float(search.rng.random())
        return best_trials(search.trials, 3)


class Stateful(Batches):
    """Continued from its checkpoint."""

    def state(self):
        return {"turn": self.turn, "memory": self.memory, "proposed": self.proposed}

    def load_state(self, state):
        self.turn, self.memory = int(state["turn"]), float(state["memory"])
        self.proposed = [archs.astype(SPACE.dtype) for archs in state["proposed"]]


@dataclass
class Plan:
    """A search and what its archs come to."""

    batches: list
    outcomes: list  # by the index of the arch
    repeats: str
    constraints: list
    method: type
    budget: int
    rounds: int  # after which the method stops

    def outcome(self, arch):
        return self.outcomes[int(SPACE.index(arch))]

    def score(self, params, trial):
        """What the user would write."""
        index = int(SPACE.index(SPACE.arch(params)))
        trial.set_user_attr("index", np.int64(index))
        match self.outcomes[index]:
            case "error":
                raise RuntimeError(f"no {index}")
            case "nan":
                return float("nan")
            case "pruned":
                trial.report(index / 2, 0)
                raise TrialPruned
            case "pruned at once":
                raise TrialPruned
        return {"value": index / 2, "cost": 1.5, "report": -index, "latency": index % 4}

    def search(self, tick=lambda: None, called=lambda: None, folder=None):
        """Begin or go on; the method, and what it ended with."""
        method = self.method(self, tick)

        def evaluate(params, trial):
            tick()
            called()
            return self.score(params, trial)

        again = folder is not None and (folder / "run.json").exists()
        options = {"evaluate": evaluate, "progress": False, "space": SPACE}
        try:
            if again:
                result = nasplug.resume(folder, method=method, **options)
            else:
                result = nasplug.search(
                    method, budget=self.budget, seed=5, repeats=self.repeats, out=folder,
                    constraints=self.constraints, tracking=False, **options,
                )  # fmt: skip
        except NasplugError as error:
            return method, str(error)
        return method, result.archs.tolist()


def expected(plan, proposed):
    """The model: {number: (arch, state, value, repeat, feasible, metrics, notes)}."""
    rows, first = [], {}
    for arch in (tuple(arch) for batch in proposed for arch in batch.tolist()):
        if len(rows) == plan.budget:
            break
        if "params<=30" in plan.constraints and sum(arch) > 3:
            continue  # known before a score, and so not proposed
        if arch in first:
            if plan.repeats == "count":
                *known, _ = rows[first[arch]]
                rows.append((*known[:3], True, *known[4:], {}))
            continue
        index = int(SPACE.index(np.array(arch)))
        notes, state, value, metrics = {"index": index}, FAILED, None, {}
        match plan.outcomes[index]:
            case "value":
                state, value, metrics = COMPLETE, index / 2, {"latency": float(index % 4)}
            case "pruned":
                state, value = PRUNED, index / 2
                notes["intermediate"] = {"0": index / 2}
            case "pruned at once":
                state = PRUNED
            case "error":
                line = Plan.score.__code__.co_firstlineno + 6
                notes["error"] = f"RuntimeError: no {index} ({__file__}, line {line})"
            case _:
                notes["error"] = "the value is not finite"
        kept = {"latency<=2": index % 4 <= 2, "params<=30": sum(arch) <= 3}
        feasible = state != COMPLETE or all(kept[text] for text in plan.constraints)
        first[arch] = len(rows)
        rows.append((arch, state, value, False, feasible, metrics, notes))
    return dict(enumerate(rows))


def table(trials):
    """The trials of a search as rows of the model."""
    return {
        t.number: (
            tuple(t.arch.tolist()), int(t.state), None if np.isnan(t.value) else t.value,
            bool(trials.repeats[t.number]), bool(trials.feasible[t.number]),
            {name: x for name, x in t.metrics.items() if x == x}, t.user_attrs,
        )
        for t in trials
    }  # fmt: skip


def journaled(folder):
    """What is in the journal, as rows of the model."""
    if not (folder / FILE).exists():
        return {}
    journal = Journal(folder, read=True)
    rows = {
        row.number: (
            tuple(np.frombuffer(row.arch, SPACE.dtype).tolist()), row.state, row.value,
            bool(row.repeat), bool(row.feasible), row.metrics, row.notes,
        )
        for row in journal.read()
    }  # fmt: skip
    journal.close()
    return rows


archs = st.tuples(*(st.integers(0, c - 1) for c in SPACE.cardinalities.tolist()))
plans = st.builds(
    Plan,
    batches=st.lists(st.lists(archs, max_size=5), min_size=1, max_size=4),
    outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=SPACE.size, max_size=SPACE.size),
    repeats=st.sampled_from(["free", "count"]),
    constraints=st.lists(st.sampled_from(["latency<=2", "params<=30"]), unique=True),
    method=st.sampled_from([Batches, Stateful]),
    budget=st.integers(1, 25),
    rounds=st.integers(1, 12),
)


class Machine(RuleBasedStateMachine):
    """One run directory, and processes that come and go."""

    @initialize(plan=plans)
    def begin(self, plan):
        self.root = Path(tempfile.mkdtemp())
        self.folder, self.copies = self.root / "run", 0
        self.plan = plan
        self.never, self.answer = plan.search()
        self.model = expected(plan, self.never.proposed)
        assert table(self.never.search.trials) == self.model

    def session(self, fuse, crash):
        """A process that is interrupted when the fuse has burned down, or dies without a word:
        then others find what the directory held in that moment."""
        left, calls = fuse, 0
        known = sum(not row[3] for row in journaled(self.folder).values())

        def tick():
            nonlocal left
            left -= 1
            if left >= 0:
                return
            if crash:
                self.copies += 1
                shutil.copytree(self.folder, self.root / f"copy{self.copies}")
            raise Killed

        def called():
            nonlocal calls
            calls += 1

        try:
            method, answer = self.plan.search(tick, called, self.folder)
        except Killed:
            if crash:
                self.folder = self.root / f"copy{self.copies}"
            answer = method = None
        fresh = sum(not row[3] for row in journaled(self.folder).values())
        assert calls == fresh - known  # what was scored is never scored again
        return method, answer

    @rule(fuse=st.integers(0, 40), crash=st.booleans())
    def interrupted(self, fuse, crash):
        method, answer = self.session(fuse, crash)
        if method is not None:
            self.ended(method, answer)

    @rule()
    def to_the_end(self):
        self.ended(*self.session(10**6, False))

    def ended(self, method, answer):
        search, never = method.search, self.never.search
        assert table(search.trials) == self.model
        assert answer == self.answer
        assert (search.stopped, search.round) == (never.stopped, never.round)
        for name in ("rounds", "reports"):
            assert np.array_equal(
                getattr(search.trials, name), getattr(never.trials, name), equal_nan=True
            )
        done = search.trials.states == COMPLETE
        assert np.array_equal(search.trials.costs[done], never.trials.costs[done])
        assert method.draw == self.never.draw
        assert method.memory == self.never.memory

    @invariant()
    def the_journal_holds_nothing_else(self):
        if hasattr(self, "plan"):
            rows = journaled(self.folder)
            assert rows == {number: self.model[number] for number in rows}

    def teardown(self):
        if hasattr(self, "plan"):
            self.to_the_end()
            self.to_the_end()  # of what has finished
            shutil.rmtree(self.root)


def test_killed_anywhere_and_resumed_is_never_killed(monkeypatch):
    monkeypatch.setattr("nasplug.run.report.write", lambda *_: None)  # pictures take their time
    here = environment()  # which asks git
    monkeypatch.setattr("nasplug.run.api.environment", lambda: here)
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=6, deadline=None)
    )


@pytest.mark.parametrize("method", [Batches, Stateful])
def test_rounds_after_the_last_trial_are_replayed_too(tmp_path, monkeypatch, method):
    """A search that ends since nothing new comes has used its random numbers until then."""
    monkeypatch.setattr("nasplug.kernel.search.PATIENCE", 60)
    monkeypatch.setattr(Batches, "propose", propose_a_few)
    plan = Plan([[(0, 0, 0)]], ["value"] * SPACE.size, "free", [], method, 10, 10**9)
    first, answer = plan.search(folder=tmp_path / "run")
    again, same = plan.search(folder=tmp_path / "run")
    assert first.search.stopped.startswith("nothing new is proposed")
    assert first.search.round > len(first.search.trials) + 10
    assert answer == same
    assert again.draw == first.draw
    assert again.search.round == first.search.round
    assert again.search.elapsed == first.search.elapsed


@hookimpl
def propose_a_few(self, search, subspace):
    """Of two archs only."""
    arch = np.zeros((1, SPACE.d), SPACE.dtype)
    arch[0, 0] = search.rng.integers(2)
    return arch
