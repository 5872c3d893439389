"""A supernet trained on a region ranks its archs."""

import numpy as np
import pytest

pytest.importorskip("torch")

import nasplug
from nasplug import NasplugError
from nasplug.analysis.ranking import one_shot
from nasplug.kernel.subspace import Mask
from nasplug.nn.datasets import digits

SPACE = nasplug.space("nb201:C=8,N=1").for_data("digits")


def test_archs_of_the_region_are_ranked():
    """Cells that let nothing through from cells that do: even a short training tells."""
    asked = []

    def connected(archs):
        """Whether the input reaches the output."""
        asked.append(archs)
        a = archs > 0
        two = a[:, 1] | (a[:, 0] & a[:, 2])
        return (a[:, 3] | (a[:, 0] & a[:, 4]) | (two & a[:, 5])).astype(float)

    ops = [SPACE.decisions[SPACE.names[0]][i] for i in (0, 3)]
    region = Mask(SPACE, dict.fromkeys(SPACE.names, ops))
    made = [one_shot(region, digits(0), connected, epochs=3, n=30) for _ in range(2)]
    assert made[0] == made[1]
    found, archs = made[0], asked[0]
    assert found["archs"] == len(archs) == len(np.unique(archs, axis=0)) == 30
    assert np.isin(archs, (0, 3)).all()
    assert found["mean"] == connected(archs).mean()
    assert found["top1"] == 1
    assert found["kendall"] > 0.3


def test_unknown_values_do_not_count():
    def half(archs):
        return np.where(np.arange(len(archs)) % 2, np.nan, archs.sum(1))

    assert one_shot(SPACE, digits(0), half, epochs=1, n=6)["archs"] == 3


def test_a_space_without_a_supernet_says_so():
    with pytest.raises(NasplugError, match="has no supernet"):
        one_shot(nasplug.space("nb101"), digits(0), len, epochs=1)
