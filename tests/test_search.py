"""The five-hook loop: contract, cache, budgets, failures."""

import importlib
import math

import numpy as np
import pytest

import nasplug
from nasplug import (
    ArchSet,
    Bool,
    Choice,
    Float,
    Int,
    Mask,
    Method,
    NasplugError,
    Selection,
    Space,
    State,
    hookimpl,
)  # fmt: skip
from nasplug.kernel.registry import Entry, Plugin, registry
from nasplug.run.report import brief

SPACE = Space({"width": [1, 2, 3, 4], "depth": [1, 2, 3], "act": ["relu", "gelu"]})


def score(arch):
    return arch["width"] * arch["depth"]


class Uniform(Method):
    """Uniform samples."""

    batch = Int(1, low=1, high=100, doc="archs a round")

    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(self.batch, search.rng)


def search(method=None, **options):
    options = {"space": SPACE, "evaluate": score, "budget": 10, "tracking": False} | options
    return nasplug.search(method or Uniform(), **options)


class Recorder(Uniform):
    """Notes which hook was called, with what."""

    def setup(self, search):
        self.calls = []

    @hookimpl
    def sample_space(self, search):
        self.calls.append(("sample_space", search.round))
        return Mask(search.space, {"act": ["gelu"]})

    @hookimpl
    def propose(self, search, subspace):
        self.calls.append(("propose", subspace.size))
        return subspace.sample(2, search.rng)

    @hookimpl
    def update(self, search, trials):
        self.calls.append(("update", len(trials), trials.values.tolist()))

    @hookimpl
    def select_final(self, search):
        self.calls.append(("select_final", search.round))
        return Selection(archs=search.trials.archs[:1], subspace=ArchSet(SPACE, [[0, 0, 0]]))


def test_hooks_are_called_in_order_with_what_the_last_one_returned():
    method = Recorder()
    result = search(method, budget=4, repeats="count")
    assert [call[0] for call in method.calls] == [
        "sample_space", "propose", "update", "sample_space", "propose", "update", "select_final",
    ]  # fmt: skip
    assert method.calls[1] == ("propose", 12)
    values = [SPACE.to_dict(a) for a in result.search.trials.archs[:2]]
    assert method.calls[2] == ("update", 2, [score(v) for v in values])
    assert {trial.params["act"] for trial in result.search.trials} == {"gelu"}
    assert np.array_equal(result.archs, result.search.trials.archs[:1])
    assert result.subspace.size == 1
    assert result.best.number == 0


class Doubler:
    """A wrapper around evaluate, and one more listener of update."""

    def __init__(self):
        self.seen = 0

    @hookimpl(wrapper=True)
    def evaluate(self, search, candidates):
        self.waiting = len(candidates.waiting)
        trials = yield
        trials.values[:] = 2 * trials.values
        return trials

    @hookimpl
    def update(self, trials):
        self.seen += len(trials)


class TakesOver:
    """A second evaluator, registered later and so asked first."""

    @hookimpl
    def evaluate(self, search, candidates):
        return candidates.tell(values=np.arange(len(candidates.waiting)) - 5.0)


def test_wrappers_wrap_and_update_reaches_everyone():
    method, doubler = Recorder(), Doubler()
    result = search(method, budget=2, plugins=[doubler], repeats="count")
    assert doubler.waiting == 2
    assert doubler.seen == 2
    assert method.calls[2][2] == [2 * v for v in result.search.trials.values.tolist()]


def test_the_first_result_counts():
    result = search(Uniform(batch=4), budget=4, plugins=[TakesOver()], repeats="count")
    assert result.search.trials.values.min() == -5.0


class Supernet(Method):
    """Scores by itself, the same arch again and again."""

    @hookimpl
    def propose(self, search, subspace):
        return ArchSet(SPACE, [[0, 0, 0]])

    @hookimpl
    def evaluate(self, search, candidates):
        trials = search.candidates(candidates.archs)
        return trials.tell(values=float(search.round))


def test_a_method_that_scores_by_itself_needs_no_function():
    result = search(Supernet(), evaluate=None, budget=4)
    assert result.search.trials.values.tolist() == [0, 1, 2, 3]
    assert (result.best.number, result.best.value) == (3, 3)  # what is known of it now


