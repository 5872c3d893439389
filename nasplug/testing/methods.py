"""What every method is expected to do, whatever it is good at."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.method import Bool, Choice, Hyperparameter
from nasplug.kernel.problem import Problem
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import ArchSet, Ball, Layered, Mask, Region
from nasplug.kernel.tree import map_leaves
from nasplug.kernel.trial import State, Trials
from nasplug.run.api import resume
from nasplug.testing.bench import (
    BUDGET,
    Bench,
    Kill,
    Killed,
    Proposals,
    Scores,
    difference,
    quiet,
)
from nasplug.testing.check import Check, Checks, NotApplicable, run_all
from nasplug.testing.tiny import TinySpace, negative, tiny_problem

AT_ONCE = 3  # candidates a round, where there are workers
REST = 0.005  # seconds, of a worker after each call
SECONDS = 1.0  # of CPU that a method may take of a round, on the average
BYTES = 16 << 20  # of a checkpoint
GREATEST = 1000  # up to which a hyperparameter is tried, for what is more is a matter of patience
CHANCE = 0.1  # share of proposals that may be isomorphs of others by accident
MISSES = 3  # of other seeds that may do the same by accident

checks = Checks()


def method_checks(method: Any) -> list[Check]:
    """The checks of a method: an object, a class or a name.

    >>> @pytest.mark.parametrize("check", method_checks(HillClimber()))
    ... def test_it_behaves(check):
    ...     check()
    """
    return checks.of(Bench(method))


def check_method(method: Any) -> None:
    """All of them at once; raises one `CheckFailed` that names those that failed."""
    run_all(method_checks(method))


# ---- that it searches


@checks.add("mend what the error says; NASPLUG_TRACEBACK=1 nasplug run shows where")
def searches(bench: Bench) -> None:
    """A search of a tiny problem ends with archs of its region."""
    try:
        found = bench.first.selection
    except NotApplicable as refusal:
        raise AssertionError(str(refusal)) from None
    _inside(found, found.search.space)


@checks.add(
    "`propose` returns at least one arch while `search.remaining` is above 0, and no hook counts "
    "trials for itself: the kernel ends a search"
)
def spends_its_budget(bench: Bench) -> None:
    """As many trials as the budget allows, unless the method says why it stops."""
    _spent(bench.first.selection, bench.budget)
    _spent(bench.search(budget=bench.budget + 1), bench.budget + 1)


@checks.add("begin with as few archs as `search.remaining` allows, or refuse in `setup`, in words")
def takes_a_budget_of_one(bench: Bench) -> None:
    """A single trial is a search, too."""
    _spent(bench.search(budget=1), 1)


@checks.add(
    'treat an arch that comes back with `trials.repeats` as any other; "count" asks for them'
)
def counts_repeats(bench: Bench) -> None:
    """With repeats="count" every proposal is a trial, and the budget is spent."""
    bench.needs_a_table()
    _spent(bench.search(repeats="count"), bench.budget)


@checks.add("compute once what stays the same, in `setup`, and vectorise over archs")
def proposes_quickly(bench: Bench) -> None:
    """Its own hooks take less than a second of CPU a round, on the average."""
    seconds = bench.first.seconds
    assert seconds < SECONDS, f"they took {seconds:.2f} s a round"


# ---- what fixes a search


@checks.add("all randomness comes from `search.rng`, or is seeded from it")
def same_seed_same_trials(bench: Bench) -> None:
    """The seed fixes every trial and the answer, whatever the generators that all share hold."""
    first, again = bench.first.selection, bench.again[0]
    _same(first.search.trials, again.search.trials)
    same = np.array_equal(_answer(first), _answer(again))
    assert same, "the same trials ended with two answers"


@checks.add("draw from `search.rng`, which the seed of the search has made")
def other_seed_other_trials(bench: Bench) -> None:
    """Another seed makes another search."""
    others = (bench.search(seed=seed).search.trials for seed in range(1, 1 + MISSES))
    other = any(difference(bench.reference, trials) for trials in others)
    assert other, f"seeds 0 to {MISSES} gave the same trials"


@checks.add("use `search.rng` instead of numpy.random, random and torch's own generator")
def leaves_global_randomness_alone(bench: Bench) -> None:
    """The generators that everybody shares are as they were before the search."""
    drawn = bench.again[1]
    assert not drawn, f"it has drawn from {', '.join(drawn)}"


@checks.add("make all that a search remembers in `setup`")
def begins_anew(bench: Bench) -> None:
    """A method object that has searched before searches as if it were new."""
    method = bench.first.selection.search.method
    _same(bench.reference, bench.search(method=method).search.trials)


@checks.add("keep state on `self`, made in `setup`; never on the class or the module")
def searches_share_nothing(bench: Bench) -> None:
    """Two searches at the same time do not know of each other."""
    first, second = (bench.start() for _ in range(2))
    with bench.refusing(), quiet():
        second.run()
        first.run()
    for search in (first, second):
        _same(bench.reference, search.trials)


@checks.add("copy what you change: `trials` are what everybody reads")
def leaves_the_history_alone(bench: Bench) -> None:
    """What was tried and how it was scored is never written over."""
    assert not bench.first.touched, bench.first.touched


# ---- where it looks


def _mask(space: Space) -> Region:
    return Mask(space, {n: c[:-1] if len(c) > 2 else c for n, c in space.decisions.items()})


def _ball(space: Space) -> Region:
    return Ball(space, space.sample(1, 0)[0], 2)


def _set(space: Space) -> Region:
    return ArchSet(space, space.sample(100, 0))


def _layered(space: Space) -> Region:
    return Layered(space, [[[c - 1], [c - 2]] for c in space.cardinalities])


WITHIN = (
    "draw from `subspace` or `search.region`, whose `sample`, `mutate` and `neighbors` stay "
    "inside, and ask `search.allows(archs)` about others"
)


@checks.add(WITHIN)
def stays_in_a_mask(bench: Bench) -> None:
    """Within some choices of each decision, it tries and selects nothing else."""
    _within(bench, _mask)


@checks.add(WITHIN)
def stays_in_a_ball(bench: Bench) -> None:
    """Within a ball around an arch, it tries and selects nothing else."""
    _within(bench, _ball)


@checks.add(WITHIN)
def stays_in_a_set(bench: Bench) -> None:
    """Within a set of archs, it tries and selects nothing else."""
    _within(bench, _set)


@checks.add(WITHIN)
def stays_in_layers(bench: Bench) -> None:
    """Within choices of whole layers, it tries and selects nothing else."""
    bench.needs_a_table()
    _within(bench, _layered)


def _within(bench: Bench, make: Any) -> None:
    region = make(bench.start().space)
    found = bench.search(within=region)
    _inside(found, region)


@checks.add("propose within `search.region`, which has nothing else, and select what was tried")
def keeps_to_constraints(bench: Bench) -> None:
    """A limit on params, known before a score, is kept by all that it tries and selects."""
    bench.needs_a_table()
    space = TinySpace()
    limit = float(np.median(space.params(space.sample(100, 0))))
    found = bench.search(constraints=[f"params<={limit}"])
    for archs in (found.search.trials.archs, found.archs):
        assert (space.params(archs) <= limit).all(), f"an arch has more than {limit:g} params"


@checks.add("select among `trials.scores`, which are -inf for what breaks a constraint")
def selects_what_keeps_to_constraints(bench: Bench) -> None:
    """A limit on what a score tells is kept by what it selects."""
    bench.needs_a_table()
    found = bench.search(tiny_problem(evaluate=_timed), constraints=["latency<=2"])
    for trial in found.ranked():
        late = trial.metrics.get("latency", 0.0)
        assert late <= 2, f"{trial} was selected, with a latency of {late:g} where 2 is the limit"


def _timed(arch: dict[str, Any], trial: Any = None) -> dict[str, float]:
    """Better the more convolutions there are, and slower."""
    convolutions = sum(op == "conv" for op in arch.values())
    return {"value": float(convolutions), "latency": float(convolutions)}


@checks.add(
    "mutate by `subspace.mutate` or `neighbors`, and tell by `search.seen(archs)` or "
    "`search.keys(archs)`, not by the arrays, whether an arch was scored"
)
def proposes_no_isomorphs_as_new(bench: Bench) -> None:
    """It proposes no isomorphs of what was scored as if they were something new."""
    bench.needs_a_table()
    watch, space = Proposals(), Half()
    bench.search(tiny_problem(space), plugins=[watch])
    before, again = watch.rounds[0], []
    for archs in watch.rounds[1:]:
        known = np.isin(space.classes(archs), space.classes(before))
        again += [*archs[known & ~np.isin(space.codes(archs), space.codes(before))]]
        before = np.concatenate([before, archs])
    assert len(again) <= CHANCE * len(before), (
        f"{len(again)} of {len(before)} proposals were isomorphs of what had been scored, such as "
        f"{space.to_str(again[0])}"
    )


class Half(Space):
    """Of its ten decisions the last five make no difference."""

    def __init__(self) -> None:
        super().__init__({f"d{i}": range(5 if i < 5 else 3) for i in range(10)}, "half")

    def canonical(self, archs: Archs) -> Archs:
        canonical = np.array(archs)
        canonical[:, 5:] = 0
        return canonical


# ---- what comes back


@checks.add("read `trials.scores`, of which the highest is always the best, instead of `values`")
def minimises_as_it_maximises(bench: Bench) -> None:
    """Minimising is maximising the negative: the same trials."""
    bench.needs_a_table()
    space = TinySpace()
    task = tiny_problem(space, partial(negative, space), "minimize")
    found = bench.search(task).search.trials
    found.values *= -1
    _same(bench.reference, found)


@checks.add(
    "read `trials.scores`, -inf where failed, or `trials.scored`; `values` may be infinite there"
)
def failures_teach_nothing(bench: Bench) -> None:
    """Whatever value a failed trial has, the search goes on alike."""
    bench.needs_a_table()
    first: Trials | None = None
    for failed in (np.nan, np.inf, -np.inf):
        found = bench.search(_failing(failed, State.COMPLETE)).search.trials
        found.values[found.states == State.FAILED] = np.nan
        if first is not None:
            _same(first, found)
        first = found


@checks.add("handle every row of `trials` in `update`, those that failed or were pruned as well")
def goes_on_after_failures(bench: Bench) -> None:
    """Failed, pruned and NaN trials are trials: the budget is spent, and none of them selected."""
    bench.needs_a_table()
    for bad, state in ((np.nan, State.COMPLETE), (np.nan, State.PRUNED), (9.0, State.PRUNED)):
        found = bench.search(_failing(bad, state))
        _went_on(found, bench.budget)
        states = {trial.state for trial in found.ranked()} - {State.COMPLETE, State.WAITING}
        assert not states, f"a trial that is {min(states).name} was selected"


@checks.add("let no hook raise where no trial has a score: what is read of none is `-inf`")
def survives_when_all_fails(bench: Bench) -> None:
    """If every trial fails, the search says so at its end, and nothing else."""
    bench.needs_a_table()
    try:
        bench.search(tiny_problem(evaluate=_broken))
    except NasplugError as error:
        said = str(error)
    else:
        said = "it has selected an arch"
    assert said.startswith("every trial failed"), said


def _broken(arch: dict[str, Any], trial: Any = None) -> float:
    raise ValueError("as every arch does here")


def _failing(bad: float, state: State) -> Problem:
    """A problem on which every third arch has this value and this state."""
    space = TinySpace()
    weights = np.sqrt(np.arange(2, space.d + 2))

    def score(archs: Archs) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        canonical = space.canonical(archs)
        values = (canonical / space.cardinalities) @ weights
        fails = space.index(canonical) % 3 == 0
        return np.where(fails, bad, values), np.where(fails, state, State.COMPLETE)

    return Problem(space, "failing", Scores(score), "scores", True, space)


# ---- spaces of all kinds


@checks.add("where nothing new is left return repeats, or nothing: the kernel ends the search then")
def ends_when_all_is_scored(bench: Bench) -> None:
    """A space with fewer archs than the budget is searched to its end."""
    found = _of_kind(bench, {"a": range(4), "b": range(3)}, budget=2 * BUDGET)
    trials = found.search.trials
    most = 12 * len(np.unique(trials.fidelities))
    assert len(trials) <= most, f"{len(trials)} trials of {most} that there are"


@checks.add("derive all shapes from `search.space`: there may be one decision only")
def takes_one_decision(bench: Bench) -> None:
    """A space of one decision is searched."""
    _of_kind(bench, {"a": range(BUDGET + 8)})


@checks.add("a decision with one choice cannot be changed: leave changes to `subspace.mutate`")
def takes_one_choice(bench: Bench) -> None:
    """Decisions with a single choice are no trouble, among others and alone."""
    _of_kind(bench, {"a": [1], **{f"d{i}": range(3) for i in range(4)}, "z": ["only"]})
    _of_kind(bench, {"a": ["only"]})


@checks.add("sample; `space.all()` and arrays of `space.size` are for small spaces alone")
def takes_a_trillion_archs(bench: Bench) -> None:
    """A space of 10^12 archs is searched, without listing it."""
    _of_kind(bench, {f"d{i}": range(10) for i in range(12)})


def _of_kind(bench: Bench, decisions: dict[str, Any], budget: int | None = None) -> Selection:
    """A search of a space with these decisions."""
    bench.needs_a_table()
    space = Space(decisions)
    found = bench.search(tiny_problem(space), budget=budget)
    if space.size > (budget or bench.budget):
        _went_on(found, bench.budget)
    _inside(found, space)
    return found


# ---- several at once


@checks.add("propose `search.wanted` archs a round, and expect any number of trials in `update`")
def proposes_several_at_once(bench: Bench) -> None:
    """With workers a round has several candidates; the same seed gives the same trials."""
    bench.needs_a_table()
    watch = Proposals()
    first, second = (bench.search(at_once=AT_ONCE, plugins=[watch]) for _ in range(2))
    _same(first.search.trials, second.search.trials)
    if max(map(len, watch.rounds)) == 1:
        raise NotApplicable("it proposes one arch a round: workers wait, but for `search.wanted`")


@checks.add("leave to the kernel by whom archs are scored, and in which order")
def takes_workers(bench: Bench) -> None:
    """With workers the trials are those of as many candidates a round."""
    bench.needs_a_table()
    expected = bench.search(at_once=AT_ONCE).search.trials
    with _workers() as workers:
        _same(expected, bench.by_the_door(workers=workers).search.trials)


@checks.add("learn from `trials` one by one, in any order, or leave `asynchronous` as it is, False")
def learns_in_any_order(bench: Bench) -> None:
    """A method that says it is asynchronous is: trials come as they end."""
    bench.needs_a_table()
    if not getattr(bench.fresh(), "asynchronous", False):
        raise NotApplicable("it learns from whole rounds (asynchronous = False)")
    with _workers() as workers:
        found = bench.by_the_door(workers=workers, asynchronous=True)
    _went_on(found, bench.budget)
    _inside(found, found.search.space)


class _Thread(ThreadPoolExecutor):
    """One thread that takes several calls at a time, and rests after each: else all of a round may
    have ended before any is looked at."""

    max_workers = AT_ONCE  # what `nasplug.search` asks

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        super().submit(time.sleep, REST)
        return future


def _workers() -> _Thread:
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        raise NotApplicable("workers need cloudpickle: pip install 'nasplug[parallel]'") from None
    return _Thread(1)


# ---- hyperparameters


@checks.add("narrow the bounds of the declaration, or of `ranges(space)`, to what works")
def works_at_every_bound(bench: Bench) -> None:
    """Each hyperparameter that a study tunes works at both of its bounds, and by each choice."""
    method = bench.fresh()
    if not getattr(method, "declared", dict)():
        raise NotApplicable("it declares no hyperparameters")
    declared = {**method.declared(), **method.ranges(bench.start().space)}
    for name, one in declared.items():
        for extreme in _extremes(one, declared) if one.tunable else ():
            given = {**method.hyperparameters, **_meant(one, declared), name: extreme}
            try:
                with suppress(Killed, NotApplicable):
                    plugins = [Kill(1)] if bench.trains else []
                    bench.search(method=type(method)(**given), plugins=plugins)
            except Exception as error:
                raise AssertionError(f"{name}={extreme}: {error}") from error


@checks.add("spell the settings of `ablations` as the hyperparameters that the method declares")
def declares_ablations_it_takes(bench: Bench) -> None:
    """Each of its ablations is a setting that it takes, and another one than its own."""
    method = bench.fresh()
    declared = getattr(method, "ablations", {})
    if not declared:
        raise NotApplicable("it declares no ablations")
    for name, settings in declared.items():
        try:
            changed = type(method)(**{**method.hyperparameters, **settings})
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
        assert changed.hyperparameters != method.hyperparameters, f"{name} changes nothing"


def _extremes(one: Hyperparameter[Any], declared: dict[str, Hyperparameter[Any]]) -> Iterator[Any]:
    """Its bounds, so far as another hyperparameter can be to allow them, or its choices."""
    if isinstance(one, Bool):
        yield from (True, False)
    elif isinstance(one, Choice):
        yield from one.choices
    else:
        limits = [*_extremes(declared[one.at_most], declared)] if one.at_most else [GREATEST]
        for bound in (getattr(one, "low", np.nan), getattr(one, "high", np.nan)):
            if np.isfinite(bound):
                yield type(one.default)(np.clip(bound, -GREATEST, min(limits[-1], GREATEST)))


def _meant(one: Hyperparameter[Any], declared: dict[str, Hyperparameter[Any]]) -> dict[str, Any]:
    """What others have to be for this one to have a meaning at its bounds."""
    others = {}
    if one.when:
        name, _, text = one.when.partition("=")
        others[name] = declared[name].parse(text)
    if one.at_most:
        others[one.at_most] = [*_extremes(declared[one.at_most], declared)][-1]
    for other in declared.values():
        if other.at_most == one.name:
            others[other.name] = next(_extremes(other, declared))
    return others


# ---- going on where it was interrupted


@checks.add(
    "keep what the next rounds need in `state` and take it up in `load_state`, or return None: a "
    "method that depends on its seed and on its trials alone is replayed"
)
def resumes_as_if_never_interrupted(bench: Bench) -> None:
    """Killed after one round, two, four ... and resumed each time, its trials are the same."""
    task = {name: x for name, x in bench.task.items() if name not in ("direction", "fidelity")}
    with tempfile.TemporaryDirectory(prefix="nasplug-") as folder:
        path, kill = Path(folder) / "run", Kill(1)
        with suppress(Killed):
            bench.by_the_door(out=path, plugins=bench.plugins(kill))
        while kill.trials is None:
            kill = Kill(2 * kill.after)
            with suppress(Killed), bench.refusing(), quiet():
                method, plugins = bench.fresh(), bench.plugins(kill)
                resume(path, method=method, progress=False, plugins=plugins, **task)
    _same(bench.reference, kill.trials)


@checks.add("hold arrays and JSON values alone, and not what can be computed again")
def keeps_a_plain_and_small_state(bench: Bench) -> None:
    """What a checkpoint holds are arrays and JSON values, of a few megabytes at most."""
    for state in bench.states:
        size = 0

        def weigh(leaf: Any) -> None:
            nonlocal size
            plain = isinstance(leaf, str | int | float | bool | np.ndarray | np.generic | None)
            if not plain or getattr(leaf, "dtype", np.dtype(int)).hasobject:
                raise AssertionError(f"it holds a {type(leaf).__name__}: {leaf!r:.80}")
            size += getattr(leaf, "nbytes", 8)

        map_leaves(weigh, state)
        assert size <= BYTES, f"it is {size >> 20} MB"


@checks.add("take up in `load_state` all that `state` returns, as it was")
def takes_up_its_state(bench: Bench) -> None:
    """After load_state(state()) the state is the same."""
    for state in bench.states:
        method = bench.start().method
        method.load_state(copy.deepcopy(state))
        changed = _differs(state, method.state())
        assert not changed, f"{changed} is not as it was"


def _differs(one: Any, other: Any, name: str = "state") -> str:
    """The name of the first leaf in which two trees differ, or ''."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return next(filter(None, (_differs(one[k], other[k], f"{name}[{k!r}]") for k in one)), "")
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (_differs(a, b, f"{name}[{i}]") for i, (a, b) in pairs)), "")
    same = type(one) is type(other) or np.isscalar(one)
    return "" if same and np.array_equal(one, other) else name


