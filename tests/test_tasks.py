"""What networks learn: losses, metrics, optimisers and data of one's own, by all methods."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import nasplug
from nasplug import NasplugError
from nasplug.cli import cli

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from sklearn.datasets import load_diabetes  # noqa: E402
from sklearn.metrics import balanced_accuracy_score, r2_score  # noqa: E402
from torch import nn  # noqa: E402

from nasplug import nn as nnas  # noqa: E402
from nasplug.nn import Given, Task, initialise, load, score, train  # noqa: E402

ONE_BY_ONE = {"evaluator": "train:epochs=2"}


class Dense(nn.Module):
    """10 numbers -> one."""

    def __init__(self, outputs=1):
        super().__init__()
        hidden = nnas.Choice([8, 16], "hidden")
        act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, "act")
        self.body = nn.Sequential(nnas.Linear(10, hidden), act, nnas.Linear(hidden, outputs))

    def forward(self, x):
        return self.body(x)


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return x / x.std(0), (y - y.mean()) / y.std()  # float64, (442,)


def search(method, model=Dense, data=None, budget=2, **options):
    supernet = method in ("spos", "gdas", "darts", "ddsas", "ostr-darts", "proxyless")
    if method == "spos":
        options = {"population": 2, "parents": 2, **options}
    options = {**({"epochs": 2} if supernet and method == "spos" else {}), **options}
    if not supernet:
        options = {**ONE_BY_ONE, **options}
    data = diabetes() if data is None else data
    name = "space" if isinstance(model, nasplug.Space) else "model"
    return nasplug.search(
        method, **{name: model}, data=data, budget=budget, tracking=False, **options
    )


# ---- regression


@pytest.mark.parametrize("method", ["random", "regularized-evolution", "spos", "gdas", "darts"])
def test_real_numbers_are_learned_by_their_squared_error(method):
    """Labels (n,) and outputs (n, 1): torch would broadcast them to (n, n), and learn nothing."""
    model = nasplug.space_of(Dense).fixed({"hidden": 16}) if method == "darts" else Dense
    result = search(method, model, budget=4)
    problem = result.search.problem
    assert problem.maximize
    assert problem.reward == ("supernet_r2" if method in ("spos", "gdas", "darts") else "val_r2")
    assert 0.2 < result.best.value < 0.7
    if method != "random":
        return
    model, images = result.best.inherit(), problem.evaluator.images
    x, y = images.normalise(images.val[0]), images.val[1]
    wanted = r2_score(y, model(x).detach()[:, 0])
    assert result.best.value == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("method", ["random", "spos", "darts", "ddsas", "ostr-darts", "proxyless"])
def test_a_loss_that_is_to_be_small_is_minimised(method):
    """The metric of a loss of one's own is that loss, on validation data."""
    space = nasplug.space_of(Dense).fixed({"hidden": 16})
    result = search(method, space, loss=nn.L1Loss(), budget=2)
    values = result.search.trials.values
    assert not result.search.problem.maximize
    assert result.search.problem.reward.endswith("_loss")
    assert result.best.value in values
    assert values.max() < 1
    if method in ("random", "spos"):
        assert result.best.value == values.min()


def test_metrics_and_optimisers_of_ones_own():
    made: list[torch.optim.Optimizer] = []
    seen: list[int] = []

    def optimizer(parameters):
        made.append(torch.optim.Adam(parameters, 0.02))
        return made[-1]

    def worst(output, labels):
        assert output.shape == labels.shape
        seen.append(len(labels))
        return np.abs(output.numpy() - labels.numpy()).max()

    for method in ("random", "spos"):
        made.clear()
        seen.clear()
        options = {"loss": nn.HuberLoss, "metric": worst, "direction": "minimize"}
        result = search(method, optimizer=optimizer, **options)
        assert len(made) == (2 if method == "random" else 1)
        assert result.search.problem.reward.endswith("_worst")
        assert result.best.value == result.search.trials.values.min()
        assert made[0].param_groups[0]["lr"] < 0.02  # it has fallen
        assert {*seen} == {32, 221}  # some before the search; all labels at once


