"""One contract for every kind of region of every kind of space."""

import itertools

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, Ball, Layered, Mask, NasplugError, Space
from nasplug.kernel.subspace import load
from nasplug.spaces import EdgeMask

FEW = 7_000  # points that are gone through one by one
ATOMIC = "nothing to mutate to|distance must be 0 to 0"  # what a region of one arch says


class Mirrored(Space):
    """Archs read the same backwards, and are valid if they do not begin and end with a 2."""

    def canonical(self, archs):
        archs = np.asarray(archs)
        flipped = archs[:, ::-1]
        first = (self.index(archs) <= self.index(flipped))[:, None]
        return np.where(first, archs, flipped)

    def is_valid(self, archs):
        return (archs[:, 0] != 2) | (archs[:, -1] != 2)


SPACES = {
    "plain": Space({"a": range(3), "b": range(2), "c": range(4), "d": range(1), "e": range(3)}),
    "mirrored": Mirrored({f"d{i}": range(3) for i in range(5)}, "mirrored"),
    "nb201": nasplug.space("nb201"),
    "macro": nasplug.space("macro"),
    "manual-irb": nasplug.space("manual-irb").for_data("digits"),
    "graph": nasplug.space("graph"),
    "nb101": nasplug.space("nb101"),
    "darts": nasplug.space("darts"),
}


def a_mask(space, rng):
    allowed = rng.random((space.d, space.cardinalities.max())) < 0.7
    for arch in space.sample(2, rng):  # something valid is left
        allowed[np.arange(space.d), arch] = True
    return Mask(space, allowed)


def a_set(space, rng):
    near = space.mutate(np.repeat(space.sample(3, rng), 20, 0), rng)
    return ArchSet(space, np.concatenate([near, space.sample(30, rng)]))


def layers(space, rng):
    """Up to three choices in each layer, of one decision or of several."""
    parts = {"nb101": 13, "darts": 8}.get(space.name, space.d)
    while True:
        archs = space.sample(1, rng)
        archs = np.concatenate([archs, space.mutate(np.repeat(archs, 2, 0), rng, 3)])
        try:
            return Layered(space, [np.unique(p, axis=0) for p in np.split(archs, parts, axis=1)])
        except NasplugError:  # choices that do not fit each other
            continue


def an_edge_mask(space, rng):
    allowed = rng.random((2, 14, 7)) < 0.5
    allowed[:, [0, 1, 2, 3, 5, 6, 9, 10]] = True
    return EdgeMask(space, allowed)


KINDS = {
    "whole": lambda space, rng: space,
    "mask": a_mask,
    "ball": lambda space, rng: Ball(space, space.sample(1, rng)[0], 2),
    "set": a_set,
    "layered": layers,
    "edge mask": an_edge_mask,
}
CASES = [
    (space, kind)
    for space, kind in itertools.product(SPACES, KINDS)
    if kind != "edge mask" or space == "darts"
]


@pytest.fixture(params=CASES, ids="-".join, scope="module")
def region(request):
    space, kind = request.param
    return KINDS[kind](SPACES[space], np.random.default_rng(len(space) + len(kind)))


def classes_of(space, archs):
    """The class of each arch, as a tuple: by `canonical` alone."""
    return [tuple(arch) for arch in space.canonical(np.asarray(archs)).tolist()]


def alone(space, archs):
    """Archs that cannot be edited without staying the same: NAS-Bench-101's lone edge."""
    if space.name != "nb101":
        return np.zeros(len(archs), bool)
    return space.pruned(archs)[:, :21].sum(1) == 1


def steps(region, a, b):
    """How many edits apart: layers count in a layered region, else decisions."""
    if isinstance(region, Layered):
        return (region.index(a) != region.index(b)).sum(1)
    return region.space.distance(a, b)


def test_samples_lie_in_it_and_are_fixed_by_the_seed(region):
    archs = region.sample(200, 0)
    assert archs.shape == (200, region.space.d)
    assert archs.dtype == region.space.dtype
    assert region.contains(archs).all()
    assert region.space.is_valid(archs).all()
    assert np.array_equal(region.sample(200, 0), archs)
    assert region.sample(0, 0).shape == (0, region.space.d)


def test_what_it_contains_is_in_the_space(region):
    space = region.space
    rng = np.random.default_rng(0)
    points = rng.integers(0, space.cardinalities, (2000, space.d), space.dtype)
    inside = region.contains(points)
    assert inside.shape == (2000,)
    assert not (inside & ~space.is_valid(points)).any()
    outside = np.array([space.cardinalities, np.full(space.d, -1)])
    assert not region.contains(outside).any()
    assert region.contains(np.empty((0, space.d), space.dtype)).shape == (0,)


def test_its_size_is_the_number_of_its_points(region):
    space = region.space
    if space.size > FEW * 10:
        assert region.size > 0
        return
    points = space.from_index(np.arange(space.size))
    members = points[region.contains(points)]
    if isinstance(region, ArchSet):
        assert region.size == len(members)
    elif space.is_valid(points).all():
        assert region.size == len(members)
        assert len(region.sample(5, 0)) == 5
    else:  # of the product, where validity has no closed form
        assert region.size >= len(members) > 0
    if isinstance(region, Space):
        assert region.count == len(members) or space.name == "mirrored"


