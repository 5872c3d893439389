"""The literature's larger spaces: round trips, geometry, counts, uniformity, published sizes."""

import doctest
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasplug import NasplugError
from nasplug.spaces.anynetx import AnyNetX
from nasplug.spaces.darts.space import EDGES, NODES, Darts
from nasplug.spaces.fairnas.space import FairNAS
from nasplug.spaces.mobilenet.space import BLOCKS, MobileNet
from nasplug.spaces.nb101 import INNER, NB101
from nasplug.spaces.nb101 import OPS as NB101_OPS
from nasplug.spaces.shufflenetv2.space import ShuffleNetV2
from nasplug.spaces.transnas import TransNASCell, TransNASMacro

SPACES = [
    AnyNetX(),
    Darts(),
    FairNAS(),
    MobileNet(),
    NB101(),
    ShuffleNetV2(),
    TransNASCell(),
    TransNASMacro(),
]
every_space = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def chi_square(counts, expected):
    """How many standard deviations the chi-square statistic lies from its mean."""
    counts, expected = np.ravel(counts), np.broadcast_to(expected, np.shape(counts)).ravel()
    statistic = ((counts - expected) ** 2 / expected).sum()
    degrees = len(counts) - 1
    return (statistic - degrees) / np.sqrt(2 * degrees)


# ---- what every space must do


@every_space
@pytest.mark.parametrize("distance", [1, 2, 3, 5])
def test_mutants_lie_at_the_distance_and_are_no_isomorphs(space, distance):
    parents = space.sample(3000, seed=3)
    children = space.mutate(parents, seed=4, distance=distance)
    assert (space.distance(parents, children) == distance).all()
    assert space.contains(children).all()
    assert (space.canonical(parents) != space.canonical(children)).any(1).all()
    np.testing.assert_array_equal(children, space.mutate(parents, 4, distance))


@every_space
@pytest.mark.parametrize("distance", [1, 2])
def test_neighbors_are_all_at_the_distance(space, distance):
    if space.name == "anynetx" and distance == 2:
        pytest.skip("130,000 neighbours")
    arch = space.sample(1, seed=5)[0]
    neighbors = space.neighbors(arch, distance)
    assert (space.distance(neighbors, arch) == distance).all()
    assert space.contains(neighbors).all()
    assert len(space.unique(neighbors)) == len(neighbors)
    assert (space.canonical(neighbors) != space.canonical(arch[None])).any(1).all()
    known = set(space.codes(neighbors).tolist())
    assert known.issuperset(
        space.codes(space.mutate(np.repeat(arch[None], 500, 0), 6, distance)).tolist()
    )
    if space.name.startswith("transnas"):
        everything = space.all()
        assert len(neighbors) == (space.distance(everything, arch) == distance).sum()


@every_space
def test_mutants_are_uniform(space):
    arch = space.sample(1, seed=7)[0]
    neighbors = space.neighbors(arch)
    children = space.mutate(np.repeat(arch[None], 100 * len(neighbors), 0), seed=8)
    counts = np.unique(children, axis=0, return_counts=True)[1]
    assert len(counts) == len(neighbors)
    assert abs(chi_square(counts, 100)) < 4


@every_space
def test_canonical_is_idempotent_and_decides_features(space):
    archs = space.mutate(space.sample(500, seed=9), seed=10, distance=2)
    canonical = space.canonical(archs)
    assert space.contains(canonical).all()
    np.testing.assert_array_equal(space.canonical(canonical), canonical)
    features = space.features(archs)
    assert features.dtype == np.float32
    assert len(features) == 500
    np.testing.assert_array_equal(features, space.features(canonical))
    distinct = len(np.unique(canonical, axis=0))
    assert len(np.unique(features, axis=0)) == distinct


