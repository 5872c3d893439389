"""Autocorrelation and differences by the number of edits."""

import os
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError, Space
from nasplug.analysis.locality import farthest, measure, third

CHAIN = Space({f"layer{i}": range(3) for i in range(9)})


def test_a_sum_over_decisions_is_local_and_noise_is_not():
    weights = np.random.default_rng(0).normal(size=9)
    smooth = measure(CHAIN, lambda archs: archs @ weights, seed=0)
    assert (np.diff(smooth.rwa) < 0).all()
    assert (np.diff(smooth.aad) > 0).all()
    assert 1 < smooth.suggested < 9
    noise = measure(CHAIN, lambda archs: np.random.default_rng(0).normal(size=len(archs)), seed=0)
    assert np.abs(noise.rwa).max() < 0.1
    assert noise.suggested == 1


def test_one_edit_of_a_sum_by_hand():
    # A random change of one of 9 independent decisions of 3 choices leaves 1 - 1.5 / 9 of the
    # variance in common: E[(x - x')^2] = 2 var (1 - rho), with x != x' on one decision only.
    found = measure(CHAIN, lambda archs: archs.sum(1), n=20_000, seed=0)
    assert found.rwa[0] == pytest.approx(1 - 1.5 / 9, abs=0.02)
    assert found.aad[0] == pytest.approx(4 / 3, abs=0.02)  # |x - x'| is 1, 1 or 2


def test_the_paper_takes_a_third_of_the_edit_distance():
    assert (farthest(CHAIN), third(CHAIN)) == (9, 3)
    assert third(Space({"a": range(4), "b": range(4)})) == 1


def test_neighbors_that_are_not_valid_are_left_out():
    from nasplug.analysis.locality import _neighbors

    space = nasplug.space("nb101")  # no graph of few edges has as many as all edits would make
    archs = space.sample(50, 0)
    near, found = _neighbors(space, archs, 26, np.random.default_rng(0))
    assert 0 < found.sum() < 50
    assert (space.distance(near, archs) == np.where(found, 26, 0)).all()
    assert space.is_valid(near).all()
    measured = measure(space, lambda archs: archs[:, :21].sum(1), n=20, seed=0)
    assert np.isfinite(measured.aad).all()
    assert 8 < len(measured.edits) <= 26


def test_unknown_values_are_left_out_unless_all_are():
    found = measure(CHAIN, lambda archs: np.where(archs.sum(1) < 5, np.nan, archs.sum(1)), seed=0)
    assert np.isfinite(found.rwa).all()
    with pytest.raises(NasplugError, match="no values"):
        measure(CHAIN, lambda archs: np.full(len(archs), np.nan), seed=0)


def test_equal_values_have_no_correlation_to_speak_of():
    with pytest.raises(NasplugError, match="values in custom are 3: there is nothing to correlate"):
        measure(CHAIN, lambda archs: np.full(len(archs), 3.0), seed=0)


@pytest.mark.skipif(
    not (Path(os.environ.get("NASPLUG_DATA", "/nowhere")) / "nas-bench-201.parquet").exists(),
    reason="needs NAS-Bench-201 under NASPLUG_DATA",
)
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_on_nb201_autocorrelation_falls_with_distance(data):
    problem = nasplug.problem(f"nb201/{data}")
    found = measure(problem.space, lambda archs: problem.score(archs).values, n=4000, seed=0)
    assert (np.diff(found.rwa) < 0).all()
    assert found.rwa[0] > 0.35
    assert (np.diff(found.aad) > 0).all()
    assert found.suggested in (1, 2)