@pytest.mark.parametrize("distance", [1, 2])
def test_mutants_lie_in_it_and_are_no_isomorphs_of_their_parents(region, distance):
    parents = region.sample(6, 1)
    parents = parents[~alone(region.space, parents)]
    # One without a neighbor in the region cannot be mutated, which is an error: see below.
    parents = parents[[len(region.neighbors(arch, distance)) > 0 for arch in parents]]
    parents = np.repeat(parents, 4, 0)
    mutants = region.mutate(parents, 2, distance)
    assert mutants.shape == parents.shape
    assert region.contains(mutants).all()
    for parent, mutant in zip(
        classes_of(region.space, parents), classes_of(region.space, mutants), strict=True
    ):
        assert parent != mutant
    if not isinstance(region, ArchSet):  # there a walk gets from pocket to pocket
        assert (steps(region, parents, mutants) == distance).all()
    assert np.array_equal(region.mutate(parents, 2, distance), mutants)
    assert region.mutate(parents[:0], 2).shape == (0, region.space.d)


@pytest.mark.parametrize("distance", [1, 2])
def test_neighbors_are_all_members_at_that_distance_but_isomorphs(region, distance):
    space = region.space
    arch = region.sample(1, 3)[0]
    near = region.neighbors(arch, distance)
    assert region.contains(near).all()
    assert (steps(region, near, np.repeat(arch[None], len(near), 0)) == distance).all()
    assert tuple(arch.tolist()) not in {tuple(row) for row in near.tolist()}
    own = classes_of(space, arch[None])[0]
    assert own not in classes_of(space, near)
    assert len(space.unique(near)) == len(near)
    if space.size <= FEW:
        points = space.from_index(np.arange(space.size))
        points = points[region.contains(points)]
        apart = steps(region, points, np.repeat(arch[None], len(points), 0))
        other = np.array([c != own for c in classes_of(space, points)])
        assert len(near) == int(((apart == distance) & other).sum())


def test_distinct_takes_the_first_of_each_class(region):
    space = region.space
    archs = np.concatenate([region.sample(100, 4), space.sample(100, 4), region.sample(100, 4)])
    found, seen = [], set()
    for arch, own, inside in zip(
        archs, classes_of(space, archs), region.contains(archs), strict=True
    ):
        if inside and own not in seen:
            seen.add(own)
            found.append(arch)
    assert np.array_equal(region.distinct(archs), np.array(found))
    assert region.distinct(archs[:0]).shape == (0, space.d)


def test_keys_of_classes_tell_isomorphs(region):
    space = region.space
    archs = region.sample(150, 5)
    archs = np.concatenate([archs, space.canonical(archs)])
    keys, known = space.classes(archs), classes_of(space, archs)
    for i in range(150):
        assert keys[i] == keys[i + 150]
    assert len(np.unique(keys)) == len(set(known))


def test_it_is_saved_and_loaded(region, tmp_path):
    if isinstance(region, Space):
        pytest.skip("a whole space is its name")
    region.save(tmp_path / "subspace.npz")
    again = load(region.space, tmp_path / "subspace.npz")
    assert type(again) is type(region)
    assert again.describe() == region.describe()
    assert again.size == region.size
    assert np.array_equal(again.sample(50, 6), region.sample(50, 6))
    archs = np.concatenate([region.sample(100, 7), region.space.sample(300, 7)])
    assert np.array_equal(again.contains(archs), region.contains(archs))
    other = Space({"a": [1, 2]}, "other")
    with pytest.raises(NasplugError, match="whose archs are not other's"):
        load(other, tmp_path / "subspace.npz")


def test_it_describes_itself_in_a_line(region):
    assert "\n" not in region.describe()
    assert region.space.name.split(":")[0] in region.describe()


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", ["mask", "ball", "set", "layered"])
def test_a_region_of_one_arch_has_nothing_to_mutate_to(name, kind):
    space = SPACES[name]
    arch = space.sample(1, 0)
    region = {
        "mask": lambda: Mask(space, np.arange(space.cardinalities.max()) == arch[0][:, None]),
        "ball": lambda: Ball(space, arch[0], 0),
        "set": lambda: ArchSet(space, arch),
        "layered": lambda: Layered(space, list(arch[0][:, None, None])),
    }[kind]()
    assert region.size == 1
    assert np.array_equal(region.sample(3, 0), np.repeat(arch, 3, 0))
    assert region.contains(arch).all()
    with pytest.raises(NasplugError, match=ATOMIC):
        region.mutate(arch, 0)


def test_a_region_of_isomorphs_alone_has_nothing_to_mutate_to():
    space = SPACES["mirrored"]
    region = ArchSet(space, [[0, 1, 2, 0, 1], [1, 0, 2, 1, 0]])
    with pytest.raises(NasplugError, match="nothing to mutate to: all are isomorphs"):
        region.mutate(region.archs, 0)
    cell = SPACES["darts"].sample(1, 0)
    mask = EdgeMask(SPACES["darts"], SPACES["darts"].edges(cell)[0][..., None] == np.arange(1, 8))
    assert mask.size == 2**8  # the two inputs of each node in either order
    with pytest.raises(NasplugError, match="nothing to mutate to from Genotype"):
        mask.mutate(cell, 0)


def test_an_edge_mask_has_as_many_points_as_it_says():
    """Of a mask with few choices every point is listed, the others by chance."""
    space = SPACES["darts"]
    allowed = np.zeros((2, 14, 7), bool)
    allowed[:, [0, 1, 2, 3, 5, 6, 9, 10], 3] = True
    allowed[0, [0, 4], 1] = True
    region = EdgeMask(space, allowed)
    # Node 2 of the normal cell: 2 operations on its first input; node 3: 3 inputs, 6 ordered pairs.
    assert region.size == (2 * 2) * 6 * 2 * 2 * 2**4
    found = region.sample(20_000, 0)
    assert len(space.unique(found)) == region.size
