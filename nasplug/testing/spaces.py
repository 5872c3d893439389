"""What every space is expected to answer."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from nasplug.errors import NasplugError, lacking
from nasplug.kernel.problem import space as named
from nasplug.kernel.registry import registry
from nasplug.kernel.space import Archs, Space
from nasplug.testing.check import Check, Checks, NotApplicable, run_all

SAMPLE = 100  # archs that are asked about
LISTED = 100_000  # points of a space that is listed
FEW = 4  # archs that are built, or whose neighbors are looked at
NEAR = 30  # neighbors of each that are looked at in turn

checks = Checks()


def space_checks(space: Space | str) -> list[Check]:
    """The checks of a space: an object, or a name such as ``"nb201"``."""
    return checks.of(named(space) if isinstance(space, str) else space)


def check_space(space: Space | str) -> None:
    """All of them at once; raises one `CheckFailed` that names those that failed."""
    run_all(space_checks(space))


def _sample(space: Space, n: int = SAMPLE) -> Archs:
    return space.unique(space.sample(n, 0))


def _first(space: Space, archs: Archs, good: Any) -> str:
    """The first arch of which something is not so."""
    return space.to_str(archs[int(np.argmin(good))])


# ---- its archs


@checks.add("draw again what `is_valid` refuses, as `Space.sample` does, with the given seed alone")
def samples_valid_archs(space: Space) -> None:
    """A sample has the type and shape of archs, is valid, and is fixed by its seed."""
    archs = space.sample(SAMPLE, 0)
    assert archs.shape == (SAMPLE, space.d), f"a sample of {SAMPLE} has the shape {archs.shape}"
    assert archs.dtype == space.dtype, f"a sample is of {archs.dtype}, not {space.dtype}"
    valid = space.contains(archs)
    assert valid.all(), f"{archs[~valid][0].tolist()} was drawn, and is not valid"
    assert np.array_equal(archs, space.sample(SAMPLE, 0)), "seed 0 gave two samples"
    assert not np.array_equal(archs, space.sample(SAMPLE, 1)) or space.size == 1, (
        "seeds 0 and 1 gave the same sample"
    )


@checks.add("let `count` be the number of rows of `all()`: the points that `is_valid` accepts")
def counts_its_archs(space: Space) -> None:
    """It lists exactly its valid points, and counts them."""
    if space.size > LISTED:
        raise NotApplicable(f"it has {space.size:.1e} points, too many to list")
    archs = space.all()
    assert len(space.unique(archs)) == len(archs), "an arch is listed twice"
    valid = int(space.is_valid(space.from_index(np.arange(space.size))).sum())
    assert len(archs) == valid, f"{len(archs)} archs are listed, and {valid} points are valid"
    assert space.count in (valid, space.size), f"count is {space.count}, of {valid} archs"


@checks.add("let `from_str` read what `to_str` writes, with all decisions in it")
def reads_the_text_it_writes(space: Space) -> None:
    """from_str(to_str(arch)) is the arch, and no two archs have the same text."""
    archs = _sample(space)
    texts = [space.to_str(arch) for arch in archs]
    for arch, text in zip(archs, texts, strict=True):
        again = space.from_str(text)
        assert np.array_equal(arch, again), f"{arch.tolist()} is {text}, read as {again.tolist()}"
    twice = next((text for text in texts if texts.count(text) > 1), "")
    assert not twice, f"two archs are {twice}"


@checks.add("let `from_dict` read what `to_dict` gives: {decision: choice}")
def reads_the_dict_it_gives(space: Space) -> None:
    """from_dict(to_dict(arch)) is the arch."""
    for arch in _sample(space):
        params = space.to_dict(arch)
        again = space.from_dict(params)
        assert np.array_equal(arch, again), f"{params} is read as {again.tolist()}"


@checks.add(
    "return a valid representative that is its own, in a new array: "
    "canonical(canonical(archs)) == canonical(archs)"
)
def has_one_canonical_form(space: Space) -> None:
    """The canonical form is valid and its own canonical form; archs are not written over."""
    archs = _sample(space)
    before = archs.copy()
    canonical = space.canonical(archs).copy()
    assert np.array_equal(archs, before), "canonical has written over the archs it was given"
    valid = space.contains(canonical)
    assert valid.all(), f"that of {_first(space, archs, valid)} is not valid"
    same = (space.canonical(canonical) == canonical).all(1)
    assert same.all(), f"that of {_first(space, archs, same)} has another canonical form"


# ---- its geometry


@checks.add("let `neighbors` be all valid archs at the distance but isomorphs, as in `Space`")
def has_mutual_neighbors(space: Space) -> None:
    """Neighbors are valid, one decision away, no isomorphs, and neighbors of each other."""
    for arch in _sample(space, FEW):
        near = space.neighbors(arch)
        _near(space, np.repeat(arch[None], len(near), 0), near)
        for other in near[:: max(1, len(near) // NEAR)]:
            mutual = (space.neighbors(other) == arch).all(1).any()
            assert mutual, (
                f"{space.to_str(other)} is a neighbor of {space.to_str(arch)}, but not the reverse"
            )


@checks.add("change exactly one decision, and draw again what is not valid or an isomorph")
def mutates_to_neighbors(space: Space) -> None:
    """A mutant is valid, one decision away and no isomorph; the seed fixes it."""
    archs = _sample(space)
    with suppress(NasplugError):  # a space of one arch has no other
        mutants = space.mutate(archs, 0)
        _near(space, archs, mutants)
        assert np.array_equal(mutants, space.mutate(archs, 0)), "seed 0 gave two mutants"


def _near(space: Space, archs: Archs, others: Archs) -> None:
    """Whether others are neighbors of archs, row by row."""
    distance = space.distance(archs, others)
    for good, what in (
        (space.contains(others), "is not valid"),
        (distance == 1, "is not one decision away"),
        ((space.canonical(archs) != space.canonical(others)).any(1), "is an isomorph"),
    ):
        if not good.all():
            row = int(np.argmin(good))
            one, other = (space.to_str(x[row]) for x in (archs, others))
            raise AssertionError(f"{other}, near {one}, {what}")


# ---- what others see of it


@checks.add("let `features` be finite numbers, a row per arch, that depend on the arch alone")
def has_finite_features(space: Space) -> None:
    """What predictors see is a finite row per arch, the same alone and among others."""
    archs = _sample(space)
    features = space.features(archs)
    assert features.ndim == 2, f"features of (n, d) archs have the shape {features.shape}"
    assert len(features) == len(archs), f"{len(archs)} archs have {len(features)} rows"
    assert np.isfinite(features).all(), "a feature is not finite"
    assert np.array_equal(space.features(archs[1:2]), features[1:2]), (
        "an arch has other features alone than among others"
    )


@checks.add(
    "make choices whose text is the same in every process, and keep nothing on the space that "
    "pickle cannot hold"
)
def keeps_its_fingerprint(space: Space) -> None:
    """A copy, one that was pickled and one by its name have the same fingerprint."""
    copies = {"a copy": copy.deepcopy(space), "one that was pickled": _pickled(space)}
    if space.name.partition(":")[0] in registry().spaces:
        copies["the space of its name"] = named(space.name)
    for what, other in copies.items():
        if what == "the space of its name" and not space.matches(other):
            continue
        assert other.fingerprint == space.fingerprint, f"{what} has another fingerprint"


def _pickled(space: Space) -> Space:
    try:
        from cloudpickle import dumps
    except ImportError:
        dumps = pickle.dumps
    again: Space = pickle.loads(dumps(space))
    return again


# ---- its networks


@checks.add("let `build` return a module that takes (b, *space.shape) images, of its `sizes`")
def builds_networks(space: Space) -> None:
    """A built network maps images of its shape to a row of finite logits each."""
    small, logits = _builder(space)
    for arch in _sample(small, FEW):
        assert np.isfinite(logits(small, small.build(arch))).all(), (
            f"logits of {small.to_str(arch)} are not finite"
        )


@checks.add("count in `params` what `build` makes, biases and batch norms included")
def counts_params_of_what_it_builds(space: Space) -> None:
    """params says of each arch how many parameters its network has."""
    small, _ = _builder(space)
    archs = _sample(small, FEW)
    try:
        params = small.params(archs)
    except NasplugError as error:
        raise NotApplicable(str(error)) from None
    for arch, said in zip(archs, params.tolist(), strict=True):
        built = sum(p.numel() for p in small.build(arch).parameters())
        assert said == built, f"{small.to_str(arch)} has {built} parameters, and params says {said}"


@checks.add("make the supernet of blocks that return what those of built networks do")
def chooses_in_its_supernet(space: Space) -> None:
    """The supernet set to an arch has an output of the shape of the built network's."""
    small, logits = _builder(space)
    try:
        net: Any = small.supernet()
    except NasplugError as error:
        raise NotApplicable(str(error)) from None
    for arch in _sample(small, FEW):
        net.mix(None, net.chosen(arch[None])[0])
        chosen, built = logits(small, net).shape, logits(small, small.build(arch)).shape
        assert chosen == built, (
            f"set to {small.to_str(arch)} it returns {chosen}, the built network {built}"
        )


def _builder(space: Space) -> tuple[Space, Any]:
    """The space with small networks, and the function that asks one about images; NotApplicable if
    it builds none of images."""
    if not space.builds:
        raise NotApplicable("it builds no networks")
    if not hasattr(space, "shape"):
        raise NotApplicable("it does not say which images its networks take (`shape`)")
    try:
        networks = import_module("nasplug.testing.networks")
    except ImportError as error:
        raise NotApplicable(str(lacking("building networks", error))) from None
    with suppress(NasplugError):  # which has its sizes for a reason
        space = networks.small(space)
    return space, networks.logits
