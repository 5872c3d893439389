"""Is a trained network halved by a search better than by uniform widths or global pruning?

    python benchmarks/compression.py --seeds 3 --jobs 1 --out benchmarks/results/compression.json

A ResNet and a MobileNetV3 of timm, sized for 32x32 images, are trained on a part of CIFAR-10, on a
GPU if there is one, and brought to half of their multiply-adds: by searches of their elastic space
(spos, dsm, random), by torch-pruning with one ratio for all layers (uniform widths) and by its
global pruning. All inherit the trained weights by the same importance, and are fine-tuned alike.
Searches see training and validation images only; what is reported is the accuracy on test images.
Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import timm
import torch
import torch_pruning
from scipy import stats
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

import nasplug
from nasplug import nn as nnas

SHARE = 0.5
LIMITS = [f"flops<={SHARE}x", f"flops>={0.9 * SHARE}x"]  # smaller ones are no fair comparison
TRAIN, VAL, TEST = 20_000, 2_000, 10_000  # images
EPOCHS, TUNED = 15, 4  # of the training, and of the fine-tuning
LR, TUNED_LR, BATCH = 0.1, 0.04, 256
SHORT = f"train:epochs=1,lr={TUNED_LR},batch={BATCH}"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METHODS: dict[str, dict[str, Any]] = {
    "spos": {
        "budget": 40, "epochs": 6, "lr": TUNED_LR, "batch": BATCH, "population": 10, "parents": 5,
    },
    "dsm": {"budget": 12, "evaluator": SHORT},
    "dsm, nearly uniform": {"budget": 12, "evaluator": SHORT},  # begins with `nearly_uniform`
    "random": {"budget": 12, "evaluator": SHORT},
}  # fmt: skip


def resnet() -> nn.Module:
    """ResNet-18 of a quarter of the width, without the pooling after its first convolution."""
    model = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, channels=(16, 32, 64, 128))
    model.maxpool = nn.Identity()
    return model


def mobilenet() -> nn.Module:
    """MobileNetV3-small of half the width, whose first convolution keeps the resolution."""
    model: nn.Module = timm.create_model("mobilenetv3_small_050", num_classes=10)
    model.conv_stem.stride = (1, 1)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "mobilenetv3": mobilenet}


@cache
def cifar10() -> nnas.Images:
    return nnas.load("cifar10")


def data(seed: int, train: int) -> nnas.Images:
    """A part of CIFAR-10: another one for each seed."""
    images = cifar10()
    generator = torch.Generator().manual_seed(seed)

    def some(part: Any, n: int) -> Any:
        rows = torch.randperm(len(part[1]), generator=generator)[:n]
        return part[0][rows], part[1][rows]

    return replace(
        images, train=some(images.train, train), val=some(images.val, VAL),
        test=some(images.test, TEST),
    ).to(DEVICE)  # fmt: skip


def madds(model: nn.Module) -> int:
    return nnas.count(model, (3, 32, 32))[1]


def pruned(model: nn.Module, everywhere: bool) -> nn.Module:
    """torch-pruning's network of the lowest ratio that has few enough multiply-adds."""
    low, high, limit = 0.0, 1.0, SHARE * madds(model)
    best = model
    for _ in range(12):
        ratio, copy = (low + high) / 2, deepcopy(model)
        pruner = torch_pruning.pruner.BasePruner(
            copy, torch.randn(1, 3, 32, 32), torch_pruning.importance.GroupMagnitudeImportance(),
            global_pruning=everywhere, pruning_ratio=ratio,
            ignored_layers=[m for m in copy.modules() if getattr(m, "out_features", 0) == 10],
        )  # fmt: skip
        pruner.step()
        if madds(copy) > limit:
            low = ratio
        else:
            high, best = ratio, copy
    return best


