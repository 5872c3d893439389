"""LISSNAS: its parts against hand-made cases, and the method end to end."""

import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, Mask, NasplugError, Space
from nasplug.analysis import XGBoost
from nasplug.kernel.registry import registry
from nasplug.testing import method_checks
from nasplug_lissnas.method import LISSNAS
from nasplug_lissnas.shrink import Pockets

NB201 = nasplug.space("nb201")
CHAIN = Space({f"layer{i}": range(4) for i in range(8)})


def value(arch):
    return sum(arch.values()) + 0.5 * (arch["layer0"] == arch["layer7"])


def conv_count(archs):
    return (np.asarray(archs) == 3).sum(1).astype(float)


def pockets(space=NB201, predict=conv_count, size=100, distance=2, **options):
    everything = options.pop("allowed", space.contains)
    return Pockets(space, predict, everything, size, 10, distance, **options)


def lissnas(budget=60, **options):
    problem = {} if "on" in options else {"space": CHAIN, "evaluate": value}
    options = {"size": 50, "sample": 300, "tracking": False, "seed": 0} | problem | options
    return nasplug.search("lissnas", budget=budget, **options)


# ---- neighbors


def test_neighbors_are_as_far_as_asked_and_never_isomorphs_of_their_seed():
    seeds = NB201.distinct(NB201.sample(40, 0))
    for distance in (1, 2, 3):
        near, scores = pockets(distance=distance).neighbors(seeds, np.random.default_rng(0))
        from_each = NB201.distance(near[:, None], seeds[None])
        assert (from_each.min(1) <= distance).all()
        assert np.array_equal(scores, conv_count(near))
    for seed in seeds:
        near, _ = pockets(distance=2).neighbors(seed[None], np.random.default_rng(0))
        assert len(near)
        assert set(NB201.distance(near, seed)) <= {1, 2}
        assert not (NB201.canonical(near) == NB201.canonical(seed[None])).all(1).any()
        assert len(set(NB201.classes(near))) == len(near)


def test_a_pocket_keeps_the_best_predicted_neighbors():
    seed = np.full((1, 8), 1)
    pocket = pockets(CHAIN, lambda archs: archs.sum(1).astype(float), distance=1)
    near, scores = pocket.neighbors(seed, np.random.default_rng(0))
    assert 0 < len(near) <= 10
    assert scores.min() >= 8  # of the 24 neighbors only eight are worse than their seed


def test_without_locality_neighbors_are_anywhere():
    seed = np.zeros((1, 8), int)
    near, _ = pockets(CHAIN, lambda a: a.sum(1) * 1.0, distance=1, locality=False).neighbors(
        seed, np.random.default_rng(0)
    )
    assert (CHAIN.distance(near, seed) > 1).all()


# ---- the stopping rule


def test_the_set_before_a_fall_of_the_mean_is_the_answer(monkeypatch):
    falling = pockets(size=3)
    start = NB201.arch([3] * 6)[None]
    sets = iter([(NB201.sample(3, 1), np.full(3, 9.0)), (NB201.sample(3, 2), np.full(3, 8.0))])
    monkeypatch.setattr(falling, "around_seeds", lambda *_: next(sets))
    shrunk = falling.shrink(start, np.random.default_rng(0))
    assert shrunk.means == [6.0, 9.0]
    assert np.array_equal(shrunk.archs, NB201.sample(3, 1))


def test_a_plateau_ends_it_too(monkeypatch):
    flat = pockets(size=3)
    rises = iter([10.0, 10.01, 11.0])
    monkeypatch.setattr(
        flat, "around_seeds", lambda *_: (NB201.sample(3, 1), np.full(3, next(rises)))
    )
    assert flat.shrink(NB201.sample(3, 0), np.random.default_rng(0)).means[1:] == [10.0]


def test_the_mean_rises_with_every_iteration_and_the_best_stays():
    population = NB201.distinct(NB201.sample(500, 0))
    shrunk = pockets(size=60).shrink(population, np.random.default_rng(0))
    assert (np.diff(shrunk.means) > 0).all()
    assert len(shrunk.archs) == 60
    assert shrunk.scores[0] >= conv_count(population).max()
    assert (np.diff(shrunk.scores) <= 0).all()
    assert len(set(NB201.classes(shrunk.archs))) == 60


# ---- the method


@pytest.mark.parametrize("check", method_checks(LISSNAS(size=20, sample=50, rounds=3)))
def test_it_behaves(check):
    check()


def test_it_finds_the_pockets_and_the_space_is_usable():
    result = lissnas(budget=100)
    assert isinstance(result.subspace, ArchSet)
    assert result.subspace.archs.shape == (50, 8)
    assert result.subspace.archs.sum(1).mean() > 17  # 12 in the whole space
    assert result.subspace.contains(result.best.arch[None]).all()
    inside = nasplug.search(
        "random", space=CHAIN, evaluate=value, budget=10, within=result.subspace, tracking=False
    )
    assert result.subspace.contains(inside.search.trials.archs).all()


@pytest.mark.parametrize(
    "options",
    [
        {"neighbors": "random"},
        {"neighbors": "none"},
        {"neighbors": "all"},
        {"initial": 1.0},
        {"predictor": "forest"},
        {"distance": "rwa"},
        {"distance": 1},
    ],
)
def test_every_switch_makes_a_set(options):
    assert lissnas(budget=40, rounds=2, **options).subspace.size == 50