@every_space
def test_costs_are_positive_and_by_row(space):
    archs = space.sample(200, seed=11)
    params, flops = space.params(archs), space.flops(archs)
    assert params.dtype == flops.dtype == np.int64
    assert params.shape == flops.shape == (200,)
    assert (params > 0).all()
    assert (flops > params).all()
    np.testing.assert_array_equal(space.params(archs[::-1])[::-1], params)
    assert space.flops(archs[7:8]) == flops[7]


@pytest.mark.parametrize(
    ("space", "text", "message"),
    [
        (ShuffleNetV2(), "k3-k5", "20 layers joined by '-', got 2"),
        (ShuffleNetV2(), "-".join(["k3"] * 19 + ["k9"]), "unknown block of shufflenetv2 'k9'"),
        (FairNAS(), "", "19 layers"),
        (MobileNet(), "-".join(["k3e3", "0", "0", "0"] * 5), "not valid"),
        (MobileNet(), "-".join(["k3e3", "k3e3", "0", "k3e3"] * 5), "not valid"),
        (AnyNetX(), "d1w32b1g16", "four stages"),
        (AnyNetX(), "-".join(["d1w33b1g16"] * 4), "unknown choice of stage0.width '33'"),
        (AnyNetX(), "-".join(["d1w8b4g4"] * 4), "not valid"),
        (TransNASMacro(), "64-123-basic", "four to six modules"),
        (TransNASMacro(), "64-1111-basic", "not valid"),
        (TransNASCell(), "64-41414-1_02_33", "reads like"),
        (NB101(), "", "inner vertices"),
        (NB101(), "conv3x3(0)", "inner vertices"),
        (NB101(), "conv3x3(0)|output(1", "inner vertices"),
        (NB101(), "|".join(["conv3x3(0)"] * 6 + ["output(1)"]), "at most 5 inner"),
        (NB101(), "conv3(0)|output(1)", "conv3x3"),
        (NB101(), "conv3x3(1)|output(1)", "vertex 1, are vertices before it, got 1"),
        (NB101(), "conv3x3(0)|output(2)", "got 2"),
        (NB101(), "conv3x3(0)|output()", "not valid"),
        (Darts(), "Genotype()", "reads Genotype"),
        (Darts(), DARTS_V2.replace("[2, 3, 4, 5]", "[4, 5]"), "reads Genotype"),
        (Darts(), DARTS_V2.replace("sep_conv_3x3', 0", "sep_conv_9x9', 0"), "sep_conv"),
        (Darts(), DARTS_V2.replace("('dil_conv_3x3', 2)", ""), "8 pairs"),
        (Darts(), DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"), "inputs 0 to 4"),
        (Darts(), DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)"), "not valid"),
    ],
)
def test_malformed_strings_say_what_is_wrong(space, text, message):
    with pytest.raises(NasplugError, match=message):
        space.arch(text)


@every_space
def test_examples_of_the_docstring(space):
    module = sys.modules[type(space).__module__]
    assert doctest.testmod(module).failed == 0


# ---- counts


def test_transnas_has_3256_skeletons_and_4096_cells():
    macro = TransNASMacro().all()
    assert len(macro) == 3256
    lengths = (macro[:, 4:] > 0).sum(1) + 4
    assert np.bincount(lengths).tolist()[4:] == [210, 750, 2296]
    assert len(TransNASCell().all()) == 4096


def test_sizes_of_the_products():
    assert ShuffleNetV2().size == 4**20
    assert FairNAS().size == 6**19
    assert AnyNetX().size == (16 * 128 * 3 * 6) ** 4


def test_counts_of_the_valid_archs():
    assert NB101().count == 423_624
    assert MobileNet().count == (9**2 + 9**3 + 9**4) ** 5
    assert Darts().count == (180 * 7**8) ** 2
    assert TransNASMacro().count == 3256
    fitting = sum(
        (w // b) % g == 0
        for w in range(8, 1025, 8)
        for b in (1, 2, 4)
        for g in (1, 2, 4, 8, 16, 32)
    )
    assert AnyNetX().count == (16 * fitting) ** 4
    assert ShuffleNetV2().count == 4**20
    tiny = OneUnit()
    assert len(tiny.all()) == 9**2 + 9**3 + 9**4


@pytest.mark.slow
def test_nb101_has_423624_graphs():
    space = NB101()
    graphs = space.all()
    assert len(graphs) == NB101.GRAPHS == 423_624
    assert (np.diff(space.index(graphs)) > 0).all()
    np.testing.assert_array_equal(space.canonical(graphs), graphs)
    assert space.contains(graphs).all()
    assert (graphs[:, :21].sum(1) <= 9).all()


# ---- uniform sampling where it is not by rejection


class OneUnit(MobileNet):
    """A MobileNet of one unit: 7,371 archs."""

    UNITS = MobileNet.UNITS[:1]


def test_mobilenet_samples_uniformly():
    space = OneUnit()
    counts = np.bincount(space.index(space.sample(200_000, seed=0)), minlength=space.size)
    assert abs(chi_square(counts[space.index(space.all())], 200_000 / 7371)) < 4


def test_anynetx_samples_uniformly():
    space = AnyNetX()
    archs = space.sample(100_000, seed=0).reshape(-1, 4)
    depth, width, ratio, group = archs.T
    counts = np.bincount((width * 3 + ratio) * 6 + group, minlength=128 * 18).reshape(128, 3, 6)
    bottleneck = np.arange(8, 1025, 8)[:, None, None] // np.array([1, 2, 4])[:, None]
    fits = bottleneck % np.array([1, 2, 4, 8, 16, 32]) == 0
    assert (counts[~fits] == 0).all()
    assert abs(chi_square(counts[fits], 400_000 / fits.sum())) < 4
    assert abs(chi_square(np.bincount(depth), 400_000 / 16)) < 4


def test_darts_samples_uniformly():
    nodes = Darts().sample(50_000, seed=0).reshape(-1, 4, 2, 2)
    for i, node in enumerate(NODES):
        first, second = nodes[:, i, 0], nodes[:, i, 1]
        pairs = first[:, 0].astype(int) * node + second[:, 0]
        counts = np.bincount(pairs, minlength=node**2)[~np.eye(node, dtype=bool).ravel()]
        assert abs(chi_square(counts, 100_000 / (node * (node - 1)))) < 4
        ops = np.bincount(first[:, 1].astype(int) * 7 + second[:, 1], minlength=49)
        assert abs(chi_square(ops, 100_000 / 49)) < 4


def test_nb101_samples_graphs_uniformly():
    space = NB101()
    archs = space.sample(100_000, seed=0)
    expected = np.bincount(space.all()[:, :21].sum(1)) / NB101.GRAPHS
    counts = np.bincount(archs[:, :21].sum(1), minlength=10)
    assert abs(chi_square(counts[1:], 100_000 * expected[1:])) < 4
    assert len(space.unique(archs)) == pytest.approx(
        NB101.GRAPHS * (1 - np.exp(-0.23606)), rel=0.01
    )


# ---- isomorphs


def relabelled(arch, order):
    """The NB101 arch with inner vertex v renamed order[v - 1], if edges still go forwards."""
    matrix = NB101().matrices(arch[None])[0]
    place = np.array([0, *order, 6])
    result = np.zeros_like(matrix)
    result[np.ix_(place, place)] = matrix
    if np.tril(result).any():
        return None
    ops = np.empty(5, int)
    ops[np.array(order) - 1] = arch[21:]
    edges = [result[x, y] for y in range(6, 0, -1) for x in range(y - 1, -1, -1)]
    return np.array([*edges, *ops])


@settings(deadline=None)
@given(st.integers(0, 2**32), st.permutations(list(INNER)))
def test_nb101_relabelled_graphs_have_one_canonical_arch(seed, order):
    space = NB101()
    arch = space.sample(1, seed)[0]
    twin = relabelled(arch, order)
    if twin is not None:
        np.testing.assert_array_equal(space.canonical(twin[None])[0], arch)
        assert space.paths(twin[None]).tolist() == space.paths(arch[None]).tolist()


def test_nb101_agrees_with_brute_force_isomorphism():
    networkx = pytest.importorskip("networkx")
    space = NB101()
    rng = np.random.default_rng(0)
    archs = space.from_index(rng.integers(0, space.size, 400))
    archs[:, :21] *= rng.random((400, 21)) < 0.5  # sparse, so that isomorphs are common
    archs = archs[space.is_valid(archs)]
    graphs = []
    for arch in archs:
        graph = networkx.from_numpy_array(
            space.matrices(arch[None])[0], create_using=networkx.DiGraph
        )
        ops = dict(enumerate(["input", *(NB101_OPS[op] for op in arch[21:]), "output"]))
        networkx.set_node_attributes(graph, ops, "op")
        alive = networkx.descendants(graph, 0) & networkx.ancestors(graph, 6)
        graphs.append(graph.subgraph(alive | {0, 6}))
    own = space.graph(archs)
    equal = 0
    for i, (graph, number) in enumerate(zip(graphs, own, strict=True)):
        for other, other_number in zip(graphs[:i], own[:i], strict=True):
            if len(graph) == len(other) and graph.size() == other.size():
                same = networkx.is_isomorphic(graph, other, lambda a, b: a["op"] == b["op"])
                assert same == (number == other_number)
                equal += same
            else:
                assert number != other_number
    assert equal > 20


def test_nb101_canonical_is_the_graph_of_the_data_set():
    """The official notebook queries this cell and prints the isomorph that was trained."""
    space = NB101()
    queried = space.arch(
        "conv1x1(0)|conv3x3(0)|conv3x3(0)|conv3x3(3)|maxpool3x3(0)|output(1,2,4,5)"
    )
    trained = space.canonical(queried[None])[0]
    assert space.to_str(trained) == (
        "conv3x3(0)|conv1x1(0)|maxpool3x3(0)|conv3x3(0)|conv3x3(4)|output(1,2,3,5)"
    )
    assert space.params(trained[None]) == 2_694_282


def test_nb101_loose_vertices_do_not_matter():
    space = NB101()
    tidy = space.arch("conv3x3(0)|output(0,1)")
    loose = space.arch("conv1x1(0)|conv3x3(0)|maxpool3x3()|conv1x1(3)|maxpool3x3(1)|output(0,2,4)")
    for of in (space.canonical, space.features, space.params, space.flops):
        np.testing.assert_array_equal(of(tidy[None]), of(loose[None]))


def test_nb101_lone_edge_has_no_neighbor_but_can_drift():
    space = NB101()
    arch = space.arch("output(0)")
    assert len(space.neighbors(arch)) == 0
    child = space.mutate(arch[None], seed=0)
    assert space.distance(child, arch) == 1
    assert space.graph(child) == space.graph(arch[None])
    assert space.graph(space.mutate(arch[None], seed=0, distance=2)) != space.graph(arch[None])


def test_nb101_paths():
    space = NB101()
    archs = np.array(
        [space.arch("output(0)"), space.arch("conv1x1(0)|maxpool3x3(0,1)|output(1,2)")]
    )
    paths = space.paths(archs)
    assert paths.shape == (2, 1 + 3 + 9 + 27 + 81 + 243)
    assert np.flatnonzero(paths[0]).tolist() == [0]
    # conv1x1; maxpool3x3; conv1x1 then maxpool3x3
    assert np.flatnonzero(paths[1]).tolist() == [1 + 1, 1 + 2, 1 + 3 + 1 * 3 + 2]


@settings(deadline=None)
@given(st.integers(0, 2**32), st.permutations(list(NODES)), st.integers(0, 1), st.data())
def test_darts_relabelled_cells_have_one_canonical_arch(seed, order, cell, data):
    space = Darts()
    arch = space.sample(1, seed)[0]
    twin = arch.copy()
    nodes, source = twin.reshape(2, 4, 2, 2)[cell], arch.reshape(2, 4, 2, 2)[cell]
    place = np.array([0, 1, *order])
    for node, pairs in zip(order, source, strict=True):
        swap = data.draw(st.booleans())
        nodes[node - 2] = pairs[::-1] if swap else pairs
        nodes[node - 2, :, 0] = place[nodes[node - 2, :, 0]]
    if space.contains(twin[None]):
        np.testing.assert_array_equal(*space.canonical(np.array([arch, twin])))


def test_darts_edges_round_trip():
    space = Darts()
    archs = space.canonical(space.sample(100, seed=0))
    edges = space.edges(archs)
    assert edges.shape == (100, 2, len(EDGES)) == (100, 2, 14)
    assert ((edges > 0).sum(2) == 8).all()
    np.testing.assert_array_equal(space.from_edges(edges), archs)


# ---- published sizes


def test_published_sizes():
    spos = ShuffleNetV2()
    arch = [[2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3]]
    assert round(spos.flops(arch)[0] / 1e6) == 323
    assert round(spos.params(arch)[0] / 1e6, 1) == 3.6  # the authors write 3.5M

    fairnas = FairNAS()
    b = [[1, 0, 1, 0, 3, 1, 2, 0, 3, 1, 0, 3, 2, 0, 5, 4, 5, 3, 4]]
    c = [[1, 0, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 5, 5, 3, 3, 4]]
    assert (fairnas.flops(b + c) / 1e6).round().tolist() == [345, 321]
    assert (fairnas.params(b + c) / 1e6).round(1).tolist() == [4.5, 4.4]

    largest = np.full((1, 20), BLOCKS.index("k7e6"))
    assert round(MobileNet(width=1.0).params(largest)[0] / 1e6, 1) == 7.7

    darts = Darts(C=36, layers=20)
    assert darts.params(darts.arch(DARTS_V2)[None]) == 3_349_342

    regnets = AnyNetX()
    archs = np.array(
        [
            regnets.arch("d1w24b1g8-d1w56b1g8-d4w152b1g8-d7w368b1g8"),  # RegNetX-200MF
            regnets.arch("d1w32b1g16-d2w64b1g16-d7w160b1g16-d12w400b1g16"),  # 400MF
            regnets.arch("d1w64b1g16-d3w128b1g16-d7w288b1g16-d5w672b1g16"),  # 800MF
        ]
    )
    assert regnets.params(archs).tolist() == [2_684_792, 5_495_976, 7_259_656]
    assert (regnets.flops(archs) / 1e9).round(1).tolist() == [0.2, 0.4, 0.8]


@pytest.mark.parametrize(
    ("text", "c_out", "channels"),
    [  # from nasbench/tests/model_builder_test.py
        ("conv3x3(0)|conv3x3(1)|output(2)", 16, [16, 16]),
        ("conv3x3(0)|conv3x3(0)|conv3x3(1,2)|output(3)", 8, [8, 8, 8]),
        ("conv3x3(0)|conv3x3(0)|output(1,2)", 15, [8, 7]),
        ("conv3x3(0)|conv3x3(0)|conv3x3(0)|output(1,2,3)", 8, [3, 3, 2]),
        ("conv3x3(0)|conv3x3(1)|conv3x3(1)|output(2,3)", 9, [5, 5, 4]),
        ("conv3x3(0)|conv3x3(1)|conv3x3(0,2)|output(1,3)", 15, [8, 7, 7]),
    ],
)
def test_nb101_channels(text, c_out, channels):
    space = NB101()
    found = space.channels(space.arch(text)[None], c_out)[0]
    assert found.tolist() == [0, *channels, *[0] * (5 - len(channels)), c_out]


# ---- costs against networks of torch, on the meta device


torch = pytest.importorskip("torch")
nn = torch.nn


def count(model, side):
    """(parameters, multiply-adds of convolutions and linear layers) of one side x side image."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += module.weight.numel() * (output[0, 0].numel() if output.dim() == 4 else 1)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    model.eval()(torch.zeros(1, 3, side, side, device="meta"))
    return [sum(p.numel() for p in model.parameters()), total]


def unit(c_in, c_out, kernel=1, stride=1, groups=1):
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    )


def depthwise(channels, kernel, stride=1):
    return unit(channels, channels, kernel, stride, channels)


def head(channels, classes, bias=True):
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*pool, nn.Linear(channels, classes, bias))


class Sum(nn.Module):
    """The sum of the outputs of branches of the same input."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


class Scale(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels):
        super().__init__()
        quarter = channels // 4
        squeezed = min(
            (s for s in range(8, 2 * channels, 8) if s >= 0.9 * quarter),
            key=lambda s: (abs(s - quarter), -s),
        )
        convs = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), *convs)

    def forward(self, x):
        return x * self.gate(x)