@pytest.mark.parametrize(
    ("name", "of", "maximize"),
    [
        ("r2", lambda y, found: r2_score(y, found, multioutput="variance_weighted"), True),
        ("rmse", lambda y, found: np.sqrt(((y - found) ** 2).mean()), False),
        ("mae", lambda y, found: np.abs(y - found).mean(), False),
    ],
)
def test_metrics_of_real_numbers(name, of, maximize):
    rng = np.random.default_rng(0)
    labels, found = rng.normal(size=(2, 30, 3)).astype("float32")
    task = Task.of(torch.tensor(labels), metric=name)
    halves = [torch.tensor(found[:20]), torch.tensor(found[20:])]
    assert task.score(halves, torch.tensor(labels)) == pytest.approx(of(labels, found), rel=1e-5)
    assert task.maximize is maximize


def test_metrics_of_classes():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, 40), rng.normal(size=(40, 3)).astype("float32")
    data = torch.eye(40), torch.tensor(labels)
    for name, of in {
        "balanced_accuracy": balanced_accuracy_score,
        "accuracy": lambda y, found: (y == found).mean(),
    }.items():
        images = load(Given((data, data), metric=name)).as_given()
        model = nn.Linear(40, 3, bias=False)
        model.weight.data = torch.tensor(scores.T)
        wanted = 100 * of(labels, scores.argmax(1))
        assert score(model, images, images.val) == pytest.approx(wanted)


def test_balanced_weighs_classes_by_the_inverse_of_their_frequency():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    loss = Task.of(labels, "balanced").loss
    assert loss.weight.tolist() == pytest.approx([6 / (3 * 3), 6 / 3, 6 / (3 * 2)])


def test_a_loss_module_with_weights_is_that_of_torch():
    x, y = torch.randn(60, 10), torch.arange(60) % 3
    own = nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 1.0]), label_smoothing=0.1)
    result = search("random", lambda: Dense(3), (x, y), loss=own)
    assert result.search.problem.reward == "val_acc"
    output, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert result.search.problem.evaluator.images.task.cost(output, labels) == own(output, labels)


# ---- several inputs and outputs


class Tagger(nn.Module):
    """Tokens and a number each, by name -> a class for each token, and a number."""

    def __init__(self):
        super().__init__()
        width = nnas.Choice([4, 8], "width")
        self.table = nnas.layer(nn.Embedding, 12, width)
        self.mix = nnas.Choice(
            {"conv": nnas.layer(nn.Conv1d, width, width, 3, padding=1), "skip": nn.Identity()},
            "mix",
        )
        self.head, self.number = nnas.Linear(width, 3), nnas.Linear(width, 1)

    def forward(self, tokens, weights):
        x = self.mix((self.table(tokens) * weights[..., None]).transpose(1, 2)).transpose(1, 2)
        return {"tags": self.head(x).transpose(1, 2), "sum": self.number(x).sum(1)}


def sentences(n=64):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(12, (n, 5), generator=generator)
    inputs = {"tokens": tokens, "weights": torch.ones(n, 5)}
    return inputs, {"tags": tokens % 3, "sum": tokens.sum(1) / 10}


def both(output, labels):
    tags = nn.functional.cross_entropy(output["tags"], labels["tags"])
    return tags + nn.functional.mse_loss(output["sum"][:, 0], labels["sum"])


def right(output, labels):
    assert output["tags"].shape[0] == labels["sum"].shape[0]
    return (output["tags"].argmax(1) == labels["tags"]).float().mean()


class Rows(torch.utils.data.Dataset):
    """The same, item by item."""

    def __len__(self):
        return 64

    def __getitem__(self, i):
        inputs, labels = sentences()
        label = {"tags": labels["tags"][i].tolist(), "sum": float(labels["sum"][i])}
        return {name: x[i].numpy() for name, x in inputs.items()}, label


