"""Searches by supernet, end to end: resumed to the last bit, better than random, table unread."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

import nasplug
from nasplug.run.directory import RunDirectory

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("nasplug_ddsas")
pytest.importorskip("nasplug_darts")
pytest.importorskip("nasplug_ostr")

import torch
from torch.utils.data import TensorDataset

from nasplug.nn.data import digits
from nasplug.nn.training import initialise, train

SEARCH = """
import sys, nasplug
name, out, options = sys.argv[1], sys.argv[2], dict(a.split("=") for a in sys.argv[3:])
nasplug.search(name, on="nb201/digits", budget=8, seed=3, out=out, tracking=False,
               C="2", layers="1", batch="128", **options)
"""


def command(name, out, options):
    return [sys.executable, "-c", SEARCH, name, str(out), *options]


def scored(out):
    try:
        with sqlite3.connect(f"file:{out}/journal.sqlite?mode=ro", uri=True) as journal:
            return journal.execute("SELECT count(*) FROM trials").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def leaves(tree, path=""):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from leaves(value, f"{path}/{key}")
        else:
            yield f"{path}/{key}", np.asarray(value)


@pytest.mark.parametrize(
    ("name", "options"),
    [("ddsas", ["M=4", "mode=shrink", "period=3"]), ("gdas", [])],
)
def test_killed_and_resumed_is_never_killed(tmp_path, name, options):
    subprocess.run(command(name, tmp_path / "whole", options), check=True)
    process = subprocess.Popen(command(name, tmp_path / "killed", options))
    try:
        while scored(tmp_path / "killed") < 3 and process.poll() is None:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 3 <= scored(tmp_path / "killed") < 8
    resumed = nasplug.resume(tmp_path / "killed")
    states = [
        dict(leaves(RunDirectory(tmp_path / part).load_checkpoint()))
        for part in ("whole", "killed")
    ]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][key], err_msg=key)
    whole = [row["value"] for row in RunDirectory(tmp_path / "whole").rows()]
    assert resumed.search.trials.values.tolist() == whole
    assert scored(tmp_path / "killed") == 8


class Interrupt:
    """Ctrl-C after the second epoch."""

    @nasplug.hookimpl(trylast=True)
    def update(self, search, trials):
        if search.finished == 2:
            raise KeyboardInterrupt


def test_a_dataset_of_ones_own_and_resumed_with_it(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(96, 3, 8, 8, generator=generator)
    mine = TensorDataset(images, torch.randint(3, (96,), generator=generator))
    options = {"space": nasplug.space("nb201"), "budget": 4, "tracking": False}
    options |= {"C": 2, "layers": 1, "batch": 16, "M": 2}
    whole = nasplug.search("ddsas", data=mine, **options)
    assert whole.best.build(num_classes=3)(images[:2]).shape == (2, 3)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        nasplug.search("ddsas", data=mine, out=out, plugins=[Interrupt()], **options)
    resumed = nasplug.resume(out, data=mine)
    np.testing.assert_array_equal(resumed.search.trials.values, whole.search.trials.values)
    np.testing.assert_array_equal(resumed.search.trials.archs, whole.search.trials.archs)
    with pytest.raises(nasplug.NasplugError, match="once more to resume"):
        nasplug.resume(out)
    with pytest.raises(nasplug.NasplugError, match="lr is no source of ddsas"):
        nasplug.resume(out, data=mine, lr=1)
    with pytest.raises(nasplug.NasplugError, match=r"on what\? Give data="):
        nasplug.search("ddsas", **options)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(torch.zeros(8, 3, 8, 8), torch.zeros(8)), "a class label, a whole number"),
        (TensorDataset(torch.zeros(0, 3, 8, 8), torch.zeros(0).long()), "pairs of an image"),
        ([1, 2, 3], "pairs of an image"),
        (TensorDataset(torch.zeros(8, 8), torch.zeros(8).long()), "height, width"),
        ([(torch.zeros(3, 8, 8 + i), 0) for i in range(8)], "images of one shape"),
        (TensorDataset(torch.full((8, 3, 8, 8), torch.inf), torch.zeros(8).long()), "are finite"),
    ],
)
def test_a_dataset_that_does_not_fit_is_named(dataset, message):
    options = {"C": 2, "layers": 1, "budget": 1, "tracking": False}
    with pytest.raises(nasplug.NasplugError, match=message):
        nasplug.search("ddsas", space=nasplug.space("nb201"), data=dataset, **options)


def test_the_table_is_looked_up_and_never_used(nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    sizes = {"C": 2, "layers": 1, "batch": 256}
    searches = [
        nasplug.search("ostr-darts", on=on, budget=2, tracking=False, data=data, **sizes)
        for on, data in (("nb201/toy", digits()), ("nb201/digits", None))
    ]
    selection = searches[0]
    trials = selection.search.trials
    assert np.isfinite(trials.reports).all()
    for arch, report in zip(trials.archs, trials.reports, strict=True):
        assert report == pytest.approx(80 + 2 * ((arch == 3).sum() + 0.1 * (arch == 1).sum()))
    assert set(trials.metrics) >= {f"{name}.test_acc@200" for name in ("strength", "naive")} | {
        "val_acc@12"
    }
    np.testing.assert_array_equal(trials.archs, searches[1].search.trials.archs)


MARGIN = 3.0  # percentage points


def test_searched_cells_beat_random_ones_on_digits():
    """Validation accuracy after the same short training from scratch; the mean of 20 random."""
    space = nasplug.space("nb201")
    data = digits()

    def score(arch):
        model = initialise(lambda: space.build(arch, C=8, N=1, in_channels=1), 0)
        return train(model, data, epochs=3, seed=0)["value"]

    random = np.mean([score(arch) for arch in space.sample(20, seed=0)])
    for name, options in (("ddsas", {"M": 10}), ("ostr-darts", {})):
        selection = nasplug.search(
            name, on="nb201/digits", budget=12, tracking=False, C=4, batch=64, **options
        )
        found = score(selection.best.arch)
        assert found > random + MARGIN, (name, found, random)
