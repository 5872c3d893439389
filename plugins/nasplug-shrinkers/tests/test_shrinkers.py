"""Each shrinker keeps what is good by its own rule."""

import json

import pytest

import nasplug
from nasplug import ArchSet, Mask, NasplugError, Space
from nasplug.kernel.registry import registry
from nasplug.testing import method_checks

OPS = ("bad", "poor", "good", "best")
CHAIN = Space({f"layer{i}": OPS for i in range(6)})
BUDGET = 150
CHECKS = {
    f"{name}-{check}": check
    for name in ("shrink-abs", "shrink-padnas", "shrink-nse", "shrink-top", "shrink-random")
    for check in method_checks(registry().get("method", name)(size=50))
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_they_behave(check):
    check()


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


@pytest.mark.parametrize("method", ["shrink-abs", "shrink-padnas", "shrink-nse"])
def test_products_of_choices_stay_in_a_mask_and_refuse_what_they_cannot_keep_to(method):
    region = Mask(CHAIN, {"layer0": ["bad", "poor"]})
    left = shrink(method, within=region).subspace
    assert not (left.allowed & ~region.allowed).any()
    with pytest.raises(NasplugError, match=f"{method} leaves a product of choices"):
        shrink(method, within=ArchSet(CHAIN, CHAIN.sample(50, 0)))


@pytest.mark.parametrize("method", ["shrink-top", "shrink-random"])
def test_ranking_keeps_to_limits_and_refuses_what_it_cannot_know(method):
    space = nasplug.space("nb201")
    problem = {
        "space": space, "evaluate": lambda arch: list(arch.values()).count("nor_conv_3x3"),
    }  # fmt: skip
    left = shrink(method, constraints=["flops<=60e6"], **problem).subspace
    assert (space.flops(left.archs) <= 60e6).all()
    with pytest.raises(NasplugError, match=f"{method} can keep to limits .* not to latency<=1"):
        shrink(method, constraints=["latency<=1"], **problem)


@pytest.mark.parametrize("method", ["shrink-abs", "shrink-padnas"])
def test_pruning_leaves_valid_archs(method):
    space = nasplug.space("nb101")  # without any edge, or with all of them, nothing is valid
    left = shrink(
        method, space=space, evaluate=lambda arch: sum(v == "conv3x3" for v in arch.values())
    ).subspace
    assert space.is_valid(left.sample(20, 0)).all()


@pytest.mark.parametrize("method", ["shrink-top", "shrink-random"])
def test_fewer_archs_than_asked_are_said_and_returned(method):
    space = Space({"a": range(8), "b": range(8)})
    with pytest.warns(UserWarning, match="64 distinct archs to rank instead of 300"):
        left = shrink(method, space=space, evaluate=lambda arch: arch["a"]).subspace
    assert left.size == 64


def test_a_run_directory_gets_the_quality_of_the_space(tmp_path):
    shrink("shrink-padnas", out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "space.json").read_text())
    assert found["predictor"]["spearman"] > 0.8
    assert found["spaces"][1]["mean"] > found["spaces"][0]["mean"]


def test_a_space_too_large_to_list_is_refused_by_top_n():
    with pytest.raises(NasplugError, match="use shrink-random"):
        shrink("shrink-top", space=Space({f"layer{i}": OPS for i in range(20)}))


@pytest.mark.parametrize("method", ["shrink-random", "shrink-top"])
def test_limits_that_nothing_keeps_to_end_the_search(method):
    with pytest.raises(NasplugError, match=r"nothing was found in nb201.* loosen"):
        shrink(method, space=nasplug.space("nb201"), evaluate=len, constraints=["flops<=1"])
