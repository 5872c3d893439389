"""What a search is for: its result read again, retrained, measured and exported."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nasplug
from nasplug import NasplugError
from nasplug import nn as nnas
from nasplug.cli import main
from nasplug.deploy.export import FORMATS
from nasplug.deploy.fit import fit
from nasplug.deploy.recipes import RECIPES, DropPath, cut_out
from nasplug.deploy.winner import Network


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


# ---- retrain


def retrained(run, tmp_path, name="run", **arguments):
    """A retraining of a copy of a run."""
    shutil.copytree(run.run_dir, tmp_path / name)
    shutil.rmtree(tmp_path / name / "retrain", ignore_errors=True)
    return nasplug.retrain(tmp_path / name, tracking=False, **arguments)


def test_a_winner_is_retrained_by_a_recipe(runs, tmp_path):
    recipe = "darts"
    done = retrained(runs["supernet"], tmp_path, recipe=recipe, epochs=1)
    assert {"weights.safetensors", "retrain.json", "curve.csv", "curve.png"} <= {
        file.name for file in done.path.iterdir()
    }
    assert not (done.path / "checkpoint.pt").exists()
    about = json.loads((done.path / "retrain.json").read_text())
    assert about["recipe"] == recipe
    assert about["settings"]["epochs"] == 1
    assert about["settings"]["batch"] == RECIPES[recipe].batch
    assert about["result"] == done.result
    measured = nasplug.evaluate(tmp_path / "run")
    assert measured["weights"] == "retrained"
    assert measured["test_acc"] == pytest.approx(done.result["test_acc"])
    assert measured["params"] == done.result["params"]
    assert set(measured["per_class"]) == set(range(10))


KILLED = """
import json, os, signal, sys
import nasplug
from nasplug.nn import Images, load

augment, digits = Images.augment, load("digits")
few = tuple((x[:96], y[:96]) for x, y in (digits.train, digits.val, digits.test))
for batches, arguments in ((3, json.loads(sys.argv[2])), (4, {"resume": True})):  # 2 an epoch
    if child := os.fork():  # torch has not done anything yet
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    left = [batches]

    def augment_until(self, images, generator):
        left[0] -= 1
        left[0] or os.kill(os.getpid(), signal.SIGKILL)
        return augment(self, images, generator)

    Images.augment = augment_until
    nasplug.retrain(sys.argv[1], tracking=False, data=few, **arguments)
    os._exit(0)
