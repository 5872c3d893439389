"""Space quality against hand-computed cases; the commands on a table."""

import json
import math

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, NasplugError, Space
from nasplug.analysis import quality
from nasplug.cli import main

pytest.importorskip("scipy")

SPACE = Space({"a": range(4), "b": range(4)})


def test_the_shrink_index_by_hand():
    # 5 samples, at least 20 % of them: one or more. P = 1 - (1 - p)^5.
    assert quality.at_least(0.1, n=5) == pytest.approx(1 - 0.9**5)
    assert quality.shrink_index(0.5, 0.1, n=5) == pytest.approx((1 - 0.5**5) - (1 - 0.9**5))
    # 10 samples, at least two of them.
    by_hand = 1 - 0.7**10 - 10 * 0.3 * 0.7**9
    assert quality.at_least(0.3, n=10) == pytest.approx(by_hand)
    by_sum = sum(math.comb(10, j) * 0.3**j * 0.7 ** (10 - j) for j in range(2, 11))
    assert quality.at_least(0.3, n=10) == pytest.approx(by_sum)
    assert quality.shrink_index(0.2, 0.2) == 0


def test_the_area_under_the_edf_by_hand():
    errors = np.array([1.0, 3.0])  # 0 up to 1, a half up to 3, then 1
    assert quality.edf_area(errors, 0.0, 4.0) == pytest.approx((2 * 0.5 + 1) / 4)


def test_diversity_by_hand():
    archs = np.array([[0, 0], [0, 1], [1, 1]])  # cosines 1/2, 1/2 and 0
    mean, largest = quality.diversity(SPACE, archs)
    assert mean == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert largest == pytest.approx(1)
    assert quality.diversity(SPACE, archs[:1]) == (0, 0)


def test_coverage_counts_the_bins_of_the_whole_that_are_hit():
    whole = np.arange(100.0)
    assert quality.coverage(whole, whole) == 1
    assert quality.coverage(whole[:50], whole) == 0.5
    gap = np.concatenate([whole[:10], whole[90:]])  # only the bins that exist count
    assert quality.coverage(whole[:10], gap) == pytest.approx(0.5)


def test_an_interval_covers_the_mean_of_most_samples():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = quality.bootstrap(rng.normal(size=50), seed=seed)
        covered += low <= 0 <= high
    assert 85 <= covered <= 100


def queried(region, n=2000):
    return quality.query(
        region, lambda archs: archs.sum(1) * 1.0, lambda archs: archs[:, 0] * 1.0, n
    )


def test_a_region_is_compared_with_the_whole():
    good = ArchSet(SPACE, [[3, 3], [3, 2], [2, 3], [1, 3]])
    whole, shrunk = quality.compare(queried(SPACE), {"shrunk": queried(good)})
    assert whole["shrink_index"] == 0
    assert whole["ks"] == 0
    assert (whole["mean"], whole["max"], whole["coverage"]) == (3, 6, 1)
    assert (shrunk["size"], shrunk["reduction"], shrunk["mean"]) == (4, 4, 5)
    assert shrunk["coverage"] == 0.75
    assert shrunk["edf_area"] == pytest.approx(5 / 6)
    assert shrunk["ks"] == pytest.approx(10 / 16)
    assert shrunk["mean_interval"] is None  # all of it was queried


def test_a_sampled_region_has_intervals():
    large = Space({f"{i}": range(4) for i in range(12)})
    whole = queried(large, 300)
    row = quality.compare(whole, {"half": queried(nasplug.Mask(large, {"0": [2, 3]}), 300)})[1]
    assert row["mean_interval"][0] < row["mean"] < row["mean_interval"][1]
    assert row["shrink_index_interval"][0] <= row["shrink_index"] <= row["shrink_index_interval"][1]


def test_archs_without_a_value_are_left_out():
    part = quality.query(SPACE, lambda archs: np.where(archs[:, 0] == 0, np.nan, 1.0))
    assert len(part.values) == 12
    with pytest.raises(NasplugError, match="no value is known"):
        quality.query(SPACE, lambda archs: np.full(len(archs), np.nan))


def test_a_mask_of_few_archs_is_queried_whole():
    part = queried(nasplug.Mask(SPACE, {"a": [1, 2]}))
    assert part.complete
    assert sorted(part.values) == [1, 2, 2, 3, 3, 4, 4, 5]
    assert not queried(nasplug.Mask(SPACE, {"a": [1, 2]}), 7).complete


def test_of_a_whole_space_the_valid_archs_are_counted():
    assert quality.Queried(nasplug.space("nb101"), *[None] * 3, False).size == 423_624


def test_costs_are_flops_or_else_params_or_unknown():
    problem = nasplug.problem("nb201/digits")
    found, space = quality.costs(problem), problem.space
    archs = space.sample(3, 0)
    assert found[0] == "flops"
    assert np.array_equal(found[1](archs), space.flops(archs))
    assert quality.costs(nasplug.Problem(SPACE, "function", None, "function")) is None


# ---- the commands


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return end.value.code, capsys.readouterr()


@pytest.fixture(scope="module")
def made(nb201_table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASPLUG_DATA", str(nb201_table))
        for method, name in ((Shrinks(), "run0"), (Shrinks(), "run1"), (Keeps(), "plain")):
            nasplug.search(method, "nb201/toy", budget=5, out=folder / name, tracking=False)
    return folder


@pytest.fixture
def runs(made, nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    return made


class Keeps(nasplug.Method):
    @nasplug.hookimpl
    def propose(self, search, subspace):
        return subspace.sample(5, search.rng)


class Shrinks(Keeps):
    @nasplug.hookimpl
    def select_final(self, search):
        archs = search.space.sample(300, search.rng)
        return ArchSet(search.space, archs[(archs == 3).any(1)])


def test_space_prints_the_quality_and_leaves_pictures(runs, capsys):
    code, printed = call(capsys, "space", runs / "run0", "--vs", runs / "run1", "--json")
    assert code == 0
    rows = json.loads(printed.out)["spaces"]
    assert [row["space"] for row in rows] == ["whole", "run0", "run1"]
    assert rows[1]["mean"] > rows[0]["mean"]
    for name in ("edf.png", "coverage.png", "diversity.png", "space.json"):
        assert (runs / "run0" / name).stat().st_size > 500
    code, printed = call(capsys, "space", runs / "run0")
    assert code == 0
    assert "shrink_index" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["space", "plain"], "did not end with a space"),
        (["space", "run0", "--vs", "run0"], "given twice"),
        (["space", "nowhere"], "not a run directory"),
        (["locality", "--on", "nb201/toyy"], "did you mean nb201/toy"),
        (["locality", "--on", "nb201/toy", "--queries", "20"], "two walks take 26 queries"),
    ],
)
def test_bad_input_ends_with_words_and_2(runs, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(runs)
    code, printed = call(capsys, *arguments)
    assert code == 2
    assert message in printed.err


def test_locality_prints_its_curves(runs, capsys, monkeypatch, tmp_path):
    code, printed = call(capsys, "locality", "--on", "nb201/toy", "--out", runs, "--json")
    assert code == 0
    found = json.loads(printed.out)
    assert found["edits"] == [1, 2, 3, 4, 5, 6]
    assert found["rwa"][0] > found["rwa"][5]
    assert (runs / "locality.png").stat().st_size > 500
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path))
    code, printed = call(capsys, "locality", "--on", "nb201/toy")
    assert code == 0
    assert "a third of all" in printed.out
    assert (tmp_path / "locality-nb201-toy" / "locality.png").stat().st_size > 500
