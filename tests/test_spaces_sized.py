"""Sized spaces: their names, and that what they tell is about the network that they build."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasplug
from nasplug import Layered, NasplugError
from nasplug.spaces import (
    NB201,
    Darts,
    FairNAS,
    Learned,
    Macro,
    ManualIRB,
    OpenCells,
    ShuffleNetV2,
)

torch = pytest.importorskip("torch")

from nasplug.nn import count  # noqa: E402
from nasplug.spaces.sized import LEAST  # noqa: E402

CELLS = (NB201, Darts)
LAYERS = (Macro, ManualIRB, OpenCells, ShuffleNetV2, FairNAS)
SPACES = (*CELLS, *LAYERS)
DATA = ("", "digits", "cifar10", "cifar100")
OPTIONS = {
    "C": st.integers(2, 40), "N": st.integers(1, 6), "layers": st.integers(3, 12),
    "channels": st.integers(1, 4), "classes": st.integers(1, 200),
    "resolution": st.integers(2, 20).map(lambda n: 4 * n),
}  # fmt: skip


def sizes_of(cls):
    """Some of the sizes that a space takes, drawn."""
    names = [name for name in OPTIONS if name in cls.preset("")]
    return st.fixed_dictionaries({}, optional={name: OPTIONS[name] for name in names})


ANY = st.sampled_from(SPACES).flatmap(lambda cls: st.tuples(st.just(cls), sizes_of(cls)))


def same(a, b):
    """Whether two spaces tell the same of the same networks."""
    assert (a.name, a.sizes, a.shape, a.decisions) == (b.name, b.sizes, b.shape, b.decisions)
    archs = a.sample(3, 0)
    np.testing.assert_array_equal(a.costs(archs), b.costs(archs))


# ---- names


@settings(max_examples=60, deadline=None)
@given(made=ANY, data=st.sampled_from(DATA))
def test_a_name_says_all_sizes(made, data):
    cls, options = made
    space = cls(data, **options)
    assert {name: space.sizes[name] for name in options} == options
    same(nasplug.space(space.name).for_data(data), space)
    other = {name for name, size in space.sizes.items() if size != cls.preset(data)[name]}
    assert {pair.partition("=")[0] for pair in space.name.partition(":")[2].split(",") if pair} == (
        other & options.keys()
    )


@settings(max_examples=40, deadline=None)
@given(made=ANY, data=st.sampled_from(DATA), further=st.data())
def test_sized_and_for_data_compose(made, data, further):
    cls, options = made
    more = further.draw(sizes_of(cls))
    space = cls(data, **{**options, **more})
    same(cls(**options).sized(**more).for_data(data), space)
    same(cls(data).sized(**options).sized(**more), space)
    same(cls("digits", **options).for_data(data).sized(**more), space)
    same(space.sized(), space)


def test_another_size_is_the_same_space_with_other_networks():
    for cls in CELLS:
        small, large = cls("digits"), cls(C=4)
        assert small.matches(large)
        assert small.fingerprint == large.fingerprint
    assert not Macro().matches(Macro(layers=6))
    assert not NB201().matches(Darts())


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A file of a space of three open cells in each layer."""
    space = nasplug.space("open-cells").for_data("digits")
    rows = [space.layer_from_str(text) for text in ("zzzdzz+3", "zzzdzz+6", "dzzddz~3")]
    file = tmp_path_factory.mktemp("learned") / "learned-space.json"
    Learned(Layered(space, [rows] * 6), "learned").save(file)
    return str(file)


