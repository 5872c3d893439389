"""What a search is for: its result read again, retrained, measured and exported."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import nasplug
from nasplug import NasplugError
from nasplug import nn as nnas


class Net(nn.Module):
    """A choice among values, one among modules, and a depth."""

    def __init__(self):
        super().__init__()
        width = nnas.Choice([4, 6], "width")
        self.stem = nnas.Conv2d(1, width, 3, padding=1)
        self.norm = nnas.BatchNorm2d(width)
        self.act = nnas.Choice({"relu": nn.ReLU(), "gelu": nn.GELU()}, "act")
        self.stages = nnas.Repeat(
            lambda i: nnas.Conv2d(width, width, 3, padding=1), 1, 2, name="depth"
        )
        self.head = nnas.Linear(width, 10)

    def forward(self, x):
        return self.head(self.stages(self.act(self.norm(self.stem(x)))).mean((2, 3)))


def same(loaded, found):
    """Whether a result is what `search` returned."""
    assert [(str(t), t.number, t.value) for t in loaded.ranked()] == [
        (str(t), t.number, t.value) for t in found.ranked()
    ]
    assert loaded.trials.equals(found.trials)
    assert loaded.report == found.report
    assert loaded.run_dir == found.run_dir
    if found.subspace is not None:
        np.testing.assert_array_equal(loaded.subspace.archs, found.subspace.archs)


WORKER = ThreadPoolExecutor(1)  # as quick as this process, and sent to as any other


def agree(one, other, shape):
    x = torch.randn(4, *shape)
    torch.testing.assert_close(one.eval()(x), other.eval()(x), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def digits():
    images = nnas.load("digits")
    return images.train, images.val, images.test


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    """A run of stand-alone trainings on one's own network, and one of a supernet on NB201."""
    folder = tmp_path_factory.mktemp("runs")
    trained = nasplug.search(
        "random", model=Net, data=digits, evaluator="train:epochs=1", budget=3, tracking=False,
        out=folder / "trained",
    )  # fmt: skip
    supernet = nasplug.search(
        "darts", on="nb201:C=4,N=1/digits", budget=1, warmup=0, tracking=False,
        out=folder / "supernet",
    )  # fmt: skip
    return {"trained": trained, "supernet": supernet}


# ---- load


def test_a_loaded_result_is_what_search_returned(runs, monkeypatch):
    found = runs["trained"]
    loaded = nasplug.load(found.run_dir, model=Net)
    same(loaded, found)
    agree(loaded.best.inherit(), found.best.inherit(), (1, 8, 8))
    assert loaded.best.space.flops(loaded.best.arch[None])[0] == found.best.metrics["flops"]
    with pytest.raises(NasplugError, match=r"were not kept: weights\.safetensors has those"):
        loaded.ranked()[-1].inherit()

    monkeypatch.setattr("nasplug.run.api.find_method", None)  # its plugin may be gone
    found = runs["supernet"]
    loaded = nasplug.load(found.run_dir)
    same(loaded, found)
    agree(loaded.best.inherit(), found.best.inherit(), (1, 8, 8))


def test_fronts_and_subspaces_are_loaded(tmp_path):
    space = nasplug.Space({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]})
    front = nasplug.search(
        "nsga2", space=space, evaluate=lambda arch: {"value": arch["a"], "size": arch["a"] ** 2},
        objectives=["value", "-size"], budget=16, tracking=False, out=tmp_path / "front",
    )  # fmt: skip
    loaded = nasplug.load(tmp_path / "front")
    same(loaded, front)
    assert loaded.front.rows() == front.front.rows()
    few = nasplug.search(
        "shrink-top", space=space, evaluate=lambda arch: arch["a"], budget=8, tracking=False,
        out=tmp_path / "few",
    )  # fmt: skip
    same(nasplug.load(tmp_path / "few"), few)
    with pytest.raises(NasplugError, match="cannot build networks"):
        few.best.build()
    with pytest.raises(NasplugError, match=r"holds no weights.*nasplug retrain"):
        nasplug.load(tmp_path / "few").best.inherit()


def test_weights_of_workers_and_of_interrupted_searches_are_kept(tmp_path):
    arguments = {
        "on": "nb201:C=2,N=1/digits", "evaluator": "train:epochs=1", "budget": 3, "tracking": False
    }  # fmt: skip
    whole = nasplug.search("random", **arguments, out=tmp_path / "whole", workers=WORKER)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "weights.safetensors").unlink()
    resumed = nasplug.resume(tmp_path / "again", workers=WORKER)
    expected = whole.best.inherit()
    agree(resumed.best.inherit(), expected, (1, 8, 8))
    agree(nasplug.load(tmp_path / "again").best.inherit(), expected, (1, 8, 8))


def test_what_cannot_be_loaded(runs, tmp_path):
    run_dir = runs["trained"].run_dir
    with pytest.raises(NasplugError, match=r"space of yours.*model=Net"):
        nasplug.load(run_dir)
    with pytest.raises(NasplugError, match="another one than Other"):
        nasplug.load(run_dir, model=Other)
    with pytest.raises(NasplugError, match="is not a run directory"):
        nasplug.load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    (copy / "selection.npz").write_bytes(b"nothing")
    with pytest.raises(NasplugError, match=r"selection.npz cannot be read"):
        nasplug.load(copy, model=Net)
    (copy / "status.json").unlink()
    with pytest.raises(NasplugError, match="has not finished: `nasplug resume"):
        nasplug.load(copy, model=Net)


class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nnas.Linear(64, nnas.Choice([10, 12], "width"))