def mbconv(c_in, c_out, block, stride, se=False):
    kernel, middle = int(block[1]), int(block[3]) * c_in
    layers = [unit(c_in, middle)] if middle > c_in else []
    layers += [depthwise(middle, kernel, stride), *([Scale(middle)] if se else [])]
    return nn.Sequential(*layers, unit(middle, c_out))


class Shuffle(nn.Module):
    def __init__(self, c_in, c_out, block, stride):
        super().__init__()
        self.split = stride == 1
        half, middle = c_in // 2 if self.split else c_in, c_out // 2
        k = 3 if block == "xception" else int(block[1])
        if block == "xception":
            first = [depthwise(half, 3, stride), unit(half, middle), depthwise(middle, 3)]
            main = [*first, unit(middle, middle), depthwise(middle, 3)]
        else:
            main = [unit(half, middle), depthwise(middle, k, stride)]
        self.main = nn.Sequential(*main, unit(middle, c_out - half))
        side = [] if self.split else [depthwise(c_in, k, 2), unit(c_in, c_in)]
        self.side = nn.Sequential(*side)

    def forward(self, x):
        left, right = x.chunk(2, 1) if self.split else (x, x)
        return torch.cat([self.side(left), self.main(right)], 1)


def shufflenet(blocks):
    c, layers, blocks = 16, [unit(3, 16, 3, 2)], iter(blocks)
    for channels, repeats in [(64, 4), (160, 4), (320, 8), (640, 4)]:
        for i in range(repeats):
            layers.append(Shuffle(c, channels, next(blocks), 2 if i == 0 else 1))
            c = channels
    return nn.Sequential(*layers, unit(640, 1024), head(1024, 1000, bias=False))


