"""What somebody meets in the first hour: limits, isomorphs, hooks that do not exist, odd input."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, Ball, Mask, Method, NasplugError, Space, hookimpl
from nasplug.kernel.registry import registry
from nasplug.run.constraints import Constraint, Feasible


class Counted(Space):
    """Knows its params, and that its layers have no order."""

    def __init__(self):
        super().__init__({f"layer{i}": [1, 2, 4, 8, 16] for i in range(4)}, "counted")

    def params(self, archs):
        return (2 ** np.asarray(archs, dtype=np.int64)).sum(1)

    def canonical(self, archs):
        return np.sort(archs, axis=1)


SPACE = Counted()


def total(arch):
    return float(sum(arch.values()))


def search(method, **options):
    return nasplug.search(
        method, **{"space": SPACE, "evaluate": total, "budget": 60, "tracking": False} | options
    )


SEARCHERS = [
    "random", "regularized-evolution", "local-search", "reinforce", "dsm", "lissnas",
    "shrink-random", "shrink-top", "bananas", "optuna-tpe",
]  # fmt: skip


@pytest.mark.parametrize("method", SEARCHERS)
@pytest.mark.parametrize(
    "within",
    [None, Mask(SPACE, {"layer0": [1, 2, 4]}), Ball(SPACE, [0, 0, 1, 1], 3)],
    ids=["whole", "mask", "ball"],
)
def test_what_is_known_to_break_a_limit_is_never_scored(method, within):
    """Of 60 archs that random trained, 33 were known to be infeasible beforehand."""
    scored = []

    def evaluate(arch):
        scored.append(sum(arch.values()))
        return total(arch)

    size = {"size": 10} if method in ("lissnas", "shrink-random", "shrink-top") else {}
    found = search(
        method, evaluate=evaluate, within=within, constraints=["params<=20", "params > 4"],
        budget=20, **size,
    )  # fmt: skip
    assert len(scored) > 10
    assert min(scored) > 4
    assert max(scored) <= 20
    assert found.best.value <= 20
    if found.subspace is not None:
        assert (SPACE.params(found.subspace.archs) <= 20).all()


def test_a_method_that_looks_nowhere_loses_what_is_infeasible_and_goes_on():
    class Anywhere(Method):
        @hookimpl
        def propose(self, search):
            return search.space.sample(4, search.rng)

    found = search(Anywhere(), constraints=["params<=8"])
    assert (SPACE.params(found.search.trials.archs) <= 8).all()
    assert found.search.stopped.startswith("nothing new") or len(found.search.trials) == 60


@pytest.mark.parametrize(
    "region", [SPACE, Mask(SPACE, {"layer1": [1, 2]}), ArchSet(SPACE, SPACE.sample(80, 3))]
)
def test_a_feasible_region_is_the_region_within_its_limits(region):
    limit = Constraint("params<=12")
    feasible = Feasible(region, [limit])
    everything = SPACE.all()
    inside = feasible.contains(everything)
    assert (inside == region.contains(everything) & (SPACE.params(everything) <= 12)).all()
    drawn = feasible.sample(500, 1)
    assert feasible.contains(drawn).all()
    assert len(SPACE.unique(drawn)) == min(inside.sum(), len(SPACE.unique(drawn)))
    mutants = feasible.mutate(drawn, 2)
    assert feasible.contains(mutants).all()
    near = feasible.neighbors(drawn[0])
    assert {*map(tuple, near)} == {
        tuple(arch) for arch in region.neighbors(drawn[0]) if SPACE.params(arch[None])[0] <= 12
    }
    assert "with params<=12" in feasible.describe()


def test_samples_of_a_feasible_region_are_uniform():
    feasible = Feasible(SPACE, [Constraint("params<=7")])
    members = SPACE.all()[feasible.contains(SPACE.all())]
    counts = np.unique(SPACE.codes(feasible.sample(20_000, 0)), return_counts=True)[1]
    assert len(counts) == len(members)
    expected = 20_000 / len(members)
    assert abs(counts - expected).max() < 5 * math.sqrt(expected)


@pytest.mark.parametrize("method", SEARCHERS)
def test_limits_that_nothing_keeps_to_end_at_once(method):
    said = r"nothing was found in counted.*params<=1: the lowest params found is .*loosen"
    with pytest.raises(NasplugError, match=said):
        search(method, constraints=["params<=1"])


def test_a_supernet_is_of_the_whole_region_and_its_selection_is_held_to_the_limit():
    found = nasplug.search(
        "gdas", on="nb201:C=2,N=1/digits", budget=2, tracking=False, epochs=2, batch=256,
        constraints=["params<=1e9"],
    )  # fmt: skip
    assert len(found.search.trials) == 2
    assert found.search.trials.feasible.all()


# ---- isomorphs


def test_isomorphs_of_a_users_space_are_scored_once():
    """2,187 points of 1,053 classes cost 2,000 evaluations."""
    scored = []

    def evaluate(arch):
        scored.append(arch)
        return total(arch)

    found = search("random", evaluate=evaluate, budget=600)
    classes = len(np.unique(SPACE.classes(SPACE.all())))
    assert len(scored) == classes == len(found.search.trials)
    assert found.search.stopped.startswith("nothing new")
    assert search("random", budget=600, isomorphs="apart").search.finished == 600


def test_repeats_that_count_take_the_score_of_an_isomorph(tmp_path):
    options = {"repeats": "count", "budget": 200, "out": tmp_path / "run"}
    found = search("random", **options)
    trials = found.search.trials
    assert trials.repeats.sum() >= 130
    assert (trials.values == [total(trial.params) for trial in trials]).all()
    again = nasplug.resume(tmp_path / "run", space=SPACE, evaluate=total)
    assert (again.search.trials.archs == trials.archs).all()


def test_a_table_knows_isomorphs_apart(nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    found = nasplug.search("random", on="nb201/toy", budget=300, tracking=False)
    archs, space = found.search.trials.archs, found.search.space
    assert len(space.distinct(archs)) < len(archs) == 300
    shared = nasplug.search(
        "random", on="nb201/toy", budget=300, tracking=False, isomorphs="shared"
    )
    archs = shared.search.trials.archs
    assert len(space.distinct(archs)) == len(archs) == 300


# ---- hooks


class Updates(Method):
    @hookimpl
    def propose(self, subspace):
        return subspace.sample(1, 0)

    @hookimpl
    def updates(self, trials):
        raise AssertionError


class Misnamed(Method):
    @hookimpl
    def propose(self, subspaces):
        return subspaces.sample(1, 0)


class Unmarked:
    def evaluate(self, candidates):
        return candidates

    @hookimpl
    def update(self):
        raise AssertionError


class Wraps:
    @hookimpl(wrapper=True)
    def evaluate(self, candidates):
        return candidates


class Yields:
    @hookimpl
    def evaluate(self):
        return (yield)


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Updates, r"unknown hook 'updates'; did you mean update.* \(of plugin Updates\)"),
        (
            Misnamed,
            r"unknown argument of Misnamed\.propose 'subspaces'; did you mean subspace\? "
            r"\(write `def propose\(self, search, subspace\)`, or those of them",
        ),
        (Unmarked, r"Unmarked\.evaluate is no hook yet: mark it with @nasplug\.hookimpl"),
        (Wraps, r"Wraps\.evaluate wraps the hook, so .* `answer = yield`, and `return answer`"),
        (Yields, r"Yields\.evaluate yields, .* @nasplug\.hookimpl\(wrapper=True\)"),
    ],
)
def test_what_is_wrong_with_hooks_is_said(plugin, message):
    with pytest.raises(NasplugError, match=message):
        search(plugin())
    with pytest.raises(NasplugError, match=message):
        search("random", plugins=[plugin()])


# ---- a function that fails


def test_when_every_trial_fails_the_line_of_the_function_is_named():
    def broken(arch):
        return {}[arch["layer0"]] + 1

    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(NasplugError) as caught:
        search("random", evaluate=broken)
    assert f"({__file__}, line {line})" in str(caught.value)
    assert "NASPLUG_TRACEBACK=1" in str(caught.value)


def test_in_a_library_the_line_that_called_it_is_named():
    def broken(arch):
        return np.linalg.inv(np.zeros((2, 2)))[0, 0]

    with pytest.raises(NasplugError) as caught:
        search("random", evaluate=broken)
    assert f"LinAlgError: Singular matrix ({__file__}, line" in str(caught.value)


def test_the_traceback_is_shown_from_python_too(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import nasplug\n"
        "def broken(arch):\n"
        "    raise RuntimeError('no gpu')\n"
        "nasplug.search('random', space=nasplug.Space({'a': [1, 2]}), evaluate=broken, budget=2,"
        " tracking=False)\n"
    )
    shown = {}
    for wanted in ("", "1"):
        shown[wanted] = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=False,
            env={**os.environ, "NASPLUG_TRACEBACK": wanted},
        ).stderr  # fmt: skip
    assert "line 3, in broken\n    raise RuntimeError" in shown["1"]
    assert "in broken" not in shown[""]
    assert f"({script}, line 3)" in shown[""]


# ---- strings of archs


@pytest.mark.parametrize(
    "choices",
    [
        [(3, 3), (5, 5)], [" a", "a", "a "], ["x=1", "x=2"], ["a,b", "c,d"], [None, True, 0.5],
        ["1, 2", "(1, 2)"],
    ],
)  # fmt: skip
def test_every_arch_comes_back_from_its_string(choices):
    """That of tuples failed, and that of choices with blanks was silently another."""
    space = Space({"kernel": choices, "b": ["u", "v"], "kernel2": choices})
    for arch in space.all():
        assert (space.from_str(space.to_str(arch)) == arch).all()


def test_a_choice_that_reads_like_another_decision_is_refused():
    with pytest.raises(NasplugError, match="choice 'x,b=1' of 'a' reads like another decision"):
        Space({"a": ["x,b=1", "y"], "b": [1, 2]})


# ---- odd values

ODD = [
    None, True, False, 0, -1, 2.5, 10**20, math.inf, -math.inf, math.nan, "", " ", "5", "x" * 300,
    "\udcff", b"5", 1j, [], [None], [3], ["x"], {}, {"a": 5}, {1, 2}, (), object(), int, len,
    np.zeros(3), np.float64(2), np.array("a"), Path(""), iter([1]), lambda: 0, lambda arch: "0.5",
]  # fmt: skip
OPTIONS = [
    "budget", "seed", "space", "evaluate", "data", "direction", "evaluator", "reward", "report",
    "within", "repeats", "isomorphs", "constraints", "max_cost", "max_seconds", "out", "plugins",
    "on", "method", "tournament", "population", "prune", "workers", "asynchronous", "retries",
    "fidelity",
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_odd_values_are_refused_in_words(option, tmp_path, monkeypatch):
    """749 malformed calls were tried: a value, or a NasplugError that says what is wrong."""
    monkeypatch.chdir(tmp_path)
    for odd in ODD:
        options = {
            "method": "regularized-evolution", "space": SPACE, "evaluate": total, "budget": 2,
            "population": 2, "tournament": 1, "tracking": False, option: odd,
        }  # fmt: skip
        if (said := refusal(**options)) is None:
            assert acceptable(option, odd), f"{option}={odd!r} was accepted"
        else:
            assert len(said) > 10
            assert "\n" not in said


def refusal(method, **options):
    """What is said against a search, None if nothing is."""
    try:
        nasplug.search(method, **options)
    except NasplugError as error:
        return str(error)


def acceptable(option, odd):
    match option:
        case "budget" | "seed" | "retries":
            return isinstance(odd, int) and not isinstance(odd, bool) and odd >= 0
        case "max_cost" | "max_seconds":
            return odd is None or (np.isreal(odd) and odd > 0)
        case "asynchronous":
            return odd is False
        case "workers":
            return odd is None or odd == "5"
        case "prune":
            return odd is None or odd is False
        case (
            "within" | "evaluator" | "reward" | "report" | "isomorphs" | "on" | "data" | "fidelity"
        ):
            return odd is None
        case "out":
            return odd is None or isinstance(odd, bool | Path) or str(odd).strip() == odd
        case "constraints" | "plugins":
            return isinstance(odd, list | tuple | dict | set) and not odd
        case "evaluate":
            return odd is int or odd is len
        case "population":
            return odd == "5"
    return False


def test_odd_spaces_are_refused_in_words():
    for odd in [
        {"a": 5}, {"a": (i for i in range(3))}, np.array([1, 2]), {"a": {1, 2}}, {"a": {1: 2}},
        {1: [1, 2], "1": [3, 4]}, {"a": [1, "1"]}, {"a": []}, {"a": "abc"}, {}, [], None, 5, "a",
        {"a": None},
    ]:  # fmt: skip
        with pytest.raises(NasplugError):
            Space(odd)


def test_text_is_no_value():
    with pytest.raises(NasplugError, match=r"the function returned text, '0.5', where a number"):
        search("random", evaluate=lambda arch: "0.5")


def test_reward_and_report_are_no_matter_of_a_function():
    with pytest.raises(NasplugError, match="reward"):
        search("random", reward="latency")


def test_every_method_is_tried_here():
    table = {
        name
        for name in registry().methods
        if name not in ("shrink-abs", "shrink-padnas", "shrink-nse")
    }
    oneshot = {"autospace", "darts", "pc-darts", "gdas", "ddsas", "ostr-darts"}
    oneshot |= {"spos", "proxyless", "supernet"}
    halving = {"successive-halving", "hyperband"}  # tests/test_fidelity.py
    several = {"nsga2"}  # tests/test_objectives.py
    samplers = {"optuna", "optuna-cmaes", "optuna-nsga2", "optuna-random"}  # as optuna-tpe
    assert table - oneshot - halving - several - samplers == set(SEARCHERS)
