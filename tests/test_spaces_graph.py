import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasplug import NasplugError
from nasplug.spaces.graph import LINKS, OPS, SKIP, Graph

SPACE = Graph()
ARCHS = st.tuples(st.integers(0, 8), *[st.integers(0, 8)] * 4)


def network(arch):
    """What an arch without skips computes: its leaves and all nodes as nested expressions."""
    links, *ops = arch
    parents = [int(digit) for digit in LINKS[links]]
    values = ["x"]
    for parent, op in zip(parents, ops, strict=True):
        values.append(f"{op}({values[parent]})")
    return sorted(values[i] for i in range(1, 5) if i not in parents), sorted(values)


def read(name):
    if "NASPLUG_DATA" not in os.environ:
        pytest.skip("NASPLUG_DATA is not set")
    path = Path(os.environ["NASPLUG_DATA"]) / "nas-bench-graph" / name
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "reads like"),
        ("0012:gcn,gat,skip", "reads like"),
        ("0021:gcn,gat,skip,fc", "links of graph '0021'"),
        ("0012:gcn,gatt,skip,fc", "'gatt'; did you mean gat"),
    ],
)
def test_malformed_strings_say_what_is_wrong(text, message):
    with pytest.raises(NasplugError, match=message):
        SPACE.from_str(text)


@given(ARCHS)
def test_canonical_is_idempotent_and_keeps_the_hash(arch):
    archs = np.array([arch])
    canonical = SPACE.canonical(archs)
    np.testing.assert_array_equal(SPACE.canonical(canonical), canonical)
    assert SPACE.hash(canonical) == SPACE.hash(archs)
    assert sorted(canonical[0, 1:]) == sorted(arch[1:])


@given(ARCHS)
def test_without_skips_the_classes_are_equal_networks(arch):
    arch = (arch[0], *(op % SKIP for op in arch[1:]))
    canonical = SPACE.canonical(np.array([arch]))[0].tolist()
    assert network(canonical) == network(arch)


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 7))
def test_a_skip_does_nothing_wherever_it_is_in_a_chain(a, b, c):
    chains = [(8, *ops) for ops in ((SKIP, a, b, c), (a, SKIP, b, c), (a, b, c, SKIP))]
    hashes = SPACE.hash(np.array(chains))
    np.testing.assert_array_equal(hashes, [88_000 + 100 * a + 10 * b + c] * 3)


def test_there_are_26207_classes():
    assert len(np.unique(SPACE.hash(SPACE.all()))) == 26_207


def test_hashes_equal_the_official_ones():
    table = read("isomorphisms.parquet")
    columns = [[LINKS.index(links) for links in table["links"]]]
    columns += [[OPS.index(op) for op in table[f"op{i}"]] for i in range(1, 5)]
    archs = np.array(columns).T
    assert len(SPACE.unique(archs)) == SPACE.size == 59_049
    np.testing.assert_array_equal(SPACE.hash(archs), table["hash"])


@pytest.mark.parametrize("name", ["cora", "proteins"])
def test_every_row_of_a_table_is_found(name):
    rows = read(f"{name}.parquet")["hash"]
    assert set(rows) <= set(SPACE.hash(SPACE.all()).tolist())