"""


def test_a_killed_retraining_ends_with_the_same_weights(runs, digits, tmp_path):
    """kill -9 in the midst of an epoch, twice; with everything that could differ."""
    arguments = {"recipe": "mobile", "epochs": 3, "seed": 5}
    few = tuple((x[:96], y[:96]) for x, y in digits)
    whole = retrained(runs["supernet"], tmp_path, "whole", data=few, **arguments)
    run_dir = tmp_path / "killed"
    shutil.copytree(runs["supernet"].run_dir, run_dir)
    answer = subprocess.run(
        [sys.executable, "-c", KILLED, str(run_dir), json.dumps(arguments)], check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert answer.stdout.split() == [str(-signal.SIGKILL)] * 2, answer.stderr
    assert (run_dir / "retrain" / "checkpoint.pt").exists()
    with pytest.raises(NasplugError, match=r"has not finished: .*--resume` goes on"):
        nasplug.retrain(run_dir)
    with pytest.raises(NasplugError, match="has not finished"):
        nasplug.export(run_dir, "state", tmp_path / "x.safetensors")
    with pytest.raises(NasplugError, match="is trained with epochs 3, not 4"):
        nasplug.retrain(run_dir, resume=True, epochs=4)
    with pytest.raises(NasplugError, match="is trained on other data than these"):
        nasplug.retrain(run_dir, resume=True)
    done = nasplug.retrain(run_dir, resume=True, data=few, tracking=False)
    files = [one.path / "weights.safetensors" for one in (whole, done)]
    assert files[0].read_bytes() == files[1].read_bytes()
    curves = [(one.path / "curve.csv").read_text().splitlines() for one in (whole, done)]
    assert [row.split(",")[:4] for row in curves[0]] == [row.split(",")[:4] for row in curves[1]]


def test_the_recipe_of_darts_has_an_auxiliary_head_and_drops_paths():
    space = nasplug.space("darts:C=4,layers=3").for_data("digits")
    model = space.build(space.sample(1, 0)[0])
    names = set(model.state_dict())
    watched, head = model.auxiliary()
    assert watched is model.cells[2]
    assert head(torch.randn(3, 4 * 4 * 4, 2, 2)).shape == (3, 10)
    large = nasplug.space("darts:C=4,layers=3").for_data("cifar10")
    network = large.build(large.sample(1, 0)[0])
    seen = torch.randn(2, network.classifier.in_features, 8, 8)
    assert network.auxiliary()[1](seen).shape == (2, 10)
    images = nnas.load("digits")
    recipe = RECIPES["darts"]
    assert set(fit(model, images, _shorter(recipe, 1), 0).state_dict()) == names
    drop = DropPath()
    drop.share = 0.5
    x = torch.ones(400, 2, 3, 3)
    dropped = drop(nn.Identity().train(), (), x)[:, 0, 0, 0]
    assert set(dropped.tolist()) == {0.0, 2.0}
    assert 120 < int((dropped > 0).sum()) < 280
    assert drop(nn.Identity().eval(), (), x) is x


def test_cutout_blanks_a_square_that_may_reach_over_the_border():
    torch.manual_seed(0)
    images = torch.ones(200, 3, 8, 8)
    holes = (cut_out(images, 0.5) == 0)[:, 0]
    assert ((cut_out(images, 0.5) == 0).float().mean((2, 3)).amax() <= 16 / 64).item()
    assert {int(n) for n in holes.sum((1, 2))} > {16}
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert (holes.sum((1, 2)) == rows * columns).all()


def _shorter(recipe, epochs):
    from dataclasses import replace

    return replace(recipe, epochs=epochs)


# ---- export


def test_every_option_of_every_choice_is_exported_as_it_computes(tmp_path):
    """Built with the supernet's weights, inherited, and written in each format."""
    space = nasplug.space_of(Net, example=torch.randn(2, 1, 8, 8))
    images = nnas.load("digits")
    net = space.supernet()
    archs = np.array([[0, 0, 0], [1, 1, 1]])
    seen = {name: set() for name in space.names}
    for i, arch in enumerate(archs):
        for name, choice in space.to_dict(arch).items():
            seen[name].add(choice)
        inherited = nnas.recalibrate(net.inherit(arch), images)
        built = space.build(arch)
        built.load_state_dict(inherited.state_dict())
        agree(built, inherited, (1, 8, 8))
        about = {"choices": "", "search": {"method": "", "problem": ""}}
        network = Network(built.eval(), space, arch, space.inputs, about)
        for suffix, write in FORMATS.values():
            assert write(network, tmp_path / f"net{i}{suffix}") <= 1e-5
    assert all(seen[name] == set(space.decisions[name]) for name in space.names)


FRESH = """
import json, sys
sys.modules["nasplug"] = None  # cannot be imported
import torch
x, wanted = torch.load("batch.pt", weights_only=True)
notes = {}

import onnx, onnxruntime
session = onnxruntime.InferenceSession("net.onnx")
found = {"onnx": torch.tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])}
notes["onnx"] = {p.key: p.value for p in onnx.load("net.onnx").metadata_props}["nasplug"]

extra = {"nasplug": ""}
found["export"] = torch.export.load("net.pt2", extra_files=extra).module()(x)
notes["export"] = extra["nasplug"]

sys.path.insert(0, "")
import net
found["python"] = net.load()(x)
notes["python"] = net.ABOUT

from safetensors import safe_open
from safetensors.torch import load_file
model = net.build()
model.load_state_dict(load_file("state.safetensors"))
found["state"] = model.eval()(x)
notes["state"] = safe_open("state.safetensors", "pt").metadata()["nasplug"]
assert json.loads(notes["state"]) == json.load(open("state.json"))

for name, output in found.items():
    torch.testing.assert_close(output, wanted, rtol=0, atol=1e-5)
print(json.dumps({name: json.loads(note) for name, note in notes.items()}))
"""


