import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nasplug
from nasplug import NasplugError
from nasplug.spaces.nb201.space import CONV_3X3, EDGES, NB201, OPS

SPACE = NB201()
ARCHS = st.lists(st.integers(0, 4), min_size=6, max_size=6)
ALL_3X3 = np.full((1, 6), CONV_3X3)

torch = pytest.importorskip("torch")

import nasplug.nn  # noqa: E402


def expression(arch):
    """The official to_unique_str(consider_zero=True), term by term."""
    nodes = ["0"]
    ops = iter(arch)
    for _ in range(3):
        terms = []
        for source in nodes:
            op = OPS[next(ops)]
            if op == "none" or source == "#":
                terms.append("#")
            else:
                terms.append(source if op == "skip_connect" else f"({source})@{op}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def count(model, shape):
    """(parameters, multiply-adds) as the official tables have them: with the classifier's bias,
    which a dense one has not."""
    params, madds = nasplug.nn.count(model, shape)
    return params, madds + len(model[-1].bias) * isinstance(model[-1], torch.nn.Linear)


def test_strings_of_the_table():
    if "NASPLUG_DATA" not in os.environ:
        pytest.skip("NASPLUG_DATA is not set")
    table = pytest.importorskip("pyarrow.parquet").read_table(
        Path(os.environ["NASPLUG_DATA"]) / "nas-bench-201.parquet", columns=["arch"]
    )
    texts = table["arch"].to_pylist()
    archs = np.stack([SPACE.from_str(text) for text in texts])
    assert [SPACE.to_str(arch) for arch in archs] == texts
    assert len(SPACE.unique(archs)) == SPACE.size == 15_625


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "3 nodes"),
        ("|none~0|+|none~0|none~1|", "got 2"),
        ("none~0+|none~0|none~1|+|none~0|none~1|none~2|", r"node 1 .* reads \|OP~0\|"),
        ("|none~0|+|none~0|+|none~0|none~1|none~2|", r"node 2 .* reads \|OP~0\|OP~1\|"),
        ("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "edge 1 of node 2"),
        ("|none~0|+|none~0|none|+|none~0|none~1|none~2|", "edge 1 of node 2"),
        ("|nor_conv_3x3~0|+|nor_conv~0|none~1|+|none~0|none~1|none~2|", "nor_conv_3x3"),
    ],
)
def test_malformed_strings_say_what_is_wrong(text, message):
    with pytest.raises(NasplugError, match=message):
        SPACE.from_str(text)


def test_canonical_is_the_official_isomorphism():
    archs = SPACE.all()
    canonical = SPACE.canonical(archs)
    lowest = {}
    for arch in archs.tolist():
        lowest.setdefault(expression(arch), arch)
    assert len(lowest) == len(SPACE.unique(canonical)) == 6_466
    assert canonical.tolist() == [lowest[expression(arch)] for arch in archs.tolist()]


@given(ARCHS)
def test_canonical_is_idempotent(arch):
    canonical = SPACE.canonical(np.array([arch]))
    np.testing.assert_array_equal(SPACE.canonical(canonical), canonical)
    assert SPACE.index(canonical)[0] <= SPACE.index(np.array(arch))


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_edges_behind_a_zero_do_not_matter(to_1, to_2, op):
    live = [0, op, to_2, 3, to_1, 2]  # node 1 is zero, so edges 2<-1 and 3<-1 carry nothing
    dead = [0, op, 0, 3, 0, 2]
    a, b = SPACE.canonical(np.array([live, dead]))
    np.testing.assert_array_equal(a, b)


def test_published_sizes():
    """Params and FLOPs that the official tables give for the all-3x3 cell."""
    cifar100, imagenet = SPACE.for_data("cifar100"), SPACE.for_data("imagenet16-120")
    assert SPACE.params(ALL_3X3) == 1_531_546
    assert cifar100.params(ALL_3X3) == 1_537_396
    assert SPACE.flops(ALL_3X3) == 220_119_690
    assert imagenet.flops(ALL_3X3) == 55_037_560
    assert SPACE.name == cifar100.name == imagenet.name == "nb201"


@pytest.mark.parametrize(
    "name",
    ["nb201", "nb201:C=8,N=1,channels=1,resolution=8", "nb201:C=4,N=2,classes=100",
     "nb201:C=3,N=2,resolution=12,columns=20", "nb201:C=3,N=1,dense=1,classes=2,resolution=9",
     "nb201:C=2,N=1,dense=1,classes=1,resolution=7,columns=5"],
)  # fmt: skip
def test_closed_forms_equal_the_built_network(name):
    space = nasplug.space(name)
    archs = space.sample(8, 0)
    measured = [count(space.build(arch), space.shape) for arch in archs]
    assert measured == list(zip(space.params(archs), space.flops(archs), strict=True))


def test_built_network_is_differentiable_and_all_zero_cells_too():
    for arch in ALL_3X3[0], np.zeros(6, int):
        model = SPACE.sized(classes=7, C=4, N=1).build(arch)
        logits = model(torch.randn(2, 3, 32, 32))
        logits.sum().backward()
        assert logits.shape == (2, 7)
        assert model[-1].bias.grad.abs().sum() > 0


def test_a_cell_sums_its_edges():
    """With skips and zeros alone a cell multiplies its input by its number of paths."""
    from nasplug.spaces.nb201.network import Cell

    x = torch.randn(1, 2, 4, 4)
    for arch in product((0, 1), repeat=6):
        paths = [1, 0, 0, 0]
        for (target, source), op in zip(EDGES, arch, strict=True):
            paths[target] += op * paths[source]
        torch.testing.assert_close(Cell(arch, 2)(x), paths[3] * x)


def test_drawing_shows_every_operation():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    SPACE.draw([3, 1, 0, 0, 4, 2], ax)
    texts = sorted(text.get_text() for text in ax.texts)
    assert texts == ["1", "2", "avg pool 3x3", "conv 1x1", "conv 3x3", "in", "out", "skip"]
    assert len(ax.patches) == 6
