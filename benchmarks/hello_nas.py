"""NNI's Hello-NAS example in nasplug's marks and in Optuna's define-by-run: lines, and accuracy.

    python benchmarks/hello_nas.py --seeds 5 --out benchmarks/results/hello_nas.json

The network of microsoft/nni's examples/tutorials/hello_nas.py for 8x8 images: a second convolution
that is plain or depthwise separable, one of three dropouts, one of three widths of the first linear
layer: 18 networks. All are trained alike, by the tutorial's Adam (5 epochs on digits), searched by
validation accuracy for the same number of trials, and the best is trained anew with another seed
for its test accuracy. What two ways train alike is trained once. `spos` trains one supernet, for
all of its trials. Optuna's TPE draws its first ten trials at random: these are all it has here.

Lines of code are those of the network and of the search that are neither blank, comment nor
docstring, as `ast.unparse` writes them; how a network is trained is the same for all. --nni FILE
counts them in the tutorial's source, too. Last line: one JSON object.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ast
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu

import nasplug
from nasplug import nn as nnas

EPOCHS, BATCH, LR = 5, 64, 1e-3
BUDGET = 8
TESTED = 100  # added to the seed of the training that is tested

Score = Callable[[Callable[[], nn.Module]], float]


class DepthwiseSeparable(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 3, groups=c_in)
        self.pointwise = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


# ---- nasplug


class Marked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        feature = nnas.Choice([64, 128, 256], "feature")
        convolutions = {"conv": nn.Conv2d(32, 64, 3), "depthwise": DepthwiseSeparable(32, 64)}
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nnas.Choice(convolutions, "conv2")
        self.dropout1 = nnas.layer(nn.Dropout, nnas.Choice([0.25, 0.5, 0.75], "dropout"))
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nnas.Linear(256, feature)
        self.fc2 = nnas.Linear(feature, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv1(x))
        x = max_pool2d(self.conv2(x), 2)
        x = torch.flatten(self.dropout1(x), 1)
        return self.fc2(self.dropout2(relu(self.fc1(x))))


def search_by_nasplug(method: str, score: Score, seed: int) -> Any:
    space = nasplug.space_of(Marked)
    found = nasplug.search(
        method, space=space, evaluate=lambda arch: score(lambda: space.build(arch)),
        budget=BUDGET, seed=seed, tracking=False,
    )  # fmt: skip
    return found.best.build


# ---- Optuna


class Defined(nn.Module):
    def __init__(self, trial: optuna.trial.BaseTrial) -> None:
        super().__init__()
        feature = trial.suggest_categorical("feature", [64, 128, 256])
        self.conv1 = nn.Conv2d(1, 32, 3)
        if trial.suggest_categorical("conv2", ["conv", "depthwise"]) == "conv":
            self.conv2 = nn.Conv2d(32, 64, 3)
        else:
            self.conv2 = DepthwiseSeparable(32, 64)
        self.dropout1 = nn.Dropout(trial.suggest_categorical("dropout", [0.25, 0.5, 0.75]))
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(256, feature)
        self.fc2 = nn.Linear(feature, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv1(x))
        x = max_pool2d(self.conv2(x), 2)
        x = torch.flatten(self.dropout1(x), 1)
        return self.fc2(self.dropout2(relu(self.fc1(x))))


def search_by_optuna(sampler: str, score: Score, seed: int) -> Any:
    made = getattr(optuna.samplers, sampler)(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=made)
    study.optimize(lambda trial: score(lambda: Defined(trial)), n_trials=BUDGET)
    return lambda: Defined(optuna.trial.FixedTrial(study.best_params))


# ---- one supernet for all trials


def search_by_supernet(method: str, data: nnas.Images, seed: int) -> Any:
    found = nasplug.search(
        method, space=nasplug.space_of(Marked), data=data, budget=BUDGET, seed=seed,
        epochs=3 * EPOCHS, population=4, parents=2, tracking=False,
    )  # fmt: skip
    return found.best.build


# ---- the same for all


trainings: dict[Any, nn.Module] = {}  # {(layers, training images, seed): network}


def trained(build: Callable[[], nn.Module], data: nnas.Images, seed: int) -> nn.Module:
    model = nnas.initialise(build, seed)
    key = str([*model.children()]), id(data), seed
    if key in trainings:
        return trainings[key]
    trainings[key] = model
    optimiser = torch.optim.Adam(model.parameters(), LR)
    images, labels = data.train
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of the dropout
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return model


@torch.no_grad()
def right(model: nn.Module, part: Any) -> float:
    return 100 * float((model.eval()(part[0]).argmax(1) == part[1]).float().mean())


def tested(build: Callable[[], nn.Module], data: nnas.Images, seed: int) -> float:
    return right(trained(build, data, TESTED + seed), data.test)


# ---- lines


def code_lines(*sources: Any) -> int:
    """Of classes and functions, or of parts of a syntax tree."""
    total = 0
    for source in sources:
        tree = source if isinstance(source, ast.AST) else ast.parse(inspect.getsource(source))
        text = ast.unparse(tree)
        total += sum(bool(line.strip()) for line in text.splitlines())
    return total


def nni_lines(file: Path) -> dict[str, int]:
    """The tutorial's network, and what it does to search it: strategy, evaluator, experiment."""
    tree = ast.parse(file.read_text())
    network = [
        node for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in ("DepthwiseSeparableConv", "ModelSpace")
    ]  # fmt: skip
    search = [
        node for node in tree.body
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Name))
    ]  # fmt: skip
    return {"network": code_lines(*network), "search": code_lines(*search)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nni", type=Path, help="the tutorial's source")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lines = {
        "nasplug": {
            "network": code_lines(DepthwiseSeparable, Marked),
            "search": code_lines(search_by_nasplug),
        },
        "optuna": {
            "network": code_lines(DepthwiseSeparable, Defined),
            "search": code_lines(search_by_optuna),
        },
    }
    if options.nni:
        lines["nni"] = nni_lines(options.nni)
    print(lines, flush=True)

    ways: dict[str, Callable[[Score, nnas.Images, int], Any]] = {
        f"nasplug {name}": lambda score, data, seed, name=name: search_by_nasplug(name, score, seed)
        for name in ("random", "regularized-evolution")
    }
    ways |= {
        f"optuna {name}": lambda score, data, seed, name=name: search_by_optuna(name, score, seed)
        for name in ("RandomSampler", "TPESampler")
    }
    ways["nasplug spos"] = lambda score, data, seed: search_by_supernet("spos", data, seed)
    accuracy: dict[str, list[float]] = {}
    space = nasplug.space_of(Marked)
    parts = [nnas.load("digits", seed) for seed in range(options.seeds)]
    for seed, data in enumerate(parts):

        def score(build: Callable[[], nn.Module], data: Any = data, seed: int = seed) -> float:
            return right(trained(build, data, seed), data.val)

        for name, search in ways.items():
            accuracy.setdefault(name, []).append(tested(search(score, data, seed), data, seed))
        every = [tested(partial(space.build, arch), data, seed) for arch in space.all()]
        accuracy.setdefault("mean of all 18", []).append(float(np.mean(every)))
        accuracy.setdefault("best of all 18, by test", []).append(float(np.max(every)))
        print(seed, {name: round(values[-1], 2) for name, values in accuracy.items()}, flush=True)
    found = {
        "data": "digits", "seeds": options.seeds, "trials": BUDGET, "epochs": EPOCHS,
        "lines": lines,
        "test": {
            name: {"mean": float(np.mean(x)), "std": float(np.std(x, ddof=1)), "searches": x}
            for name, x in accuracy.items()
        },
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