def test_what_was_exported_loads_in_a_process_without_nasplug(runs, digits, tmp_path):
    run = runs["trained"]
    done = retrained(run, tmp_path, epochs=1, model=Net, data=digits)
    files = {
        "onnx": "net.onnx",
        "export": "net.pt2",
        "state": "state.safetensors",
        "python": "net.py",
    }
    for name, file in files.items():
        written = nasplug.export(tmp_path / "run", name, tmp_path / file, model=Net)
        assert written["max_difference"] < 1e-5
        assert all(Path(one).exists() for one in written["files"])
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.save((x, done.model()(x)), tmp_path / "batch.pt")
    answer = subprocess.run(
        [sys.executable, "-c", FRESH], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    notes = json.loads(answer.stdout.splitlines()[-1])
    assert set(notes) == set(FORMATS)
    for note in notes.values():
        assert note["search"]["method"] == "random"
        assert note["trial"]["number"] == run.best.number
        assert note["retraining"]["recipe"] == "plain"
        assert note["data"] == done.about["data"]["digest"]
        assert note["torch"] == torch.__version__
        assert note["choices"] == str(run.best)
    with pytest.raises(NasplugError, match="does not say by name what it trained on"):
        nasplug.evaluate(tmp_path / "run", model=Net)


class Switch(nn.Module):
    """What it does depends on its inputs' values."""

    def __init__(self):
        super().__init__()
        self.head = nnas.Linear(64, 10, bias=nnas.Choice([True, False], "bias"))

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x if x.mean() > 0 else -x)


