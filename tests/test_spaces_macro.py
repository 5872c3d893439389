import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nasplug
from nasplug import NasplugError
from nasplug.spaces import Macro

SPACE = Macro()
ARCHS = st.lists(st.integers(0, 2), min_size=8, max_size=8)


@pytest.fixture(scope="module")
def table():
    if "NASPLUG_DATA" not in os.environ:
        pytest.skip("NASPLUG_DATA is not set")
    path = Path(os.environ["NASPLUG_DATA"]) / "nas-bench-macro.parquet"
    columns = pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()
    columns["arch"] = np.stack([SPACE.from_str(text) for text in columns["arch"]])
    return columns


@pytest.mark.parametrize("text", ["", "0120120", "012012013", "0120120x", "01201203"])
def test_malformed_strings_say_what_is_expected(text):
    with pytest.raises(NasplugError, match="8 digits"):
        SPACE.from_str(text)


@given(ARCHS)
def test_canonical_moves_only_identities_within_a_stage(arch):
    canonical = SPACE.canonical(np.array([arch]))
    np.testing.assert_array_equal(SPACE.canonical(canonical), canonical)
    assert SPACE.index(canonical)[0] <= SPACE.index(np.array(arch))
    for stage in slice(0, 2), slice(2, 5), slice(5, 8):
        assert [op for op in canonical[0, stage] if op] == [op for op in arch[stage] if op]
    assert SPACE.params(canonical) == SPACE.params(np.array([arch]))
    assert SPACE.flops(canonical) == SPACE.flops(np.array([arch]))


def test_there_are_3969_classes():
    assert len(SPACE.unique(SPACE.canonical(SPACE.all()))) == 3_969


def test_isomorphic_archs_share_their_accuracies_in_the_table(table):
    assert len(SPACE.unique(table["arch"])) == SPACE.size == 6_561
    representatives = SPACE.index(SPACE.canonical(table["arch"]))
    of = dict(zip(SPACE.index(table["arch"]), table["test_acc_0"], strict=True))
    assert [of[i] for i in representatives] == table["test_acc_0"]


def test_sizes_equal_the_table(table):
    np.testing.assert_array_equal(SPACE.params(table["arch"]), table["params"])
    np.testing.assert_array_equal(SPACE.flops(table["arch"]), table["flops"])


@pytest.mark.parametrize("name", ["macro", "macro:classes=100,channels=1,resolution=8"])
def test_closed_forms_equal_the_built_network(name):
    pytest.importorskip("torch")
    from nasplug.nn import count

    space = nasplug.space(name)
    archs = np.concatenate([space.sample(3, 0), np.zeros((1, 8), int), np.full((1, 8), 2)])
    measured = [count(space.build(arch), space.shape) for arch in archs]
    assert measured == list(zip(space.params(archs), space.flops(archs), strict=True))
