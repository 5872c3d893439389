"""`NASPLUG_TRACE=1`: every hook call of a search on stderr, and the sums."""

from __future__ import annotations

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError, Space, hookimpl

SPACE = Space({"width": [16, 32, 64], "depth": [1, 2, 3]})


class Sampler(nasplug.Method):
    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(1, search.rng)


class Doubling:
    """Wraps `evaluate`, and its answer arrives."""

    @hookimpl(wrapper=True)
    def evaluate(self, candidates):
        trials = yield
        trials.values *= 2
        return trials


class Quarrel:
    """Wraps `evaluate`, and sees what is raised in it."""

    @hookimpl(wrapper=True)
    def evaluate(self):
        try:
            return (yield)
        except ValueError:
            raise NasplugError("seen") from None


class Broken:
    @hookimpl
    def evaluate(self):
        raise ValueError


def traced(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of each line."""
    lines = capsys.readouterr().err.splitlines()
    return [line.split()[1:] for line in lines if line.startswith("trace")]


def search(*plugins: object) -> nasplug.Selection:
    return nasplug.search(
        Sampler(), space=SPACE, evaluate=lambda arch: arch["width"], budget=3, tracking=False,
        plugins=list(plugins), repeats="count",
    )  # fmt: skip


def test_every_call_is_written_and_summed_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untraced = search(Doubling())
    assert not traced(capsys)
    monkeypatch.setenv("NASPLUG_TRACE", "1")
    found = search(Doubling())
    assert found.search.trials.archs.tolist() == untraced.search.trials.archs.tolist()
    lines = traced(capsys)
    middle = lines.index(["calls", "hook", "plugin", "ms"])
    calls, sums = lines[1:middle], {(hook, by): (n, ms) for n, hook, by, ms in lines[middle + 1 :]}
    assert lines[0] == ["round", "hook", "plugin", "ms"]
    assert [line[:3] for line in calls[:5]] == [
        ["0", "sample_space", "defaults"],
        ["0", "propose", "Sampler"],
        ["0", "evaluate", "evaluator"],
        ["0", "evaluate", "Doubling"],
        ["0", "evaluate", "cache"],
    ]
    assert calls[-1][:3] == ["3", "select_final", "defaults"]
    for (hook, by), (n, milliseconds) in sums.items():
        own = [float(ms) for _, *what, ms in calls if what == [hook, by]]
        assert len(own) == int(n) == (1 if hook == "select_final" else 3)
        assert np.isclose(sum(own), float(milliseconds), atol=0.002)


def test_a_wrapper_still_sees_what_is_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NASPLUG_TRACE", "1")
    with pytest.raises(NasplugError, match="seen"):
        search(Broken(), Quarrel())
    assert ["1", "evaluate", "Quarrel"] in [line[:3] for line in traced(capsys)]
