"""LISSNAS, then SPOS inside: does a supernet rank archs better in the space that was shrunk?

    NASPLUG_DATA=... python benchmarks/shrunk_supernet.py [--on shufflenetv2:C=16,resolution=16]
        [--images 25000] [--batch 256] [--epochs 6] [--supernet 10] [--archs 96] [--shrunk 64]
        [--size 1000] [--seeds 2] [--jobs 1] [--seconds 0] [--out FOLDER]

A space at small scale on CIFAR-10, images averaged down to its resolution: some of the first half
of its training images to train on, of the second to validate on. Networks drawn uniformly from the
whole space are trained alone, with --seeds seeds for --epochs epochs; LISSNAS fits XGBoost once on
their validation accuracy and shrinks the space to --size archs; as many networks as --shrunk, drawn
uniformly from these, are trained alone in the same way. Where a table knows the space (macro,
nb201), nothing is trained alone: the table's networks, which are of its size, are the truth. SPOS
trains supernets in the whole space and in the shrunk one, for --supernet epochs each and with as
many seeds, and scores the sample of its space with inherited weights (batch norms recalibrated) on
5,000 validation images; those of the whole space score the sample of the shrunk space as well.

Correlations are between these scores and the mean test accuracy alone, which nothing is chosen by;
intervals are 95 %, by bootstrap over the archs. --seconds is when no further networks are begun, so
that there may be fewer of them than asked for. What is done is kept in FOLDER and not done again.
On a GPU the networks of a group take their steps side by side, each a CUDA graph on a stream of
its own, and --jobs processes (supernets, and the networks) share it. Prints tables and, as its last
line, one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, pearsonr
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import avg_pool2d

import nasplug
from nasplug import Archs, Space
from nasplug.kernel.subspace import Region
from nasplug.kernel.subspace import load as load_subspace
from nasplug.nn import Images, Stream, fixed_threads, initialise, load
from nasplug.nn.data import Part
from nasplug.run.directory import write_json

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that run side by side
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GROUP = 16  # archs trained side by side, with each seed
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
VALIDATED = 10_000  # validation images, of networks that were trained alone
SCORED = 5000  # validation images for inherited weights
TESTED = 2500  # images at a time, of networks that were trained alone
BOOTSTRAPS = 10_000
SIZES = ("on", "images", "batch", "epochs", "supernet", "size")  # kept apart
TABLES = ("macro", "nb201")
LABELS = 0.45  # of --seconds, after which no further networks of the whole space are begun


def space_of(options: argparse.Namespace) -> Space:
    return nasplug.space(options.on).for_data("cifar10")


def images(options: argparse.Namespace) -> Images:
    """The first to train on and to validate on, and all to test, averaged down; made once."""
    file, side = options.out / "images.pt", int(space_of(options).sizes["resolution"])
    if not file.exists():
        data = load("cifar10")

        def small(part: Part, n: int | None) -> Part:
            pixels, labels = part[0][:n], part[1][:n]
            k = pixels.shape[-1] // side
            return avg_pool2d(pixels.float(), k).round().to(pixels.dtype), labels

        kept = {
            "train": small(data.train, options.images), "val": small(data.val, VALIDATED),
            "test": small(data.test, None), "mean": data.mean, "std": data.std,
        }  # fmt: skip
        torch.save(kept, file)
    kept = torch.load(file, weights_only=True)
    return Images(**kept, num_classes=10, padding=4 * side // 32).to(DEVICE)


def sample(region: Region, n: int, seed: int) -> Archs:
    """n distinct archs, uniformly drawn: the first of a longer sample are those of a shorter."""
    return region.space.unique(region.sample(20 * n, np.random.default_rng(seed)))[:n]


# ---- networks alone


class Alone:
    """A network that is trained on batches that several share, by SGD with Nesterov momentum.

    batch: (images, labels), written to by others. rate: (), the learning rate, likewise.
    """

    def __init__(self, space: Space, arch: Archs, seed: int, batch: list[Tensor], rate: Tensor):
        self.model = initialise(lambda: space.build(arch), seed).to(DEVICE)
        self.batch, self.rate = batch, rate
        self.weights = list(self.model.parameters())
        self.momenta = [torch.zeros_like(p) for p in self.weights]
        self.run: Callable[[], None] = self.step
        if DEVICE == "cuda":
            self.stream = torch.cuda.Stream()
            self.capture()

    def step(self) -> None:
        x, y = self.batch
        loss = functional.cross_entropy(self.model(x), y)
        gradients = list(torch.autograd.grad(loss, self.weights))
        with torch.no_grad():
            torch._foreach_add_(gradients, self.weights, alpha=DECAY)
            torch._foreach_mul_(self.momenta, MOMENTUM)
            torch._foreach_add_(self.momenta, gradients)
            torch._foreach_add_(gradients, self.momenta, alpha=MOMENTUM)
            torch._foreach_mul_(gradients, self.rate)
            torch._foreach_sub_(self.weights, gradients)

    def capture(self) -> None:
        """The step as a CUDA graph; `rate` is 0 meanwhile, so that nothing is learned."""
        self.stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            self.step()
            self.stream.synchronize()
            graph.capture_begin()
            self.step()
            graph.capture_end()
            torch._foreach_zero_(self.momenta)
        torch.cuda.current_stream().wait_stream(self.stream)
        self.run = graph.replay

    @torch.no_grad()
    def accuracy(self, data: Images, part: Part) -> float:
        """In %, of all images of a part."""
        self.model.eval()
        hits = [
            (self.model(data.normalise(x)).argmax(1) == y).sum()
            for x, y in zip(part[0].split(TESTED), part[1].split(TESTED), strict=True)
        ]
        return 100 * float(torch.stack(hits).sum()) / len(part[1])


def train_group(
    space: Space, archs: Archs, seeds: int, data: Images, batch: int, epochs: int
) -> list[list[tuple[float, float]]]:
    """Validation and test accuracy of each arch with each seed, all trained side by side."""
    gc.collect()  # no graph may be freed while another is captured
    streams = [Stream(data, data.train, batch, seed) for seed in range(seeds)]
    batches = [[x.clone() for x in stream[0]] for stream in streams]
    rate = torch.zeros((), device=DEVICE)
    nets = [[Alone(space, arch, s, batches[s], rate) for s in range(seeds)] for arch in archs]
    steps = epochs * streams[0].steps
    following = [stream[0] for stream in streams]
    for step in range(steps):
        rate.fill_(LR * (1 + math.cos(math.pi * step / steps)) / 2)
        for buffers, new in zip(batches, following, strict=True):
            for buffer, tensor in zip(buffers, new, strict=True):
                buffer.copy_(tensor)
        for net in [net for row in nets for net in row]:
            if DEVICE == "cpu":
                net.run()
                continue
            net.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(net.stream):
                net.run()
        following = [stream[step + 1] for stream in streams]  # meanwhile
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    parts = data.val, data.test
    return [[tuple(net.accuracy(data, part) for part in parts) for net in row] for row in nets]


def alone(options: argparse.Namespace, where: str, until: float) -> str:
    """Train the sample of a space, group by group, until some time; or look it up."""
    torch.set_num_threads(1)
    start, space = time.time(), space_of(options)
    archs, file = samples(options)[where], options.out / f"alone-{where}.json"
    if space.base in TABLES:
        known = nasplug.problem(f"{space.base}/cifar10", evaluator="table").score(archs)
        rows = zip(archs.tolist(), known.values.tolist(), known.reports.tolist(), strict=True)
        write_json(file, [{"arch": arch, "val": [v], "test": [t]} for arch, v, t in rows])
        return f"{len(archs)} networks of the {where} space, by its table"
    data = images(options)
    done: list[Any] = json.loads(file.read_text()) if file.exists() else []
    while len(done) < len(archs) and time.time() < until:
        group = archs[len(done) : len(done) + GROUP]
        found = train_group(space, group, options.seeds, data, options.batch, options.epochs)
        done += [
            {"arch": arch.tolist(), "val": [v for v, _ in row], "test": [t for _, t in row]}
            for arch, row in zip(group, found, strict=True)
        ]
        write_json(file, done)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()  # what the graphs held
    return f"{len(done)} networks of the {where} space alone, {time.time() - start:.0f} s"


# ---- the spaces


def samples(options: argparse.Namespace) -> dict[str, Archs]:
    """{space: archs that are trained alone, and scored by supernets}."""
    found = {"whole": sample(space_of(options), options.archs, 1)}
    if (options.out / "shrunk.npz").exists():
        found["shrunk"] = sample(region_of(options, "shrunk"), options.shrunk, 2)
    return found


def region_of(options: argparse.Namespace, where: str) -> Region:
    space = space_of(options)
    return space if where == "whole" else load_subspace(space, options.out / "shrunk.npz")


def shrink(options: argparse.Namespace) -> None:
    """LISSNAS by the mean validation accuracy of the networks of the whole space."""
    space, rows = space_of(options), json.loads((options.out / "alone-whole.json").read_text())
    archs = np.array([row["arch"] for row in rows])
    labels = {space.to_str(row["arch"]): float(np.mean(row["val"])) for row in rows}
    result = nasplug.search(
        "lissnas", space=space, evaluate=lambda arch: labels[space.to_str(space.arch(arch))],
        init=archs, budget=len(archs), initial=1.0, size=options.size, tracking=False,
        progress=False,
    )  # fmt: skip
    result.subspace.save(options.out / "shrunk.npz")


# ---- supernets


def supernet(options: argparse.Namespace, where: str, seed: int) -> str:
    """Train one by SPOS and score the sample of its space, and then that of the shrunk one."""
    file = options.out / f"supernet-{where}-{seed}.json"
    scores: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    wanted = {name: archs for name, archs in samples(options).items() if name != "whole"}
    if where == "whole":
        wanted = samples(options)
    if all(len(scores.get(name, [])) == len(archs) for name, archs in wanted.items()):
        return f"supernet {seed} of the {where} space: done before"
    start, data = time.time(), images(options)
    space, weights = space_of(options), options.out / f"supernet-{where}-{seed}.pt"
    region = region_of(options, where)
    if weights.exists():
        net = space.supernet(region).to(DEVICE)
        net.load_state_dict(torch.load(weights, map_location=DEVICE, weights_only=True))
    else:
        result = nasplug.search(
            "spos", space=space, data=data, within=region, budget=1, seed=seed,
            epochs=options.supernet, batch=options.batch, lr=LR, tracking=False, progress=False,
        )  # fmt: skip
        net = result.search.method.net
        torch.save(net.state_dict(), weights)
    trained = time.time() - start
    with fixed_threads(1):
        for name, archs in wanted.items():
            scores[name] = [
                net.inherited_scores(arch, data, [data.val], SCORED)[0] for arch in archs
            ]
            write_json(file, scores)
    return f"supernet {seed} of the {where} space: {trained:.0f} of {time.time() - start:.0f} s"


# ---- what came out


def correlations(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(s, n) scores by s supernets, (n,) truth -> (2,): mean Pearson's r and Kendall's tau."""
    pairs = [(pearsonr(row, truth)[0], kendalltau(row, truth)[0]) for row in scores]
    return np.mean(pairs, 0)