def test_defaults_need_only_propose():
    result = search(budget=1000)
    assert result.best.value == 12
    assert len(result.search.trials) == SPACE.size
    assert "every arch in reach" in result.search.stopped
    assert [t.value for t in result.ranked(3)] == [12, 12, 9]


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_repeats_are_free_unless_they_count(batch):
    calls = []

    def evaluate(arch):
        calls.append(tuple(arch.values()))
        return score(arch)

    free = search(Uniform(batch=batch), evaluate=evaluate, budget=20)
    assert len(free.search.trials) == len(calls) == len(set(calls)) == 20
    assert not free.search.trials.repeats.any()
    calls.clear()
    count = search(Uniform(batch=batch), evaluate=evaluate, budget=50, repeats="count")
    trials = count.search.trials
    assert len(trials) == 50
    assert len(calls) == len(set(calls)) == 50 - trials.repeats.sum()
    assert trials.repeats.sum() >= 50 - SPACE.size
    assert trials.values.tolist() == [score(p) for p in (t.params for t in trials)]


def test_same_seed_same_trials():
    def archs(seed):
        return search(seed=seed).search.trials.archs.tolist()

    assert archs(3) == archs(3)
    assert archs(3) != archs(4)


def test_minimising():
    result = search(direction="minimize", budget=1000)
    assert result.best.value == 1


def test_budgets_of_cost_and_time():
    def evaluate(arch):
        return {"value": score(arch), "cost": 10.0}

    spent = search(evaluate=evaluate, budget=24, max_cost=55).search
    assert (spent.stopped, len(spent.trials), spent.cost) == ("cost spent", 6, 60.0)
    timed = search(budget=10**6, max_seconds=0.5, repeats="count").search
    assert timed.stopped == "time is up"
    with pytest.raises(NasplugError, match="no trial was made"):
        search(max_seconds=1e-9)


def test_what_the_function_returns_reaches_the_table():
    def evaluate(arch, trial):
        trial.set_user_attr("note", "hello")
        return {"value": score(arch), "report": 5, "cost": 2, "latency": arch["depth"]}

    result = search(evaluate=evaluate, budget=5)
    trial = result.best
    assert (trial.report_value, trial.cost, result.report) == (5, 2, 5)
    assert trial.metrics == {"latency": trial.params["depth"]}
    assert trial.user_attrs == {"note": "hello"}
    assert trial.state is State.COMPLETE
    table = result.search.trials.to_dict()
    assert table["latency"] == table["params.depth"]


def test_failures_are_failed_trials_not_a_dead_search():
    def evaluate(arch):
        if arch["act"] == "relu":
            raise RuntimeError("out of memory")
        return math.nan if arch["depth"] == 2 else score(arch)

    result = search(evaluate=evaluate, budget=24)
    trials = result.search.trials
    failed = trials.states == State.FAILED
    assert failed.sum() == 16
    errors = {trials[i].user_attrs["error"] for i in np.flatnonzero(failed)}
    where = f"{__file__}, line {evaluate.__code__.co_firstlineno + 2}"
    assert errors == {f"RuntimeError: out of memory ({where})", "the value is not finite"}
    assert result.best.value == 12
    assert brief(result)["failed"] == 16


def test_a_search_whose_every_trial_failed_is_an_error():
    with pytest.raises(NasplugError, match="every trial failed; the last said: ZeroDivision"):
        search(evaluate=lambda arch: 1 / 0, budget=3)


def test_constraints_keep_archs_from_being_selected():
    def evaluate(arch):
        return {"value": score(arch), "latency": arch["width"]}

    result = search(evaluate=evaluate, budget=24, constraints=["latency <= 2"])
    assert result.best.value == 6
    assert result.search.trials.feasible.sum() == 12
    with pytest.raises(NasplugError, match="no trial keeps to the constraints"):
        search(evaluate=evaluate, constraints=["latency<0.5"])
    with pytest.raises(NasplugError, match="unknown constraint on 'latenzy'; did you mean latency"):
        search(evaluate=evaluate, constraints=["latenzy<=1"])
    with pytest.raises(NasplugError, match="reads NAME <= NUMBER"):
        search(constraints=["latency is small"])


def test_pruning_by_the_median():
    def evaluate(arch, trial):
        for step in range(3):
            trial.report(score(arch), step)
            if trial.should_prune():
                raise nasplug.TrialPruned
        return score(arch)

    result = search(evaluate=evaluate, budget=24, prune=True)
    trials = result.search.trials
    pruned = trials.states == State.PRUNED
    assert 0 < pruned.sum() < 24
    assert trials.values[pruned].max() < 12
    assert result.best.intermediate_values == {0: 12.0, 1: 12.0, 2: 12.0}


