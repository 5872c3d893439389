"""Space and Subspace, by their properties."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasplug import ArchSet, Ball, Mask, NasplugError, Space
from nasplug.kernel.subspace import load

spaces = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(
    lambda sizes: Space({f"d{i}": [f"c{j}" for j in range(n)] for i, n in enumerate(sizes)})
)
seeds = st.integers(0, 2**32)


class Even(Space):
    """Only archs with an even sum are valid, and reversing one is an isomorphism."""

    def is_valid(self, archs):
        return archs.sum(1) % 2 == 0

    def canonical(self, archs):
        flipped = archs[:, ::-1]
        first = (self.index(archs) <= self.index(flipped))[:, None]
        return np.where(first, archs, flipped)


def regions(space, rng):
    """One of each kind of subspace."""
    allowed = rng.random((space.d, space.cardinalities.max())) < 0.5
    allowed[np.arange(space.d), rng.integers(0, space.cardinalities)] = True
    archs = space.all()
    some = archs[rng.random(len(archs)) < 0.5]
    return (
        Mask(space, allowed),
        Ball(space, archs[0], int(rng.integers(0, space.d + 1))),
        ArchSet(space, some if len(some) else archs),
    )


def rows(archs):
    return {tuple(arch) for arch in archs.tolist()}


@given(spaces, seeds)
def test_round_trips(space, seed):
    archs = space.sample(20, seed)
    assert archs.shape == (20, space.d)
    assert archs.dtype == space.dtype
    assert np.array_equal(space.from_index(space.index(archs)), archs)
    for arch in archs[:3]:
        assert np.array_equal(space.from_str(space.to_str(arch)), arch)
        assert np.array_equal(space.arch(space.to_dict(arch)), arch)
    assert np.array_equal(space.sample(20, seed), archs)


@given(spaces)
def test_all_lists_every_point_once(space):
    archs = space.all()
    assert rows(archs) == set(product(*(range(c) for c in space.cardinalities)))
    assert len(archs) == space.size
    assert np.array_equal(space.index(archs), np.arange(space.size))


@given(spaces, seeds)
def test_features_are_one_hot(space, seed):
    archs = space.sample(10, seed)
    features = space.features(archs)
    assert features.shape == (10, space.cardinalities.sum())
    assert (features.sum(1) == space.d).all()
    apart = np.abs(features[:, None] - features).sum(-1) / 2
    assert np.array_equal(apart, space.distance(archs[:, None], archs))


@given(spaces, seeds)
def test_unique_keeps_first_occurrences(space, seed):
    archs = space.sample(30, seed)
    expected = list(dict.fromkeys(map(tuple, archs.tolist())))
    assert list(map(tuple, space.unique(archs).tolist())) == expected


def test_spaces_too_large_to_index_still_work():
    space = Space({f"d{i}": range(4) for i in range(40)})
    archs = space.sample(1000, 0)
    assert space.size == 4**40
    assert len(space.unique(np.concatenate([archs, archs]))) == 1000
    assert space.codes(archs[:1])[0] == space.codes(archs[:1].copy())[0]
    with pytest.raises(NasplugError, match="too many to index"):
        space.index(archs)
    with pytest.raises(NasplugError, match="too many to list"):
        space.all()


@given(spaces, seeds, st.data())
def test_neighbors_and_shells(space, seed, data):
    farthest = len(space.shells) - 1
    if farthest == 0:
        return
    distance = data.draw(st.integers(1, farthest))
    arch = space.sample(1, seed)[0]
    neighbors = space.neighbors(arch, distance)
    assert len(neighbors) == len(rows(neighbors)) == space.shells[distance]
    assert (space.distance(neighbors, arch) == distance).all()
    mutants = space.mutate(np.repeat(arch[None], 20, 0), seed, distance)
    assert rows(mutants) <= rows(neighbors)


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum()


def assert_uniform(archs, members):
    """Every member is drawn, all about as often (chi-square far below a 1e-6 tail)."""
    found, counts = np.unique(archs, axis=0, return_counts=True)
    assert rows(found) == rows(members)
    degrees = max(len(members) - 1, 1)
    assert chi_square(counts) < degrees + 8 * np.sqrt(2 * degrees)


UNEVEN = Space({"a": range(5), "b": range(2), "c": range(1), "d": range(3)})


def test_sampling_is_uniform():
    assert_uniform(UNEVEN.sample(30_000, 0), UNEVEN.all())
    even = Even({"a": range(4), "b": range(3), "c": range(4)})
    assert_uniform(even.sample(30_000, 0), even.all())


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_mutation_is_uniform_over_neighbors_even_where_decisions_differ_in_size(distance):
    start = np.repeat([[0, 0, 0, 0]], 30_000, 0)
    assert_uniform(UNEVEN.mutate(start, 1, distance), UNEVEN.neighbors(start[0], distance))


def test_subspaces_sample_uniformly():
    for region in regions(UNEVEN, np.random.default_rng(3)):
        members = UNEVEN.all()[region.contains(UNEVEN.all())]
        assert region.size == len(members)
        assert_uniform(region.sample(30_000, 0), members)


@settings(max_examples=50)
@given(spaces, seeds)
def test_subspaces_keep_to_themselves(space, seed):
    for region in regions(space, np.random.default_rng(seed)):
        members = space.all()[region.contains(space.all())]
        assert region.size == len(members)
        archs = region.sample(20, seed)
        assert region.contains(archs).all()
        assert np.array_equal(region.sample(20, seed), archs)
        near = region.neighbors(archs[0])
        assert rows(near) == rows(members[space.distance(members, archs[0]) == 1])
        if isinstance(region, ArchSet) and region.size > 1:
            mutants = region.mutate(archs, seed)
            assert region.contains(mutants).all()
            assert (space.distance(mutants, archs) > 0).all()
        elif all(len(region.neighbors(a)) for a in archs):
            mutants = region.mutate(archs, seed)
            assert region.contains(mutants).all()
            assert (space.distance(mutants, archs) == 1).all()


@pytest.mark.parametrize("d", [3, 12])  # dense enough for random edits, and too sparse for them
def test_a_set_mutates_mostly_to_near_members_but_reaches_all(d):
    space = Space({f"d{i}": range(4) for i in range(d)})
    members = np.zeros((4, d), int)
    members[1, 0] = members[2, :2] = members[3, :] = 1
    region = ArchSet(space, members)
    mutants = region.mutate(np.repeat(members[:1], 4000, 0), seed=0)
    counts = [(space.distance(mutants, member) == 0).sum() for member in members]
    assert counts[0] == 0
    assert counts[1] > 1600
    assert min(counts[2:]) > 400
    with pytest.raises(NasplugError, match="nothing to mutate to"):
        ArchSet(space, members[:1]).mutate(members[:1])


def test_ball_is_equation_3():
    space = Space({f"d{i}": range(5) for i in range(6)})
    ball = Ball(space, [0] * 6, 2)
    assert ball.size == 1 + 6 * 4 + 15 * 16  # C(6, k) 4^k for k = 0, 1, 2
    archs = space.all()
    assert np.array_equal(ball.contains(archs), (archs != 0).sum(1) <= 2)
    assert Ball(space, [0] * 6, 99).size == space.size


def test_mask_by_names():
    space = Space({"width": [16, 32], "act": ["relu", "gelu", "silu"]})
    mask = Mask(space, {"act": ["relu", "silu"]})
    assert rows(mask.sample(100, 0)) == {(0, 0), (0, 2), (1, 0), (1, 2)}
    with pytest.raises(NasplugError, match="did you mean silu"):
        Mask(space, {"act": ["sillu"]})
    with pytest.raises(NasplugError, match="decision 'act' without a choice"):
        Mask(space, {"act": []})


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_subspaces_are_saved_and_loaded(tmp_path, kind):
    region = regions(UNEVEN, np.random.default_rng(0))[kind]
    region.save(tmp_path / "subspace.npz")
    again = load(UNEVEN, tmp_path / "subspace.npz")
    assert np.array_equal(again.contains(UNEVEN.all()), region.contains(UNEVEN.all()))
    with pytest.raises(NasplugError, match="subspace of custom, whose archs are not other's"):
        load(Space({"a": [1, 2]}, name="other"), tmp_path / "subspace.npz")


def test_validity_and_isomorphs_are_respected():
    space = Even({"a": range(4), "b": range(3), "c": range(4)})
    archs = space.all()
    assert len(archs) == space.size // 2
    assert space.is_valid(space.sample(500, 0)).all()
    assert space.is_valid(space.mutate(archs, 0, distance=2)).all()
    # (1, 0, 3) reversed is (3, 0, 1): a neighbor at distance 2, but an isomorph.
    assert (3, 0, 1) not in rows(space.neighbors([1, 0, 3], 2))
    with pytest.raises(NasplugError, match="arch 0 is not valid"):
        space.arch([1, 0, 0])
    for region in (Mask(space, {"a": [1, 2, 3]}), Ball(space, [0, 0, 0], 2)):
        assert space.is_valid(region.sample(200, 0)).all()


@pytest.mark.parametrize(
    ("archs", "message"),
    [
        ([[0, 9, 0, 0]], "'b' of custom takes 0 to 1, arch 0 has 9"),
        ([[0, 0, 0]], "have 4 decisions"),
        ([["x", 0, 0, 0]], "integer vectors"),
        ([[0.5, 0, 0, 0]], "'a' of custom"),
        ([[-1, 0, 0, 0]], "'a' of custom"),
    ],
)
def test_bad_archs_are_named(archs, message):
    with pytest.raises(NasplugError, match=message):
        UNEVEN.check(archs)


@pytest.mark.parametrize(
    ("decisions", "message"),
    [({}, "needs decisions"), ({"a": []}, "at least one choice"), ({"a": [1, 1]}, "same choice")],
)
def test_bad_spaces_are_named(decisions, message):
    with pytest.raises(NasplugError, match=message):
        Space(decisions)


def test_strings_that_do_not_fit_are_named():
    space = Space({"width": [16, 32], "act": ["relu", "gelu"]})
    with pytest.raises(NasplugError, match=r"choice of act 'glu'; did you mean gelu"):
        space.from_str("width=16,act=glu")
    with pytest.raises(NasplugError, match="unknown decision 'widht'; did you mean width"):
        space.from_str("widht=16,act=relu")
    with pytest.raises(NasplugError, match="'act' is missing"):
        space.from_dict({"width": 16})
    with pytest.raises(NasplugError, match="distance must be 1 to 2"):
        space.neighbors([0, 0], 3)
    with pytest.raises(NasplugError, match="distance must be 0 to 2"):
        space.mutate(np.zeros((1, 2), int), 0, distance=3)
    with pytest.raises(NasplugError, match="does not know its FLOPs"):
        space.flops(space.all())