def test_what_cannot_be_written_says_why(tmp_path, digits):
    run = nasplug.search(
        "random", model=Switch, data=digits, evaluator="train:epochs=1", budget=1, tracking=False,
        out=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(NasplugError, match=r"the network \(Switch\) cannot be written as Python"):
        nasplug.export(run, "python", tmp_path / "net.py")
    with pytest.raises(NasplugError, match=r"torch.export cannot follow the network.*state"):
        nasplug.export(run, "export", tmp_path / "net.pt2")
    assert nasplug.export(run, "state", tmp_path / "net.safetensors")["max_difference"] == 0
    assert not list(tmp_path.glob("net.p*"))


# ---- the command line, the page, and what is refused


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    page = Path(nasplug.__file__).parents[1] / "docs" / "deploy.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["written"]["files"] == ["net.py", "net.pt"]


def command(capsys, *arguments):
    """The exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code, *capsys.readouterr()


def test_the_commands(runs, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(runs["supernet"].run_dir, run_dir)
    code, out, _ = command(capsys, "evaluate", run_dir, "--json")
    assert (code, json.loads(out)["weights"]) == (0, "inherited")
    code, out, _ = command(capsys, "retrain", run_dir, "--epochs", 1, "--no-track", "--json")
    assert code == 0
    assert json.loads(out)["epochs"] == 1
    code, out, _ = command(capsys, "evaluate", run_dir)
    assert code == 0
    assert "retrained" in out
    code, out, _ = command(
        capsys, "export", run_dir, "--format", "python", "--out", tmp_path / "net.py"
    )
    assert code == 0
    assert "net.pt" in out
    text = (tmp_path / "net.py").read_text()
    assert "class Cell(Parts):" in text
    assert "import nasplug" not in text


def test_bad_input_is_one_message(runs, tmp_path, capsys):
    def refused(*arguments):
        code, out, said = command(capsys, *arguments)
        assert (code, out, said.count("error:")) == (2, "", 1)
        return said

    run_dir = tmp_path / "run"
    shutil.copytree(runs["supernet"].run_dir, run_dir)
    file = tmp_path / "net.py"
    assert "unknown format 'pickle'" in refused(
        "export", run_dir, "--format", "pickle", "--out", file
    )
    assert "ends with .onnx" in refused("export", run_dir, "--format", "onnx", "--out", file)
    assert "cannot be imported" in refused(
        "export", run_dir, "--format", "python", "--out", tmp_path / "my-net.py"
    )
    file.touch()
    assert "exists" in refused("export", run_dir, "--format", "python", "--out", file)
    assert "unknown recipe 'dart'; did you mean darts?" in refused(
        "retrain", run_dir, "--recipe", "dart"
    )
    assert "epochs must be a whole number" in refused("retrain", run_dir, "--epochs", 0)
    assert "no retraining to go on with" in refused("retrain", run_dir, "--resume")
    assert not (run_dir / "retrain").exists()
    large = (np.zeros((20, 1, 16, 16), np.float32), np.arange(20) % 10)
    with pytest.raises(NasplugError, match=r"takes inputs of .*8, 8.*the data have .*16, 16"):
        nasplug.evaluate(run_dir, data=large)

    # a checkpoint of another arch
    other = runs["trained"].run_dir / "weights.safetensors"
    shutil.copy(other, run_dir / "weights.safetensors")
    assert "weights.safetensors" in refused("evaluate", run_dir)
    nasplug.retrain(run_dir, epochs=1, tracking=False)
    about = json.loads((run_dir / "retrain" / "retrain.json").read_text())
    about["arch"] = [0] * 6
    (run_dir / "retrain" / "retrain.json").write_text(json.dumps(about))
    assert "a retraining of another arch" in refused("evaluate", run_dir)
    (run_dir / "status.json").unlink()
    for arguments in (["retrain"], ["evaluate"], ["export", "--format", "state", "--out", "x"]):
        assert "has not finished: `nasplug resume" in refused(arguments[0], run_dir, *arguments[1:])


def test_a_table_without_networks_has_nothing_to_retrain(tmp_path):
    space = nasplug.Space({"a": [1, 2]})
    run = nasplug.search(
        "random", space=space, evaluate=lambda arch: arch["a"], budget=2, tracking=False,
        out=tmp_path / "run",
    )  # fmt: skip
    for act in (nasplug.retrain, nasplug.evaluate):
        with pytest.raises(NasplugError, match="builds no networks"):
            act(run)
    built = nasplug.search(
        "random", space=nasplug.space("nb201:C=2,N=1"), evaluate=lambda arch: 0.0, budget=1,
        tracking=False, out=tmp_path / "built",
    )  # fmt: skip
    with pytest.raises(NasplugError, match="does not say by name what it trained on"):
        nasplug.retrain(built)
    with pytest.raises(NasplugError, match=r"holds no weights.*nasplug retrain"):
        nasplug.export(built, "state", tmp_path / "x.safetensors")
    done = nasplug.retrain(built, data="digits", epochs=1, tracking=False)
    assert done.model()(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(NasplugError, match="has no run directory"):
        nasplug.retrain(nasplug.search(
            "random", space=space, evaluate=lambda arch: arch["a"], budget=2, tracking=False
        ))  # fmt: skip


@pytest.mark.slow  # MLflow and torch are imported by the tracking process, which exports again
def test_a_retraining_is_a_child_run_and_its_network_a_model(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    from nasplug.tracking import sync

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = nasplug.search(
        "darts", on="nb201:C=2,N=1/digits", budget=1, warmup=0, out=tmp_path / "run"
    )
    searched = sync(run.run_dir)
    nasplug.retrain(run, epochs=2)
    sent = sync(run.run_dir / "retrain")
    assert sent["complete"]
    client = MlflowClient(uri)
    found = client.get_run(sent["run_id"])
    assert found.data.tags["mlflow.parentRunId"] == searched["run_id"]
    assert found.data.params["recipe"] == "plain"
    assert len(client.get_metric_history(sent["run_id"], "test_acc")) == 2
    (version,) = client.search_model_versions("name='darts-nb201-C-2-N-1-digits'")
    assert version.run_id == sent["run_id"]