def bootstrapped(scores: np.ndarray, truth: np.ndarray, seed: int, n: int) -> np.ndarray:
    """(n, 2): the same of archs drawn again with replacement."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(truth), size=(n, len(truth)))
    return np.array([correlations(scores[:, row], truth[row]) for row in rows])


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Of what there is so far."""
    found: dict[str, Any] = {"options": {k: str(v) for k, v in vars(options).items()}}
    draws = {}
    for net, where in (("whole", "whole"), ("shrunk", "shrunk"), ("whole", "shrunk")):
        file = options.out / f"alone-{where}.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        supernets = [
            json.loads((options.out / f"supernet-{net}-{seed}.json").read_text()).get(where, [])
            for seed in range(options.seeds)
            if (options.out / f"supernet-{net}-{seed}.json").exists()
        ]
        supernets = [scores[: len(rows)] for scores in supernets if len(scores) >= len(rows)]
        if len(rows) < 3 or not supernets:
            continue
        test = np.array([row["test"] for row in rows])
        truth, scores = test.mean(1), np.array(supernets)
        draws[net, where] = bootstrapped(scores, truth, 0, options.bootstraps)
        names = ("pearson", "kendall")
        low, high = np.quantile(draws[net, where], [0.025, 0.975], axis=0)
        found[f"supernets of the {net} space, archs of the {where} space"] = {
            "archs": len(rows), "supernets": len(supernets),
            **{
                name: [round(float(v), 3) for v in (value, a, b)]
                for name, value, a, b in zip(
                    names, correlations(scores, truth), low, high, strict=True
                )
            },
            "alone": [round(float(truth.mean()), 2), round(float(truth.std(ddof=1)), 2)],
            "best alone": round(float(truth.max()), 2),
            "inherited": [round(float(scores.mean()), 2), round(float(scores.std(1).mean()), 2)],
            "seeds alone": round(float(pearsonr(test[:, 0], test[:, 1])[0]), 3)
            if test.shape[1] > 1
            else None,
        }  # fmt: skip
    for other in (("whole", "whole"), ("whole", "shrunk")):
        if other in draws and ("shrunk", "shrunk") in draws:
            gain = draws["shrunk", "shrunk"] - draws[other]
            low, high = np.quantile(gain, [0.025, 0.975], axis=0)
            found[f"gain over the supernets of the whole space, archs of the {other[1]} space"] = {
                "pearson": [round(float(v), 3) for v in (low[0], high[0])],
                "kendall": [round(float(v), 3) for v in (low[1], high[1])],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", default="shufflenetv2:C=16,resolution=16")
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--supernet", type=int, default=10)
    parser.add_argument("--archs", type=int, default=96)
    parser.add_argument("--shrunk", type=int, default=64)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--bootstraps", type=int, default=BOOTSTRAPS)
    parser.add_argument("--out", type=Path, default=Path("runs/shrunk_supernet"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = {name: getattr(options, name) for name in SIZES}
    about = options.out / "options.json"
    if about.exists() and (kept := json.loads(about.read_text())) != sizes:
        sys.exit(f"{options.out} holds what was measured at {kept}: take another folder")
    write_json(about, sizes)
    start, seconds = time.time(), options.seconds or math.inf
    images(options)
    seeds = range(options.seeds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:

        def done(tasks: list[tuple[Any, ...]]) -> None:
            for future in [pool.submit(run, options, *given) for run, *given in tasks]:
                said = future.result()
                print(f"{time.time() - start:4.0f} s: {said}", file=sys.stderr, flush=True)

        until = start + LABELS * seconds
        done([(alone, "whole", until), *((supernet, "whole", seed) for seed in seeds)])
        if not (options.out / "shrunk.npz").exists():
            shrink(options)
        tasks = [(supernet, where, seed) for where in ("shrunk", "whole") for seed in seeds]
        done([(alone, "shrunk", start + seconds), *tasks])
    found = report(options)
    found["device"] = torch.cuda.get_device_name() if DEVICE == "cuda" else "one core of a CPU"
    found["seconds"] = round(time.time() - start)
    write_json(options.out / "report.json", found)
    for name, row in found.items():
        print(f"{name}: {row}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