def test_searching_within_a_subspace():
    region = Mask(SPACE, {"width": [1, 2]})
    result = search(budget=100, within=region)
    assert region.contains(result.search.trials.archs).all()
    assert result.best.value == 6
    with pytest.raises(NasplugError, match="no region of custom"):
        search(within=ArchSet(Space({"a": [1, 2]}, name="other"), [[0]]))


class Outside(Method):
    """Proposes what it likes."""

    @hookimpl
    def propose(self):
        return np.array([[3, 0, 0]])


class Broken(Uniform):
    @hookimpl
    def update(self, trials):
        raise KeyError("weights")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (Outside(), {"within": Mask(SPACE, {"width": [1]})}, "Outside.propose left mask of custom"),
        (Broken(), {}, "plugin 'Broken', in update: KeyError: 'weights'"),
        (Method(), {}, "Method implements no propose"),
        (None, {"budget": 0}, "budget must be a whole number from 1 on, got 0"),
        (None, {"budget": "ten"}, "budget must be a whole number from 1 on, got 'ten'"),
        (None, {"budget": None}, "budget must be a whole number from 1 on, got None"),
        (None, {"max_seconds": -1}, "max_seconds must be a number above 0, got -1"),
        (None, {"seed": -1}, "seed must be a whole number from 0 on, got -1"),
        (None, {"seed": 0.5}, "seed must be a whole number"),
        (Uniform, {}, r"give a method object, Uniform\(...\), not its class"),
        (None, {"space": {"width": [1, 2]}}, "space must be a Space"),
        (None, {"repeats": "never"}, "'free' or 'count'"),
        (None, {"direction": "up"}, "'maximize' or 'minimize'"),
        (None, {"on": "nb201/digits"}, "not both"),
        (None, {"space": None}, "what to search"),
        (None, {"evaluate": 3}, "must be a function"),
        ("unifrom", {}, "unknown method 'unifrom'"),
    ],
)
def test_what_is_wrong_is_named(method, options, message):
    with pytest.raises(NasplugError, match=message):
        search(method, **options)


class Tuned(Uniform):
    lr = Float(0.1, low=1e-3, high=1, log=True)
    mode = Choice("a", choices=("a", "b"))
    fast = Bool(False)


def test_hyperparameters_are_declared_once():
    assert list(Tuned.declared()) == ["batch", "lr", "mode", "fast"]
    method = Tuned(batch="3", lr="1e-2", mode="b", fast="yes")
    assert (method.batch, method.lr, method.mode, method.fast) == (3, 0.01, "b", True)
    assert Tuned.lr.bounds == "[0.001, 1] log"


class Clash(Uniform):
    seed = Int(0)


def test_a_hyperparameter_that_search_would_swallow_is_refused(monkeypatch):
    monkeypatch.setitem(registry().methods, "clash", Entry(Clash, "", Plugin("clash", "")))
    with pytest.raises(NasplugError, match="clash: hyperparameter 'seed' is an option"):
        search("clash")


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"bach": 3}, "unknown hyperparameter 'bach'; did you mean batch"),
        ({"batch": 0}, r"batch must be within \[1, 100\], got 0"),
        ({"batch": "many"}, "batch must be a whole number, got 'many'"),
        ({"batch": 2.5}, "batch must be a whole number, got 2.5"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"lr": "nan"}, "lr must be within"),
        ({"mode": "c"}, "mode must be one of a, b"),
        ({"fast": "maybe"}, "fast must be true or false"),
    ],
)
def test_bad_hyperparameters_are_named(hyperparameters, message):
    with pytest.raises(NasplugError, match=message):
        Tuned(**hyperparameters)


# ---- failure, constraints and repeats


class Sized(Space):
    """Knows its params."""

    def params(self, archs):
        return 10 * (1 + archs.sum(1))


MEASURED = Sized(SPACE.decisions, "measured")