@pytest.mark.parametrize("method", ["random", "spos", "darts"])
def test_dicts_of_inputs_outputs_and_labels(method):
    space = nasplug.space_of(Tagger).fixed({"width": 8})
    result = search(method, space, sentences(), loss=both, metric=right, budget=3)
    assert result.search.problem.reward.endswith("_right")
    assert 0.2 < result.best.value <= 1
    if method == "darts":
        return
    model, inputs = result.best.inherit(), sentences()[0]
    assert model(**inputs)["tags"].shape == (64, 3, 5)
    assert result.search.space.flops(space.all()).min() > 0  # of an example of both inputs


def test_a_dataset_gives_what_arrays_give(monkeypatch):
    arrays = load(Given(sentences(), both))
    for limit in (2**31, 0):  # bytes that are read at once
        monkeypatch.setattr("nasplug.nn.data.IN_MEMORY", limit)
        rows = load(Given(Rows(), both))
        for a, b in zip(
            nnas.Stream(arrays, arrays.train, 8, 0)[2], nnas.Stream(rows, rows.train, 8, 0)[2],
            strict=True,
        ):  # fmt: skip
            assert a.keys() == b.keys()
            for name, x in a.items():
                assert x.dtype == b[name].dtype
                assert torch.equal(x, b[name])


class Pair(nn.Module):
    """Two inputs by position."""

    def __init__(self):
        super().__init__()
        self.act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, "act")
        self.body = nn.Linear(5, 2)

    def forward(self, x, y):
        return self.body(self.act(torch.cat([x, y.float()], 1)))


def test_tuples_of_inputs():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=generator), torch.randint(9, (40, 2), generator=generator)
    for data in (
        ((x, y), y[:, 0] % 2),
        [((a, b), int(b[0] % 2)) for a, b in zip(x, y, strict=True)],
    ):
        for method in ("random", "spos"):
            assert search(method, Pair, data).best.value >= 0


class Pixels(nn.Module):
    """Images (1, 8, 8) -> the same, or a score of each class for each pixel."""

    def __init__(self, outputs=1):
        super().__init__()
        width = nnas.Choice([2, 4], "width")
        self.body = nn.Sequential(
            nnas.Conv2d(1, width, 3, padding=1), nn.ReLU(), nnas.Conv2d(width, outputs, 1)
        )

    def forward(self, x):
        return self.body(x)


def test_labels_for_each_pixel():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 1, 8, 8, generator=generator)
    found = {}
    for method in ("random", "spos"):
        dense = search(method, Pixels, (x, x[:, 0].abs()))  # (n, 8, 8), and outputs (n, 1, 8, 8)
        assert dense.search.problem.reward.endswith("_r2")
        found[method] = search(method, lambda: Pixels(2), (x, (x[:, 0] > 0).long())).best.value
    assert min(found.values()) > 50  # % of the pixels
    several = (x, (x.mean((2, 3)) > torch.tensor([[-0.1, 0.0, 0.1]])).float())
    space = nasplug.space("nb201:C=2,N=1")
    labels = search("random", space, several, loss=nn.BCEWithLogitsLoss(), budget=1)
    assert labels.search.problem.reward == "val_loss"
    assert labels.best.build()(x).shape == (48, 3)


# ---- built-in spaces


@pytest.mark.parametrize("method", ["random", "spos"])
def test_data_on_a_built_in_space(method):
    x = torch.randn(48, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    space = nasplug.space("nb201:C=2,N=1")
    for labels, outputs in ((torch.arange(48) % 5, 5), (x.mean((1, 2, 3)), 1)):
        result = search(method, space, (x, labels), budget=1)
        assert result.best.build()(x).shape == (48, outputs)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (torch.randn(20, 3, 8), r"take \(channels, height, width\) images, got \(3, 8\)"),
        (torch.randint(9, (20, 7)), r"images, got \(7,\): a network of your own takes anything"),
        ({"x": torch.randn(20, 3, 8, 8)}, "images, got a dict of inputs"),
    ],
)
def test_built_in_spaces_take_images(inputs, said):
    with pytest.raises(NasplugError, match=said):
        search("random", nasplug.space("nb201"), (inputs, torch.arange(20) % 2))