def fairnas(blocks):
    c, layers = 16, [unit(3, 32, 3, 2), depthwise(32, 3), unit(32, 16)]
    widths = [32] * 2 + [40] * 4 + [80] * 4 + [96] * 4 + [192] * 4 + [320]
    for i, (block, channels) in enumerate(zip(blocks, widths, strict=True)):
        layers.append(mbconv(c, channels, block, 2 if i in (0, 2, 6, 14) else 1))
        c = channels
    return nn.Sequential(*layers, unit(320, 1280), head(1280, 1000))


def mobilenet(blocks, widths):
    stem, *units, before, after = widths
    c, layers = stem, [unit(3, stem, 3, 2), depthwise(stem, 3), unit(stem, stem)]
    for i, channels in enumerate(units):
        for j, block in enumerate(blocks[4 * i : 4 * i + 4]):
            if block != "0":
                stride = 2 if j == 0 and i != 3 else 1
                layers.append(mbconv(c, channels, block, stride, se=i in (1, 3, 4)))
                c = channels
    mix = nn.Conv2d(before, after, 1, bias=False)
    return nn.Sequential(*layers, unit(c, before), nn.AdaptiveAvgPool2d(1), mix, head(after, 1000))


def anynet(text):
    c, layers = 32, [unit(3, 32, 3, 2)]
    for stage in text.split("-"):
        depth, width, ratio, group = map(
            int, stage.translate(str.maketrans("dwbg", "    ")).split()
        )
        inner = width // ratio
        for i in range(depth):
            stride = 2 if i == 0 else 1
            body = [unit(c, inner), unit(inner, inner, 3, stride, inner // group)]
            block = nn.Sequential(*body, unit(inner, width))
            layers.append(Sum(block, unit(c, width, 1, 2)) if i == 0 else block)
            c = width
    return nn.Sequential(*layers, head(c, 1000))


def transnas(text):
    _, skeleton, cell = text.split("-")
    c, layers = 64, [unit(3, 32, 3, 2), unit(32, 64, 3, 2)]
    for module in map(int, skeleton):
        channels, stride = c * (2 if module in (2, 4) else 1), 2 if module > 2 else 1
        for _ in range(2):
            if cell == "basic":
                block = nn.Sequential(unit(c, channels, 3, stride), unit(channels, channels, 3))
                reduces = c != channels or stride == 2
                layers.append(Sum(block, unit(c, channels, 1, stride)) if reduces else block)
            else:
                layers.append(Cell(cell.replace("_", ""), c, channels, stride))
            c, stride = channels, 1
    return nn.Sequential(*layers)


class Cell(nn.Module):
    """A cell of TransNAS-Bench-101."""

    def __init__(self, ops, c_in, c_out, stride):
        super().__init__()
        self.ops = nn.ModuleDict()
        edges = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
        for (target, source), op in zip(edges, ops, strict=True):
            c, s = (c_in, stride) if source == 0 else (c_out, 1)
            if op in "23" or (op == "1" and (c, s) != (c_out, 1)):
                layer = unit(c, c_out, 3 if op == "3" else 1, s)
            else:
                layer = nn.Identity() if op == "1" else None
            if layer is not None:
                self.ops[f"{target}{source}"] = layer
        self.c_out, self.stride = c_out, stride

    def forward(self, x):
        zero = x.new_zeros(1, self.c_out, *(s // self.stride for s in x.shape[2:]))
        nodes = [x]
        for target in "123":
            into = [edge for edge in self.ops if edge[0] == target]
            nodes.append(sum((self.ops[edge](nodes[int(edge[1])]) for edge in into), zero))
        return nodes[3]


class Cell101(nn.Module):
    """A cell of NAS-Bench-101 for a pruned arch with the channels of its vertices."""

    def __init__(self, matrix, ops, channels, c_in):
        super().__init__()
        self.matrix, self.channels = matrix, channels
        self.alive = [v for v in range(1, 6) if matrix[:, v].any()]
        projected = [v for v in range(1, 7) if matrix[0, v]]
        self.project = nn.ModuleDict({str(v): unit(c_in, channels[v]) for v in projected})
        layers = {
            "conv3x3": lambda c: unit(c, c, 3),
            "conv1x1": lambda c: unit(c, c, 1),
            "maxpool3x3": lambda c: nn.MaxPool2d(3, 1, 1),
        }
        self.ops = nn.ModuleDict({str(v): layers[ops[v - 1]](channels[v]) for v in self.alive})

    def forward(self, x):
        values = {}
        for v in self.alive:
            into = [values[u][:, : self.channels[v]] for u in values if self.matrix[u, v]]
            into += [self.project[str(v)](x)] if self.matrix[0, v] else []
            values[v] = self.ops[str(v)](sum(into))
        out = [torch.cat([values[v] for v in values if self.matrix[v, 6]], 1)] if values else []
        out += [self.project["6"](x)] if self.matrix[0, 6] else []
        return sum(out)


def nb101(space, arch):
    arch = space.pruned(arch[None])
    matrix, ops = space.matrices(arch)[0], [NB101_OPS[op] for op in arch[0, 21:]]
    layers, c = [unit(3, 128, 3)], 128
    for stack in range(3):
        layers += [nn.MaxPool2d(2)] if stack else []
        for _ in range(3):
            channels = space.channels(arch, 128 << stack)[0].tolist()
            layers.append(Cell101(matrix, ops, channels, c))
            c = 128 << stack
    return nn.Sequential(*layers, head(c, 10))


class CellDarts(nn.Module):
    def __init__(self, edges, c_before, c_last, c, side_ratio, reduces):
        super().__init__()
        self.enter = nn.ModuleList([unit(c_before, c, 1, side_ratio), unit(c_last, c)])
        self.sources = [source for _, source in edges]
        self.ops = nn.ModuleList(
            self.op(op, c, 2 if reduces and source < 2 else 1) for op, source in edges
        )

    @staticmethod
    def op(op, c, stride):
        if op == "skip_connect":
            return unit(c, c, 1, 2) if stride == 2 else nn.Identity()
        if "pool" in op:
            return nn.AvgPool2d(3, stride, 1)
        k, dilation = int(op[-1]), 2 if op.startswith("dil") else 1
        layers = []
        for s in (stride, 1)[: 1 if dilation == 2 else 2]:
            padding = dilation * (k // 2)
            layers += [nn.Conv2d(c, c, k, s, padding, dilation, c, bias=False), unit(c, c)]
        return nn.Sequential(*layers)

    def forward(self, before, last):
        nodes = [self.enter[0](before), self.enter[1](last)]
        for i in range(0, 8, 2):
            pair = [self.ops[j](nodes[self.sources[j]]) for j in (i, i + 1)]
            nodes.append(pair[0] + pair[1])
        return torch.cat(nodes[2:], 1)


class NetDarts(nn.Module):
    def __init__(self, text, c=16, layers=8):
        super().__init__()
        genotype = eval(text, {"Genotype": dict})
        self.stem = unit(3, 3 * c, 3)
        before, last, ratio, cells = 3 * c, 3 * c, 1, []
        for i in range(layers):
            reduces = i in (layers // 3, 2 * layers // 3)
            c *= 1 + reduces
            edges = genotype["reduce" if reduces else "normal"]
            cells.append(CellDarts(edges, before, last, c, ratio, reduces))
            before, last, ratio = last, 4 * c, 1 + reduces
        self.cells, self.head = nn.ModuleList(cells), head(last, 10)

    def forward(self, x):
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.head(last)


WIDTHS = {1.0: [16, 24, 40, 80, 112, 160, 960, 1280], 1.2: [24, 32, 48, 96, 136, 192, 1152, 1536]}
NETWORKS = [
    (ShuffleNetV2(), lambda space, arch: shufflenet(space.to_dict(arch).values())),
    (FairNAS(), lambda space, arch: fairnas(space.to_dict(arch).values())),
    *(
        (
            MobileNet(width=w),
            lambda space, arch, w=w: mobilenet([*space.to_dict(arch).values()], WIDTHS[w]),
        )
        for w in WIDTHS
    ),
    (AnyNetX(), lambda space, arch: anynet(space.to_str(arch))),
    (TransNASMacro(), lambda space, arch: transnas(space.to_str(arch))),
    (TransNASCell(), lambda space, arch: transnas(space.to_str(arch))),
    (NB101(), nb101),
    (Darts(), lambda space, arch: NetDarts(space.to_str(arch))),
    (Darts(C=36, layers=20), lambda space, arch: NetDarts(space.to_str(arch), 36, 20)),
]


@pytest.mark.parametrize(("space", "network"), NETWORKS, ids=lambda x: getattr(x, "name", ""))
def test_costs_are_those_of_the_network(space, network):
    archs = space.sample(4, seed=12)
    for arch, cost in zip(archs, space.costs(archs).T, strict=True):
        with torch.device("meta"):
            model = network(space, arch)
        side = space.sizes.get("resolution") or getattr(space, "RESOLUTION", 224)
        assert count(model, side) == cost.tolist()