def test_the_name_of_a_learned_space_says_its_sizes_too(learned):
    space = nasplug.space(f"{learned}:C=4,resolution=9")
    assert (space.sizes["C"], space.shape, space.size) == (4, (1, 9, 9), 3**6)
    same(nasplug.space(space.name), space)
    same(nasplug.space(learned).sized(C=4).sized(resolution=9), space)
    wide = nasplug.space(learned).sized(channels=3, classes=5)
    assert wide.build(wide.sample(1, 0)[0])(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(NasplugError, match="unknown option of open-cells 'K'"):
        nasplug.space(f"{learned}:K=3")


# ---- what does not fit


@pytest.mark.parametrize("cls", SPACES)
def test_an_unknown_option_and_no_size_say_so(cls):
    for name in cls.preset(""):
        least = LEAST.get(name, 1)
        for size in (least - 1, 1.5, True, "8"):
            with pytest.raises(
                NasplugError, match=f"{name} of {cls.base} is a number from {least}"
            ):
                cls(**{name: size})
    with pytest.raises(NasplugError, match=f"unknown option of {cls.base} 'width'"):
        cls(width=8)
    with pytest.raises(NasplugError, match=f"unknown option of {cls.base} 'c'; did you mean C"):
        cls().sized(c=8)


@pytest.mark.parametrize("name", ["nb201", "darts"])
@pytest.mark.parametrize("side", [4, 6, 9, 30])
def test_images_that_cannot_be_halved_twice_say_so(name, side):
    with pytest.raises(NasplugError, match=f"images of {side}x{side} do not fit.*multiples of 4"):
        nasplug.space(f"{name}:resolution={side}")


def test_a_darts_network_has_both_cells():
    with pytest.raises(NasplugError, match="layers=2: a network with both cells has 3 or more"):
        nasplug.space("darts:layers=2")


# ---- the network that is built


@pytest.mark.parametrize(
    "name",
    [
        "manual-irb:resolution=30,C=8,layers=7", "manual-irb:resolution=1,C=4,layers=6",
        "macro:resolution=7", "macro:C=8,resolution=9", "macro:C=8,resolution=30,layers=5",
        "open-cells:resolution=7,C=4,layers=4", "open-cells:resolution=30,C=4,layers=6",
        "open-cells:resolution=9,C=5,layers=3,channels=1,classes=2",
        "shufflenetv2:C=7,resolution=9,layers=7", "shufflenetv2:C=2,resolution=30,layers=5",
        "fairnas:C=3,resolution=9,layers=7",
        "nb201:C=3,N=1,resolution=12", "darts:C=4,layers=3,resolution=20,channels=1",
        "darts:C=5,layers=4,resolution=8",
    ],
)  # fmt: skip
def test_params_and_flops_are_those_of_the_network(name):
    space = nasplug.space(name)
    archs = space.sample(6, 0)
    measured = [count(space.build(arch), space.shape) for arch in archs]
    # NAS-Bench-201 counts the additions of the classifier's bias, as its tables do.
    bias = space.sizes["classes"] if space.base == "nb201" else 0
    expected = zip(space.params(archs), space.flops(archs) - bias, strict=True)
    assert measured == list(expected)


def test_a_learned_space_costs_what_it_builds(learned):
    space = nasplug.space(learned).sized(resolution=9, channels=2, C=5)
    archs = space.sample(4, 0)
    measured = [count(space.build(arch), space.shape) for arch in archs]
    assert measured == list(zip(space.params(archs), space.flops(archs), strict=True))


def shapes(model):
    return {name: tuple(p.shape) for name, p in model.state_dict().items()}


def test_the_best_trial_builds_the_network_that_was_scored(monkeypatch):
    """Parameter for parameter: trained as the evaluator does, it has the trial's value."""
    from nasplug.evaluators.train import TrainEvaluator
    from nasplug.nn import initialise, load, train

    monkeypatch.setattr(TrainEvaluator, "epochs", {"": 1})
    name = "nb201:C=4,N=1/digits"
    best = nasplug.search("random", on=name, budget=2, seed=1, tracking=False).best
    assert best.metrics["params"] == best.space.params(best.arch[None])[0]
    assert best.metrics["flops"] == best.space.flops(best.arch[None])[0]
    model = initialise(best.build, 1)
    assert sum(p.numel() for p in model.parameters()) == best.metrics["params"]
    assert train(model, load("digits", 1), epochs=1, seed=1)["value"] == best.value


def test_the_best_trial_builds_the_published_network():
    best = nasplug.Trial(0, np.full(6, 3), nasplug.problem("nb201/digits").space)
    assert sum(p.numel() for p in best.build().parameters()) == best.space.params(best.arch[None])
    wide = best.build(C=16, N=5)
    assert shapes(wide) == shapes(NB201("digits", C=16, N=5).build(best.arch))
    published = best.build(C=16, N=5, channels=3, resolution=32)
    assert shapes(published) == shapes(NB201().build(best.arch))
    assert sum(p.numel() for p in published.parameters()) == 1_531_546
    with pytest.raises(NasplugError, match="unknown option of nb201 'layers'"):
        best.build(layers=5)


# ---- tables are of published sizes only


def test_a_table_knows_nothing_of_other_sizes(nb201_table, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(nb201_table / "nas-bench-201.parquet")
    names = [name.replace("toy/", "cifar10/") for name in table.column_names]
    parquet.write_table(table.rename_columns(names), tmp_path / "nas-bench-201.parquet")
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train.parquet").touch()  # images are read when they are needed
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    scored = {
        name: nasplug.problem(f"{name}/cifar10").evaluator_name
        for name in ("nb201", "nb201:C=16,N=5", "nb201:C=8", "nb201:N=1", "nb201:resolution=16")
    }
    assert list(scored.values()) == ["table", "table", "train", "train", "train"]
    assert nasplug.problem("nb201:C=8/cifar10").space.sizes["C"] == 8