# ---- training


def test_patience_ends_with_the_best_weights():
    images = load(diabetes()).as_given()
    reported = []
    model = initialise(nasplug.space_of(Dense).build([[1, 1]]).train, 0)
    result = train(
        model, images, 60, 0, patience=3, batch_size=32,
        report=lambda epoch, value: reported.append(value),
    )  # fmt: skip
    best = int(np.argmax(reported))
    assert len(reported) == result["epochs"] == best + 1 + 3 < 60
    assert result["value"] == reported[best] == score(model, images, images.val)


def test_options_of_training():
    """Patience leaves no fidelity: its training does not go on. Half precision changes little."""
    problem = nasplug.Problem.of(
        space=nasplug.space_of(Dense), data=diabetes(), evaluator="train:epochs=40,patience=2,amp=1"
    )
    archs = problem.space.all()
    found = problem.score(archs)
    assert problem.fidelity is None
    assert (found.metrics["trained_epochs"] < 40).any()
    whole = nasplug.Problem.of(
        space=problem.space, data=diabetes(), evaluator="train:epochs=40,patience=2,batch=64"
    ).score(archs)
    assert (found.values != whole.values).any()
    np.testing.assert_allclose(found.values, whole.values, atol=0.1)
    with pytest.raises(NasplugError, match="one whole training has a fidelity"):
        problem.reach((1, 4))


# ---- what does not fit


def few(labels):
    return torch.randn(len(labels), 10), labels


REAL, CLASSES = few(torch.rand(30)), few(torch.arange(30) % 3)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (REAL, {"loss": nn.CrossEntropyLoss()}, "loss CrossEntropyLoss fails on .*Float"),
        (REAL, {"loss": lambda o, y: (o - y).abs()}, "returns a tensor of .* must be one number"),
        (REAL, {"loss": lambda o, y: 3.0}, "loss of yours returns 3.0 on .* must be one n"),
        (REAL, {"loss": lambda o, y: y.mean()}, "does not depend on the network"),
        (REAL, {"loss": "L1"}, "loss must be a function .*; got 'L1'"),
        (REAL, {"loss": "balanced"}, "'balanced' is about class labels"),
        (REAL, {"metric": "r3"}, "unknown metric 'r3'; did you mean r2"),
        (REAL, {"metric": 3}, "metric must be a function or a name, got 3"),
        (REAL, {"metric": lambda o, y: "good"}, "metric metric returns 'good', no number"),
        (REAL, {"metric": lambda o, y: 1 / 0}, "metric metric fails on .*ZeroDivisionError"),
        (REAL, {"metric": "r2", "direction": "minimize"}, "r2 is better when it is higher"),
        (REAL, {"optimizer": 3}, "optimizer must be a function of the parameters .* got 3"),
        (REAL, {"optimizer": torch.optim.Adam, "evaluator": "train:lr=1"}, "leave it to yours"),
        (REAL, {"evaluator": "train:amp=2"}, "amp=1 trains in mixed precision"),
        (CLASSES, {}, r"labels of \(15,\) with 3 classes need an output of \(15, 3\), a score"),
        (CLASSES, {"loss": nn.CrossEntropyLoss()}, "CrossEntropyLoss fails on .*out of bounds"),
        (few(torch.arange(30) - 1), {}, "class labels are whole numbers from 0 on.* got -1"),
        ((REAL[0], {"a": REAL[1]}), {}, "need a loss of yours"),
        (few(torch.rand(30, 2)), {}, r"labels of \(15, 2\) real numbers need an output of that sh"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_the_search(data, options, said):
    with pytest.raises(NasplugError, match=said):
        search("random", data=data, **options)


def test_networks_are_made_on_the_cpu():
    class Elsewhere(Dense):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(1, device="meta"))

    with pytest.raises(NasplugError, match="weights or buffers on meta: make them on the CPU"):
        search("random", Elsewhere)


