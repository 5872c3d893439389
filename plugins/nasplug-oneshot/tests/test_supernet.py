"""Supernets that are trained and not searched: strategies, stages, the teacher, what is left."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search

torch = pytest.importorskip("torch")

from safetensors.torch import load_model  # noqa: E402

from nasplug.cli import main  # noqa: E402
from nasplug.nn import SUPERNET, Task, load  # noqa: E402
from nasplug.run.directory import RunDirectory  # noqa: E402
from nasplug.spaces import Macro, MobileNet  # noqa: E402
from nasplug.testing import method_checks  # noqa: E402
from nasplug_oneshot.supernet import taught  # noqa: E402

TINY = MobileNet("digits", width=0.1)
SHRINKING = {"strategy": "progressive-shrinking", "epochs": 6, "paths": 1}


@pytest.fixture(scope="module")
def images():
    """Digits, few of them: two steps in an epoch."""
    data = load("digits")
    few = {name: tuple(x[:32] for x in getattr(data, name)) for name in ("train", "val", "test")}
    return replace(data, **few)


def search(images, space=TINY, within=None, **options):
    method = registry().get("method", "supernet")(batch=16, **options)
    problem = nasplug.Problem.of(space=space, data=images)
    return Search(problem, method, "supernet", budget=100, within=within)


class Kept:
    """What a checkpoint holds after each round."""

    def __init__(self):
        self.found = []

    @nasplug.hookimpl
    def update(self, search):
        self.found.append(copy.deepcopy(search.state()))


def drawn(method, stage, n):
    """The archs that a step of a stage trains."""
    method.step = stage * method.per_epoch
    return np.array([method.net.select(path.mask + 0.0) for path in method._paths(n)])


def test_uniform_and_fair_paths(images):
    uniform = search(images, paths=3).method
    assert uniform.at_once == 3
    assert TINY.contains(drawn(uniform, 0, 50)).all()
    fair = search(images, strategy="fair").method
    masks = [path.mask for path in fair._paths(fair.at_once)]
    assert len(masks) == 10
    assert (np.sum(masks, 0)[fair.net.optional] == 1).all()


def test_shrinking_goes_from_the_largest_arch_to_all_of_them(images, tmp_path):
    run = search(images, **SHRINKING)
    method, trials = run.method, run.trials
    assert (drawn(method, 0, 3) == 9).all()
    assert len(drawn(method, 0, 3)) == 1
    assert np.unique(drawn(method, 1, 50)).tolist() == [7, 8, 9]
    assert len(np.unique(drawn(method, 5, 100))) == 10

    method.step = 0
    states = Kept()
    run.pm.register(states)
    result = run.run()
    assert run.stopped == "all epochs done"
    assert len(trials) == len(trials.metrics["smallest_acc"]) == 6
    smallest, middle, largest = TINY.flops(method.archs)
    assert smallest < middle < largest == TINY.flops(np.full((1, 20), 9))[0]
    assert (result.best.arch == method.archs[1]).all()
    assert result.best.value == method.score(result.best.arch)
    assert trials.metrics["largest_acc"][-1] == method.score(method.archs[2])

    again = search(images, **SHRINKING)
    again.load_state(states.found[3])  # within the second stage, so with a teacher
    again.run()
    assert again.trials.values.tolist() == trials.values[4:].tolist()
    assert again.trials.metrics["loss"].tolist() == trials.metrics["loss"][4:].tolist()

    result.files[SUPERNET](tmp_path / SUPERNET)
    net = TINY.supernet()
    load_model(net, tmp_path / SUPERNET)
    for arch in method.archs:
        a, b = (one.inherit(arch)(images.val[0].float()) for one in (net, method.net))
        assert a.equal(b)


def test_the_teacher_is_the_largest_arch_after_the_first_stage(images):
    method = search(images, **SHRINKING).method
    method.step = method.per_epoch - 1
    method._step()
    before = method.net.inherit(method.archs[-1]).state_dict()
    assert method.teacher is None
    assert not method.memory()["teacher"]
    method._step()
    for name, x in method.teacher.state_dict().items():
        assert x.equal(before[name])
        assert (method.memory()["teacher"][name] == x.numpy()).all()
    assert (
        method.net.inherit(method.archs[-1]).classifier.weight != before["classifier.weight"]
    ).any()
    assert method.bilevel.task is method.images.task


def test_a_second_label_by_hand():
    output, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    log_p, p = output.log_softmax(1), teacher.softmax(1)
    found = taught(Task(), output, (torch.tensor([1]), teacher))
    torch.testing.assert_close(found, -log_p[0, 1] - (p * log_p).sum())
    found = taught(Task(loss=torch.nn.L1Loss()), output, (torch.tensor([[0.0, 0.0]]), teacher))
    torch.testing.assert_close(found, torch.tensor(0.5 + (4 + 1) / 2))


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (TINY, {"strategy": "progressive-shrinking", "epochs": 5}, "6 stages, .* 5 epochs"),
        (Macro("digits", C=2), SHRINKING, "macro:C=2 cannot shrink: its choices have weights"),
        (TINY, {"strategy": "shrinking"}, "strategy must be one of uniform, fair, progressive"),
        (nasplug.Space({"a": [1, 2]}), {}, "custom builds no networks"),
    ],
)
def test_what_cannot_be_trained_is_said(images, space, options, message):
    with pytest.raises(NasplugError, match=message):
        search(images, space=space, **options)


def test_shrinking_keeps_to_no_part_of_a_space(images):
    few = nasplug.ArchSet(TINY, TINY.sample(3, 0))
    with pytest.raises(NasplugError, match="comes to all archs of a space"):
        search(images, within=few, **SHRINKING)
    method = search(images, within=few).method
    assert few.contains(method.archs).all()
    assert few.contains(drawn(method, 0, 20)).all()


CHECKS = {
    check.__name__: check
    for check in method_checks(registry().get("method", "supernet")(**SHRINKING))
}


@pytest.mark.slow  # a minute: their networks are deep
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_it_behaves(check):
    check()


def test_the_command_line_trains_as_many_epochs_as_it_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("--on manual-irb:C=2,layers=2/digits --set epochs=1 --set batch=500 --out run")
    assert "supernet_acc" in capsys.readouterr().out
    assert (tmp_path / "run" / SUPERNET).exists()
    assert RunDirectory.open(tmp_path / "run").run["options"]["budget"] == 1


def train(options):
    with pytest.raises(SystemExit, match="0"):
        main(["train-supernet", *options.split(), "--no-track"])


@pytest.mark.slow  # a dozen seconds
def test_the_page(tmp_path, monkeypatch):
    """The code and the command of docs/mobile.md, until it comes to earlier runs."""
    page, _, _ = (
        (Path(__file__).parents[3] / "docs" / "mobile.md").read_text().partition("## Scored")
    )
    monkeypatch.chdir(tmp_path)
    code, bash = (
        re.search(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
        for kind in ("python", "bash")
    )
    exec(code, found := {})
    assert found["same"].state_dict().keys() < found["model"].state_dict().keys()
    train(bash.partition("train-supernet")[2])
    assert (tmp_path / "runs" / "supernet" / SUPERNET).exists()