def test_the_size_may_be_an_outcome_of_pockets_of_which_no_neighbor_is_left_out(monkeypatch):
    whole = pockets(size=0)
    kept = []
    neighbors = whole.neighbors
    monkeypatch.setattr(whole, "neighbors", lambda *a: kept.append(neighbors(*a)) or kept[-1])
    population = NB201.sample(1000, 0)
    archs, scores = whole.around_seeds(
        population, conv_count(population), 0, np.random.default_rng(0)
    )
    assert len(kept) == 1  # the best tenth are the seeds, all at once
    seeds = population[np.argsort(-conv_count(population), kind="stable")[:100]]
    found = np.unique(NB201.classes(np.concatenate([seeds, kept[0][0]])))
    assert len(archs) == len(scores) == len(found)
    assert lissnas(budget=40, rounds=2, size=0).subspace.size > 0


def test_it_stays_in_its_region_and_within_limits():
    region = Mask(NB201, {"1<-0": ["nor_conv_3x3", "skip_connect"]})
    result = nasplug.search(
        "lissnas", space=NB201, evaluate=lambda arch: list(arch.values()).count("nor_conv_3x3"),
        budget=60, within=region, constraints=["flops<=100e6"], size=40, tracking=False,
    )  # fmt: skip
    archs = result.subspace.archs
    assert region.contains(archs).all()
    assert region.contains(result.search.trials.archs).all()
    assert (NB201.flops(archs) <= 100e6).all()


def test_the_predictor_may_see_what_the_space_counts():
    options = {"space": NB201, "budget": 60, "size": 40, "tracking": False}
    result = nasplug.search(
        "lissnas", evaluate=lambda arch: float(NB201.params(NB201.from_dict(arch)[None])[0]),
        predictor="xgboost+params", **options,
    )  # fmt: skip
    archs = NB201.all()
    assert NB201.params(result.subspace.archs).mean() > np.quantile(NB201.params(archs), 0.95)
    with pytest.raises(NasplugError, match="unknown feature for xgboost"):
        nasplug.search("lissnas", evaluate=value, predictor="xgboost+depth", **options)


def test_tight_limits_spend_nothing_on_what_breaks_them():
    options = {
        "space": NB201, "evaluate": lambda arch: list(arch.values()).count("nor_conv_1x1"),
        "budget": 40, "tracking": False,
    }  # fmt: skip
    result = nasplug.search("lissnas", constraints=["flops<=12e6"], size=40, **options)
    assert (NB201.flops(result.search.trials.archs) <= 12e6).all()
    scored = []
    said = r"nothing was found in nb201.* with flops<=1: the lowest.* loosen"
    with pytest.raises(NasplugError, match=said):
        nasplug.search("lissnas", constraints=["flops<=1"], **options | {"evaluate": scored.append})
    assert not scored


def test_minimizing_is_maximizing_the_negative():
    result = lissnas(direction="minimize", budget=100)
    assert result.subspace.archs.sum(1).mean() < 7


def test_a_given_model_shrinks_before_anything_is_scored(tmp_path):
    archs = CHAIN.sample(500, 0)
    XGBoost(CHAIN).fit(archs, archs.sum(1)).save(tmp_path / "model.ubj")
    result = lissnas(predictor=str(tmp_path / "model.ubj"), budget=20)
    assert result.subspace.archs.sum(1).mean() > 17
    assert result.search.trials.archs.sum(1).min() > 15  # no random sample


def test_fewer_archs_than_asked_are_said_and_returned():
    with pytest.warns(UserWarning, match="instead of 100,000"):
        result = nasplug.search(
            "lissnas", space=Space({"a": range(8), "b": range(8)}), budget=30, size=100_000,
            evaluate=lambda arch: arch["a"] + arch["b"] / 10, tracking=False,
        )  # fmt: skip
    assert result.subspace.size > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 10}, "20 scored archs or more; the budget is 10"),
        ({"distance": 0}, "distance must be 1 to 8 in custom, got 0"),
        ({"distance": 9}, "distance must be 1 to 8 in custom, got 9"),
        ({"distance": "near"}, "third or rwa; got 'near'"),
        ({"predictor": "xgbost"}, "did you mean xgboost"),
        ({"evaluate": lambda arch: 1.0}, "all 24 values are 1"),
        ({"evaluate": lambda arch: float("nan")}, "every trial failed|at least 5"),
        ({"constraints": ["latency<=1"]}, "lissnas can keep to limits .* not to latency<=1"),
        ({"neighbors": "few"}, "near, random, none, all"),
        (
            {"neighbors": "all", "space": nasplug.space("shufflenetv2")},
            "asks about every arch, and shufflenetv2 has 1.1e\\+12",
        ),
    ],
)
def test_bad_input_is_met_with_words(options, message):
    with pytest.raises(NasplugError, match=message):
        lissnas(**options)


SLOW_SEARCH = """
import sys, time, nasplug
def value(arch):
    time.sleep(0.02)
    return sum(arch.values()) + 0.5 * (arch["layer0"] == arch["layer7"])
space = nasplug.Space({f"layer{i}": range(4) for i in range(8)})
nasplug.search("lissnas", space=space, evaluate=value, budget=60, seed=0, out=sys.argv[1],
               tracking=False, size=50, sample=300)
"""


def test_killed_and_resumed_it_ends_with_the_same_space(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLOW_SEARCH, str(tmp_path / "run")])
    journal = tmp_path / "run" / "journal.sqlite-wal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size > 9_000):
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = nasplug.resume(tmp_path / "run", space=CHAIN, evaluate=value)
    assert np.array_equal(resumed.subspace.archs, lissnas().subspace.archs)


def test_a_study_asks_about_every_arch_only_where_they_can_be_listed():
    ranges = registry().get("method", "lissnas").ranges
    assert "all" in ranges(nasplug.space("nb201"))["neighbors"].choices
    assert "all" not in ranges(nasplug.space("darts"))["neighbors"].choices
