"""Each shrinker keeps what is good by its own rule."""

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, Mask, NasplugError, Space

OPS = ("bad", "poor", "good", "best")
CHAIN = Space({f"layer{i}": OPS for i in range(6)})
BUDGET = 150


def value(arch):
    return sum(OPS.index(op) for op in arch.values())


def shrink(method, **options):
    problem = {"space": CHAIN, "evaluate": value, "size": 300, "seed": 0, "tracking": False}
    return nasplug.search(method, budget=BUDGET, **problem | options)


def test_abs_drops_an_operation_everywhere():
    left = shrink("shrink-abs").subspace
    assert isinstance(left, Mask)
    assert left.allowed.tolist() == [[False, True, True, True]] * 6
    assert left.size == 729  # nearer 300 than the 64 of two operations


def test_padnas_drops_the_worst_choice_of_each_layer():
    left = shrink("shrink-padnas").subspace
    assert isinstance(left, Mask)
    assert left.allowed[:, 3].all()
    assert not left.allowed[:, 0].any()
    assert 150 <= left.size <= 600


def test_nse_inherits_what_the_best_use():
    left = shrink("shrink-nse").subspace
    assert isinstance(left, Mask)
    assert left.allowed[:, 3].all()


@pytest.mark.parametrize("method", ["shrink-top", "shrink-random"])
def test_ranking_keeps_exactly_as_many(method):
    left = shrink(method).subspace
    assert isinstance(left, ArchSet)
    assert left.size == 300
    assert left.archs.sum(1).mean() > 11  # 9 in the whole space


def test_they_stay_in_their_region_and_are_fixed_by_the_seed():
    region = Mask(CHAIN, {"layer0": ["bad"]})
    for method in ("shrink-top", "shrink-random"):
        first, second = (shrink(method, within=region).subspace.archs for _ in "ab")
        assert np.array_equal(first, second)
        assert (first[:, 0] == 0).all()


def test_a_space_too_large_to_list_is_refused_by_top_n():
    with pytest.raises(NasplugError, match="use shrink-random"):
        shrink("shrink-top", space=Space({f"layer{i}": OPS for i in range(20)}))