def nearly_uniform(space: Any, n: int, seed: int) -> Any:
    """n archs within the limits: all widths at 75 %, and then some, drawn at random, at 50 %."""
    rng, limit, found = (
        np.random.default_rng(seed),
        SHARE * space.flops(space.original[None])[0],
        [],
    )
    options = [list(map(str, choices)) for choices in space.decisions.values()]
    while len(found) < n:
        arch = space.original.copy()
        widths = [i for i, choices in enumerate(options) if "75" in choices]
        arch[widths] = [options[i].index("75") for i in widths]
        for i in rng.permutation(widths):
            if space.flops(arch[None])[0] > limit:
                arch[i] = options[i].index("50")
        found.append(arch)
    return np.array(found)


def halved(model: nn.Module, images: nnas.Images, seed: int) -> dict[str, tuple[nn.Module, float]]:
    """{way: (the network with inherited weights, seconds of the search)}."""
    found = {}
    for name, everywhere in (("uniform", False), ("global pruning", True)):
        start = time.perf_counter()
        found[name] = pruned(model, everywhere), time.perf_counter() - start
    space = nasplug.elastic(model, torch.randn(2, 3, 32, 32))
    images = replace(images, test=images.val)  # no search sees the others
    for name, options in METHODS.items():
        start = time.perf_counter()
        begin = {"init": nearly_uniform(space, 4, seed)} if "uniform" in name else {}
        result = nasplug.search(
            name.split(",")[0], space=space, data=images, constraints=LIMITS, seed=seed,
            tracking=False, progress=False, **begin, **options,
        )  # fmt: skip
        print(name, result.best, result.best.value, flush=True)
        found[name] = space.build(result.best.arch), time.perf_counter() - start
    return found


def run(name: str, seed: int, train: int) -> dict[str, Any]:
    """Everything for a model and a seed; accuracies on test images, %."""
    images = data(seed, train)
    model = nnas.initialise(MODELS[name], seed).to(DEVICE)
    whole = nnas.train(model, images, EPOCHS, seed, lr=LR, batch_size=BATCH)
    rows: dict[str, Any] = {"whole": {"test": whole["report"], "madds": madds(model)}}
    for way, (small, seconds) in halved(model.cpu(), images, seed).items():
        small = small.to(DEVICE)
        before = nnas.score(nnas.recalibrate(deepcopy(small), images), images, images.test)
        tuned = nnas.train(small, images, TUNED, seed, lr=TUNED_LR, batch_size=BATCH)
        rows[way] = {
            "test": tuned["report"], "val": tuned["value"], "before": before,
            "madds": madds(small), "share": madds(small) / madds(model), "seconds": seconds,
        }  # fmt: skip
        print(name, seed, way, rows[way], flush=True)
    return rows


def interval(values: Any) -> list[float]:
    """Mean and 95 % interval by Student's t; the mean alone for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean]
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return [round(x, 2) for x in (mean, mean - half, mean + half)]


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Per model: accuracy of each way, and by how much each search is ahead of each baseline."""
    found: dict[str, Any] = {}
    for name in MODELS:
        seeds = [rows for key, rows in runs.items() if key.startswith(f"{name} ")]
        if not seeds:
            continue
        tests = {way: np.array([rows[way]["test"] for rows in seeds]) for way in seeds[0]}
        found[name] = {
            "seeds": len(seeds),
            "test": {way: interval(values) for way, values in tests.items()},
            "ahead": {
                f"{method} - {way}": interval(tests[method] - tests[way])
                for method in METHODS
                for way in ("uniform", "global pruning")
            },
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--train", type=int, default=TRAIN, help="images to train on")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    result: dict[str, Any] = {}
    cases = [(name, seed) for seed in range(options.seeds) for name in options.models]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as workers:
        tasks = {workers.submit(run, *case, options.train): case for case in cases}
        for task in as_completed(tasks):
            runs["{} {}".format(*tasks[task])] = task.result()
            result = {"summary": summary(runs), "runs": runs, "settings": {
                "share": SHARE, "images": [options.train, VAL, TEST], "epochs": [EPOCHS, TUNED],
                "lr": [LR, TUNED_LR], "batch": BATCH, "methods": METHODS, "device": DEVICE,
            }}  # fmt: skip
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