def fails_at(*numbers):
    """A function whose calls of these numbers, from 0, go wrong in different ways."""
    calls = iter(range(10**6))

    def evaluate(arch, trial):
        number = next(calls)
        if number in numbers:
            if number % 3 == 0:
                raise RuntimeError("out of memory")
            if number % 3 == 1:
                return math.nan
            trial.report(99.0, 0)
            raise nasplug.TrialPruned
        return {"value": score(arch), "latency": arch["width"]}

    return evaluate


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("repeats", ["free", "count"])
@pytest.mark.parametrize(
    "constraints", [["latency<=2"], ["params<=50"], ["latency<=2", "params <= 50"], []]
)
@pytest.mark.parametrize("failing", [(), (0,), (0, 1, 2), (3,), (4, 5, 9), range(0, 12, 2)])
def test_failures_end_no_search_and_break_no_constraint(failing, constraints, repeats, batch):
    result = search(
        Uniform(batch=batch), evaluate=fails_at(*failing), constraints=constraints,
        repeats=repeats, budget=20, seed=1, space=MEASURED,
    )  # fmt: skip
    trials = result.search.trials
    assert len(trials) == 20
    assert (result.search.stopped, result.search.finished) == ("budget spent", 20)
    scored = ~trials.repeats
    states = trials.states[scored]
    failed = [number for number in failing if number < scored.sum()]
    assert (states[failed] != State.COMPLETE).all()
    assert (np.delete(states, failed) == State.COMPLETE).all()
    assert trials.feasible[trials.states != State.COMPLETE].all()

    done = trials.states == State.COMPLETE
    keeps = np.ones(20, bool)
    if "latency<=2" in constraints:
        keeps &= trials.archs[:, 0] < 2
    if len(constraints) == 2 or "params<=50" in constraints:
        keeps &= MEASURED.params(trials.archs) <= 50
    assert np.array_equal(trials.feasible[done], keeps[done])
    assert np.array_equal(np.isfinite(trials.scores), done & keeps)
    assert result.best.value == trials.values[done & keeps].max()


def test_constraints_on_what_only_scored_archs_have_wait_for_the_first_of_them():
    everything_fails = fails_at(*range(24))
    with pytest.raises(NasplugError, match="every trial failed"):
        search(evaluate=everything_fails, constraints=["latency<=2"], budget=24)
    with pytest.raises(NasplugError, match="unknown constraint on 'latenzy'"):
        search(evaluate=fails_at(0, 1), constraints=["latenzy<=2"], budget=24)
    with pytest.raises(NasplugError, match="does not know its FLOPs"):
        search(space=MEASURED, constraints=["flops<=2"])


# ---- what is told, and what is kept with it


def test_a_row_is_told_once():
    class Twice:
        @hookimpl
        def evaluate(self, candidates):
            candidates.tell(values=1.0)
            return candidates.tell(0, values=2.0)

    with pytest.raises(NasplugError, match="row 0 of the trials was told already"):
        search(plugins=[Twice()])


def test_numbers_and_arrays_of_numpy_are_kept_as_python_has_them(tmp_path):
    def evaluate(arch, trial):
        trial.set_user_attr("n", np.int64(3))
        trial.set_user_attr("x", np.arange(4).reshape(2, 2) / 2)
        trial.set_user_attr("nested", {"a": [np.bool_(True), None, "b"], 5: (1, 2.5)})
        return score(arch)

    trial = search(evaluate=evaluate, budget=1, out=tmp_path / "run").best
    assert trial.user_attrs == {
        "n": 3, "x": [[0.0, 0.5], [1.0, 1.5]], "nested": {"a": [True, None, "b"], "5": [1, 2.5]},
    }  # fmt: skip
    assert type(trial.user_attrs["n"]) is int


@pytest.mark.parametrize(
    "thing",
    [object(), {1, 2}, b"bytes", 1j, [{"deep": object()}], np.array([object()]), np.array([1j])],
)
def test_what_json_cannot_hold_is_refused_by_name(thing):
    def evaluate(arch, trial):
        trial.set_user_attr("f", thing)
        return score(arch)

    with pytest.raises(NasplugError, match="user attribute 'f' holds a"):
        search(evaluate=evaluate, budget=2)

    def behind_its_back(arch, trial):
        trial.user_attrs["g"] = thing
        return score(arch)

    with pytest.raises(NasplugError, match="note 'g' of a trial holds a"):
        search(evaluate=behind_its_back, budget=2)

    class Notes(Uniform):
        @hookimpl
        def evaluate(self, search, candidates):
            candidates.notes[0] = {"h": thing}
            return candidates.tell(values=1.0)

    with pytest.raises(NasplugError, match="note 'h' of a trial holds a"):
        search(Notes(), evaluate=None)


def test_notes_of_a_method_are_kept():
    class Notes(Uniform):
        @hookimpl
        def evaluate(self, search, candidates):
            candidates.notes[0] = {"loss": np.float32(0.5), "shares": np.ones(2)}
            return candidates.tell(values=1.0)

    result = search(Notes(), evaluate=None, budget=1)
    assert result.best.user_attrs == {"loss": 0.5, "shares": [1.0, 1.0]}


def with_default(arch, epochs=3):
    assert epochs == 3
    return score(arch)


def named(arch, trial):
    return score(arch) + 100 * trial.number