# ---- what is asserted again and again


def _answer(found: Selection) -> Archs:
    """The archs that a search has selected, and some of the subspace that it hands over."""
    few = found.subspace.sample(100, 0) if found.subspace else found.archs[:0]
    return np.concatenate([found.archs, few])


def _same(one: Trials, other: Trials) -> None:
    assert not (found := difference(one, other)), found


def _spent(found: Selection, budget: int) -> None:
    """As many trials as the budget, unless the method has stopped in words of its own."""
    search = found.search
    n, kernels = len(search.trials), ("budget spent", "nothing new is proposed")
    fair = n == budget or (n < budget and not search.stopped.startswith(kernels))
    assert fair, f"{n} trials with a budget of {budget}: {search.stopped}"


def _went_on(found: Selection, budget: int) -> None:
    """The same, but for a few trials: what has no other fault than its count has one fault."""
    n, stopped = len(found.search.trials), found.search.stopped
    stuck = n <= budget // 2 and stopped.startswith("nothing new is proposed")
    assert not stuck, f"after {n} trials of {budget} nothing new was proposed"


def _inside(found: Selection, region: Region) -> None:
    """All that was tried and is selected lies in a region."""
    search = found.search
    archs = {"tried": search.trials.archs, "selected": found.archs}
    if found.subspace is not None:
        archs["handed over in its subspace"] = found.subspace.sample(100, 0)
    for what, rows in archs.items():
        outside = rows[~region.contains(rows)]
        assert not len(outside), (
            f"{search.space.to_str(outside[0])}, which was {what}, is not in {region.describe()}"
        )