def test_losses_are_about_data():
    space = nasplug.Space({"x": [1, 2]})
    with pytest.raises(NasplugError, match="loss= is about data="):
        nasplug.search("random", space=space, evaluate=len, loss=nn.MSELoss(), budget=1)


def test_what_goes_wrong_in_training_is_a_failed_trial():
    """A metric that is not finite, and an optimiser that is none; a loss that diverges."""
    for options, said in (
        ({"metric": lambda o, y: float("nan")}, "metric metric is nan"),
        ({"optimizer": lambda p: [*p]}, "optimizer=of yours returns list, no torch optimizer"),
        ({"evaluator": "train:lr=1e30"}, "the loss is (inf|nan) in epoch 0: lower lr"),
    ):
        with pytest.raises(NasplugError, match=f"every trial failed; the last said: .*{said}"):
            search("random", **options)


def test_labels_far_from_zero_are_warned_of(caplog):
    x, y = load_diabetes(return_X_y=True)
    load((x, y))
    assert "labels of mean 152 and spread 77.1" in caplog.text
    assert "scale them" in caplog.text


# ---- by names, on disk


MODELS = """
import torch
from torch import nn
from tests.test_tasks import Dense as Net, diabetes as load

def loss(output, labels):
    return (output - labels).abs().mean()

def worst(output, labels):
    return (output - labels).abs().max()

def adam(parameters):
    return torch.optim.Adam(parameters, 0.02)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "task_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("task_models", None)


def run(*arguments):
    done = CliRunner().invoke(cli, [*arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


NAMED = ("--model", "task_models:Net", "--data", "task_models:load")
LEARNED = ("--loss", "task_models:loss", "--metric", "task_models:worst", "--optimizer",
           "task_models:adam", "--direction", "minimize")  # fmt: skip


def test_the_command_line_runs_and_resumes_by_name(package):
    more = ("--budget", "3", "--evaluator", "train:epochs=1", "--out", "r", "--no-track")
    first = run("run", "random", *NAMED, *LEARNED, *more)
    written = json.loads((package / "r" / "run.json").read_text())
    assert [written[name] for name in ("loss", "metric", "optimizer")] == [*LEARNED[1:6:2]]
    assert written["direction"] == "minimize"
    assert written["scores"]["reward"] == "val_worst"
    assert not written["scores"]["maximize"]
    assert run("resume", "r") == first
    options = {"model": Dense, "data": diabetes(), "loss": nn.L1Loss, "out": "s"}
    nasplug.search("random", budget=2, tracking=False, **ONE_BY_ONE, **options)
    with pytest.raises(NasplugError, match=r"with loss of yours: nasplug.resume\(run_dir, loss=l"):
        nasplug.resume("s", model=Dense, data=diabetes())
    again = nasplug.resume("s", model=Dense, data=diabetes(), loss=nn.L1Loss)
    assert again.search.problem.reward == "val_loss"


def test_tune_takes_a_network_by_name(package):
    pytest.importorskip("optuna")
    out = ("--out", "t", "--no-track", "--json")
    more = ("--trials", "2", "--seeds", "1", "--budget", "2", "--evaluator", "train:epochs=1")
    run("tune", "regularized-evolution", *NAMED, *LEARNED, *more, *out)
    assert json.loads((package / "t" / "best.json").read_text())["hyperparameters"]
    about = json.loads((package / "t" / "study.json").read_text())
    assert (about["problem"], about["reward"], about["maximized"]) == (
        "Dense/data", "val_worst", False,
    )  # fmt: skip
    with pytest.raises(NasplugError, match="--model and --data belong together"):
        run("tune", "random", *NAMED[:2])


# ---- ranges


def test_ranges():
    assert nasplug.Range(1e-4, 1e-1, log=True, steps=4) == (0.0001, 0.001, 0.01, 0.1)
    assert nasplug.Range(0, 1, steps=3) == (0, 1)  # whole numbers
    assert nasplug.Range(0.0, 1.0, steps=4) == (0.0, 0.3333, 0.6667, 1.0)
    assert nasplug.Range(8, 64, log=True, steps=4) == (8, 16, 32, 64)
    space = nasplug.Space({"lr": nasplug.Range(1e-4, 1e-1, log=True, steps=8), "act": ["relu"]})
    assert space.to_str([2, 0]) == "lr=0.0007197,act=relu"
    assert space.from_str("lr=0.0007197,act=relu").tolist() == [2, 0]
    for wrong in ((1, 1), (2, 1), ("a", 2), (0, float("inf")), (True, 3)):
        with pytest.raises(NasplugError, match="Range"):
            nasplug.Range(*wrong)
    for options in ({"log": True}, {"steps": 1}, {"steps": 2.5}):
        with pytest.raises(NasplugError, match="Range"):
            nasplug.Range(0.0, 1.0, **options)
    with pytest.raises(NasplugError, match="take fewer steps"):
        nasplug.Range(1.0, 1.001, steps=9)


def test_a_range_in_a_network():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            hidden = nnas.Choice(nasplug.Range(4, 16, steps=3), "hidden")
            rate = nnas.Choice(nasplug.Range(0.0, 0.5, steps=3), "rate")
            self.body = nn.Sequential(
                nnas.Linear(10, hidden), nnas.layer(nn.Dropout, rate), nnas.Linear(hidden, 1)
            )

        def forward(self, x):
            return self.body(x)

    for method in ("random", "spos"):
        best = search(method, Dropped).best
        assert best.params["hidden"] in (4, 10, 16)
        assert best.build().body[1].p == best.params["rate"]


# ---- choices that do not count


class Block(nn.Module):
    def __init__(self, i):
        super().__init__()
        width = nnas.Choice([4, 8], f"width{i}")
        act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, f"act{i}")
        self.body = nn.Sequential(nnas.Linear(10, width), act, nnas.Linear(width, 10))

    def forward(self, x):
        return x + self.body(x)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nnas.Repeat(Block, 1, 3, name="depth")
        self.head = nn.Linear(10, 1)

    def forward(self, x):
        return self.head(self.stages(x))


@pytest.mark.parametrize(
    "method", ["random", "regularized-evolution", "dsm", "lissnas", "spos", "local-search"]
)
def test_widths_of_blocks_that_are_not_there_do_not_count(method):
    """Named by their index, 4 options a block: 4 + 16 + 64 networks of 192 archs; none is scored
    twice, and what a method is told of one holds for all."""
    space = nasplug.space_of(Deep)
    archs = space.all()
    depths = archs[:, space.names.index("depth")] + 1
    assert len(archs) == 192
    own = space.canonical(archs)
    assert len(np.unique(own, axis=0)) == 84
    for i in range(3):
        columns = [space.names.index(f"{name}{i}") for name in ("width", "act")]
        assert (own[depths <= i][:, columns] == 0).all()
        assert (own[depths > i][:, columns] == archs[depths > i][:, columns]).all()
    scored = []

    def evaluate(arch):
        scored.append(tuple(space.canonical(space.from_dict(arch)[None])[0]))
        return sum(4 + (arch[f"width{i}"] == 8) for i in range(arch["depth"]))

    if method == "spos":
        result = search("spos", space, budget=12, population=4)
        classes = result.search.space.classes(result.search.trials.archs)
        assert len({*classes.tolist()}) == len(classes)
        return
    options = {"size": 20} if method == "lissnas" else {}
    nasplug.search(method, space=space, evaluate=evaluate, budget=60, tracking=False, **options)
    assert len({*scored}) == len(scored)