def by_keyword(arch, *, trial):
    return score(arch) + 100 * trial.number


def by_keyword_or_none(arch, epochs=3, trial=None):
    assert epochs == 3
    return score(arch) + 100 * trial.number


def other_name(arch, other):
    return score(arch) + 100 * other.number


def only_by_place(arch, trial, /):
    return score(arch) + 100 * trial.number


@pytest.mark.parametrize(
    ("evaluate", "given"),
    [
        (with_default, False), (lambda arch, **more: score(arch) if not more else 1 / 0, False),
        (lambda arch, *more: score(arch) if not more else 1 / 0, False), (named, True),
        (by_keyword, True), (by_keyword_or_none, True), (other_name, True), (only_by_place, True),
    ],
)  # fmt: skip
def test_the_trial_is_handed_to_those_who_ask_for_it(evaluate, given):
    result = search(evaluate=evaluate, budget=3)
    for trial in result.search.trials:
        assert trial.value == score(trial.params) + 100 * given * trial.number


# ---- errors that name the plugin


class Sore:
    """Anything that somebody could hold: comparing with it fails, asking whether it is true too."""

    def __eq__(self, other):
        raise RuntimeError("no comparisons")

    __hash__ = object.__hash__

    def __bool__(self):
        raise RuntimeError("no truth")

    def work(self):
        raise ValueError("boom")


def test_the_plugin_is_named_whatever_its_helpers_are():
    class Hurt(Uniform):
        @hookimpl
        def propose(self, search, subspace):
            Sore().work()

    with pytest.raises(NasplugError, match="plugin 'Hurt', in propose: ValueError: boom"):
        search(Hurt())


def test_an_error_inside_a_tensor_is_the_plugins():
    torch = pytest.importorskip("torch")

    class Torn(Uniform):
        @hookimpl
        def update(self):
            torch.zeros(2, 3).reshape(5).split("a")

    class Splits(Uniform):
        @hookimpl
        def update(self):
            torch.zeros(3).split("a")  # a method in Python, whose self is the tensor

    for method in (Torn(), Splits()):
        name = type(method).__name__
        with pytest.raises(NasplugError, match=f"plugin '{name}', in update: "):
            search(method)


def test_other_plugins_and_setup_are_named_too():
    class Listener:
        @hookimpl
        def update(self):
            raise OSError("disk full")

    class Unready(Uniform):
        def setup(self, search):
            raise TypeError("no")

    with pytest.raises(NasplugError, match="plugin 'Listener', in update: OSError: disk full"):
        search(plugins=[Listener()])
    with pytest.raises(NasplugError, match="plugin 'Unready', in setup: TypeError: no"):
        search(Unready())


# ---- which space it is


def test_two_spaces_of_ones_own_are_told_apart(tmp_path):
    other = Space({"width": [1, 2, 3, 5], "depth": [1, 2, 3], "act": ["relu", "gelu"]})
    assert other.name == SPACE.name == "custom"
    region = Mask(other, {"width": [1, 5]})
    with pytest.raises(NasplugError, match="is no region of custom"):
        search(within=region)
    same = Mask(Space(SPACE.decisions, "another name"), {"width": [1, 2]})
    assert search(within=same).best.value == 6

    class Shrinks(Uniform):
        @hookimpl
        def select_final(self, search):
            return region

    search(Shrinks(), space=other, out=tmp_path / "run")
    with pytest.raises(NasplugError, match="subspace of custom, whose archs are not custom's"):
        search(within=tmp_path / "run")


def test_hyperparameters_are_fixed_once_the_method_is_there():
    method = Tuned(batch=3)
    with pytest.raises(NasplugError, match=r"batch is fixed .*: Tuned\(batch=9\)"):
        method.batch = 9
    assert method.batch == 3


def test_search_is_a_function_and_no_module():
    with pytest.raises(ModuleNotFoundError, match=r"nasplug\.search"):
        importlib.import_module("nasplug.search")
    assert callable(nasplug.search)


@pytest.mark.parametrize("repeats", ["free", "count"])
def test_a_method_that_proposes_nothing_ends(repeats, monkeypatch):
    monkeypatch.setattr("nasplug.kernel.search.PATIENCE", 20)

    class Idle(Uniform):
        """After three rounds."""

        @hookimpl
        def propose(self, search, subspace):
            return subspace.sample(int(search.round < 3), search.rng)

    result = search(Idle(), budget=10, repeats=repeats)
    assert result.search.stopped.startswith("nothing new is proposed")
    assert result.search.round == 23
