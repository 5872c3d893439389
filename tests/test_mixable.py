"""Choices that can only be chosen: who adds them up says so, who takes single paths goes on."""

from __future__ import annotations

import pytest

import nasplug
from nasplug import NasplugError

torch = pytest.importorskip("torch")

from nasplug.spaces import NB201  # noqa: E402
from nasplug.spaces.nb201.network import NB201Supernet  # noqa: E402


class OneShape(NB201Supernet):
    """Its first edge is said to have outputs of different shapes."""

    @property
    def mixable(self):
        mixable = self.exists
        mixable[0] = False
        return mixable


class Odd(NB201):
    def supernet(self, region=None, partial=1):
        return OneShape(self, partial)


def search(method, **options):
    problem = nasplug.Problem.of(
        space=Odd(C=4, N=1), data=[(torch.randn(1, 8, 8), i % 2) for i in range(64)]
    )
    chosen = nasplug.kernel.registry.registry().get("method", method)(batch=32, **options)
    return nasplug.Search(problem, chosen, method, budget=2).run()


@pytest.mark.parametrize("method", ["darts", "ddsas", "ostr-darts", "proxyless"])
def test_who_mixes_says_which_decision_it_cannot_treat(method):
    with pytest.raises(NasplugError, match=f"{method} adds up the choices .* '1<-0' have outputs"):
        search(method)


def test_who_takes_single_paths_goes_on():
    assert len(search("gdas").search.trials) == 2
    assert len(search("spos", epochs=1, population=2).search.trials) == 2
