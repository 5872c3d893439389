"""AutoSpace at small scale on real CIFAR-10: the paper's Tables 2, 3, 4 and 6, and its Figure 3.

    NASPLUG_DATA=... python benchmarks/autospace_table.py [--seeds 3] [--images 10000] [--layers 6]
        [--resolution 8] [--C 8] [--evolve 15] [--search 10] [--train 40] [--networks 4]
        [--parts evolve,sample,search,rank] [--out FOLDER]

The last numbers are epochs, and networks per seed and space; images are made smaller. Per seed: a
space evolves with the reference (and once more without it, and without compensation); networks of
equal MAdds (+-5 %) are trained alike, sampled from the hand-made space, from the learned cells,
from their union with other kernels, inverted residuals and zero, from the cells that the authors
released, and from open cells at random within the limit (eq. 1). ProxylessNAS by gradient (G) and
by REINFORCE (RL) and SPOS (RS) search the first three, evolution (EA) the open cells within the
limit, by 20 trainings of 10 epochs; what they find is trained alike. Validation and test accuracy
are those of the trained networks; nothing is chosen by the latter. What is done is kept in FOLDER
and not done again. Prints tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import nasplug
from nasplug.kernel.registry import registry
from nasplug.kernel.subspace import Layered
from nasplug.nn import (
    BiLevel,
    Images,
    MixedOp,
    Mixture,
    Stream,
    binary_gates,
    fixed_threads,
    initialise,
    inverted_residual,
    mix,
    to_device,
    train,
)
from nasplug.nn.mixed import batch_statistics
from nasplug.run.api import shrunk
from nasplug.run.directory import RunDirectory, write_json
from nasplug.spaces import OpenCells
from nasplug.spaces.skeleton.network import Network
from nasplug_autospace.evolution import Rules
from nasplug_autospace.final import KINDS, kinds, union
from nasplug_autospace.method import limits

TOLERANCE = 0.05
PERIOD = 40  # steps between two generations
LR = 0.1  # of the weights of a supernet; 0.025 is for longer training
QUERIES = 60  # archs that SPOS's evolution scores
WARMUP = 4  # epochs in which the three networks are only trained
TRAININGS, SHORT = 20, 10  # of the evolution in the full space, and their epochs
WHERE = ("manual", "learned", "union")
CONTROLS = ("released", "unselected")
PAIRS = (
    ("union", "manual"), ("learned", "manual"), ("released", "manual"), ("learned", "released"),
    ("learned", "unselected"),
)  # fmt: skip
ALGORITHMS = {
    "G": ("proxyless", {"algorithm": "gradient"}),
    "RL": ("proxyless", {"algorithm": "reinforce"}),
    "RS": ("spos", {"population": 20, "parents": 5}),
    "EA": ("regularized-evolution", {}),
}


def at(method: str, target: float) -> dict[str, Any]:
    """What has a search end near the target's multiply-adds."""
    if method == "proxyless":
        return {"target_madds": target}
    low, high = target * (1 - TOLERANCE), target * (1 + TOLERANCE)
    return {"constraints": [f"flops>={low:.0f}", f"flops<={high:.0f}"]}


VARIANTS: dict[str, dict[str, Any]] = {
    "no reference": {"reference": "none"},
    "no compensation": {"compensate": False},
    "reference": {},
}


def load(n: int, resolution: int) -> Images:
    """n images each to train and to validate on, and the 10,000 test images, made smaller."""

    def small(part: Any, rows: slice) -> tuple[Tensor, Tensor]:
        images, labels = part[0][rows].float(), part[1][rows]
        return functional.avg_pool2d(images, 32 // resolution).round().to(torch.uint8), labels

    full = nasplug.nn.load("cifar10")
    train, val = small(full.train, slice(n)), small(full.val, slice(n))
    padding = resolution // 8
    return replace(full, train=train, val=val, test=small(full.test, slice(None)), padding=padding)


class Table:
    """Results by name, a file each; what is there is not computed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, compute: Callable[[], Any]) -> Any:
        file = self.folder / f"{name.replace('/', '.')}.json"
        if not file.exists():
            write_json(file, compute())
            print(name, *file.read_text().split(), flush=True)
        return json.loads(file.read_text())

    def rows(self) -> dict[str, Any]:
        files = self.folder.glob("*.json")
        return {file.stem.replace(".", "/"): json.loads(file.read_text()) for file in files}


def run(
    method: str,
    out: Path,
    seed: int,
    budget: int,
    space: nasplug.Space,
    data: Images,
    **options: Any,
) -> Path:
    """A search in its run directory, done, continued or begun."""
    if (out / "selection.json").exists():
        return out
    if (out / "run.json").exists():
        nasplug.resume(out, space=space, data=data, progress=False)
    else:
        nasplug.search(
            method, space=space, data=data, budget=budget, seed=seed, out=out, tracking=False,
            progress=False, **options,
        )  # fmt: skip
    return out


def trained(space: nasplug.Space, arch: Any, data: Images, epochs: int, seed: int) -> list[float]:
    """[multiply-adds, validation accuracy, test accuracy]."""
    model = to_device(initialise(lambda: space.build(arch), seed), "cpu")
    result = train(model, data, epochs, seed)
    return [int(space.flops(arch[None])[0]), result["value"], result["report"]]


def alike(region: Any, target: float, n: int, seed: int) -> np.ndarray:
    """n archs of a region with the target's multiply-adds, +-5 %."""
    space = region.space
    archs = space.unique(region.sample(20_000, seed))
    near = np.abs(space.flops(archs) / target - 1) <= TOLERANCE
    if near.sum() < n:
        raise SystemExit(f"{region.describe()}: {near.sum()} of 20,000 archs near {target:.3g}")
    return archs[near][:n]


def unselected(space: OpenCells, seed: int) -> Layered:
    """In each layer, random cells of the multiply-adds that AutoSpace allows by default."""
    madds = registry().get("method", "autospace").declared()["madds"].default
    rules = Rules(space, limits(space, madds), reference=None, distance=0)
    cells = rules.first(200, np.random.default_rng(seed))
    return Layered(space, [np.unique(rows, axis=0) for rows in cells])


CODES = {1: "zero", 2: "identity", 3: "conv_1x1", 5: "dw_conv_3x3"}


def released(space: OpenCells) -> Layered:
    """The cells that the authors released, up to nine in each of 11 layers, on our skeleton.

    Their files do not say what they mean. Read here: a row of a cell is a node, with a code for
    each source. 5 is the depthwise 3x3 (7 and 9, kernels of 5 and 7, are in their network alone),
    so 3 is a kernel of 1; it is in no cell of the larger expansion, where it would cost too much.
    1 and 2, which cost nothing, are zero and identity, so that the last three cells of each layer
    are dzdzzd, dzdzzi and the inverted residual dzizzi. A dim_conv_idx of 2 is expansion 6, 1 is 3,
    and 0, which may be less, 3 as well. The mix flags are not understood: nodes add. A cell that
    is there twice is taken once. Of the layers those evenly spaced in depth: 0, 2, 4, 6, 8, 10.
    """
    file = Path(os.environ["NASPLUG_DATA"]) / "autospace-released.json"
    layers = json.loads(file.read_text())["layers"]
    taken = np.linspace(0, len(layers) - 1, len(space.layers)).round().astype(int)
    choices = []
    for i in taken:
        ops = [[CODES[cell[node][source]] for node, source in space.EDGES] for cell in layers[i]]
        genes = [
            [*map(space.OPS.index, names), 0, int(cell[0][-1] == 2)]
            for names, cell in zip(ops, layers[i], strict=True)
        ]
        choices.append(np.unique(space.canonical_cells(np.array(genes)), axis=0))
    return Layered(space, choices)


def shares(space: OpenCells, cells: np.ndarray) -> list[float]:
    """Of some cells: how many are zero, inverted residuals, learned cells."""
    return (np.bincount(kinds(space, cells), minlength=len(KINDS)) / len(cells)).tolist()


def interval(a: np.ndarray, b: np.ndarray) -> list[float]:
    """95 % bootstrap interval of mean(a) - mean(b), both (seeds, n): seeds, then networks."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(4000):
        seeds = rng.integers(len(a), size=len(a))
        pick = [rng.integers(x.shape[1], size=(len(seeds), x.shape[1])) for x in (a, b)]
        draws.append(
            np.take_along_axis(a[seeds], pick[0], 1).mean()
            - np.take_along_axis(b[seeds], pick[1], 1).mean()
        )
    return np.quantile(draws, [0.025, 0.975]).round(2).tolist()


# ---- Table 6


class Paths(nn.Module):
    """Whole networks as the paths of one layer."""

    def __init__(self, nets: nn.ModuleList) -> None:
        super().__init__()
        self.op = batch_statistics(MixedOp(list(nets), decision=0))

    def mix(self, weights: Tensor | None, mask: np.ndarray, gates: Tensor | None = None) -> None:
        mix(self, weights, mask, gates)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def three(resolution: int) -> list[nn.Module]:
    """Networks of three, one and no inverted residuals on the same stem, best first."""
    size = f"layers=3,C=8,resolution={resolution}"
    skeleton = nasplug.space(f"manual-irb:{size}").for_data("cifar10").skeleton
    found = []
    for depth in (3, 1, 0):
        shape = replace(skeleton, stages=skeleton.stages[:depth] or ((skeleton.stem, 1, 1),))
        blocks = [
            inverted_residual(layer.c_in, layer.c_out, layer.stride, 3, 6) if depth else None
            for layer in shape.layers()
        ]
        found.append(Network(shape, blocks))
    return found


def alone(net: nn.Module, data: Images, epochs: int) -> float:
    """Validation accuracy of one of them, trained for about as many steps as in `ranking`."""
    return train(net, data, (WARMUP + epochs) // 3, 0)["value"]


def ranking(data: Images, seed: int, epochs: int) -> dict[str, Any]:
    """Fitness of the three networks, from random initial scores, after each epoch.

    First they are trained for some epochs by uniform paths; what is not trained has no order.
    """
    net = to_device(Paths(initialise(lambda: nn.ModuleList(three(data.resolution)), seed)), "cpu")
    first = np.random.default_rng(seed).normal(size=(1, 3))
    alpha = torch.tensor(first, dtype=torch.float32, requires_grad=True)
    uniform = torch.zeros(1, 3)
    drawn, age, step = np.zeros((1, 3)), 0, 0
    generator = torch.Generator().manual_seed(seed)

    def mixture() -> Mixture:
        fitting = torch.is_grad_enabled()
        logits = alpha if epoch >= WARMUP else uniform
        gates, mask = binary_gates(logits, 2 if fitting else 1, generator)
        drawn[mask & fitting] += 1
        return Mixture(gates, mask)

    alpha.register_hook(lambda g: g * g.new_tensor(age / np.maximum(drawn, 1)))  # eq. 4
    bilevel = BiLevel(net, [alpha], mixture, lr=0.1)  # type: ignore[arg-type]
    fitness_lr = registry().get("method", "autospace").declared()["arch_lr"].default
    bilevel.architecture = torch.optim.SGD([alpha], fitness_lr)
    streams = [Stream(data, p, 64, 2 * seed + i) for i, p in enumerate((data.train, data.val))]
    scores = []
    with fixed_threads(1):
        for epoch in range(WARMUP + epochs):
            bilevel.schedule(epoch / (WARMUP + epochs))
            for _ in range(streams[0].steps):
                if epoch >= WARMUP:
                    age += 1
                    bilevel.architecture_step(streams[1][step], streams[0][step])
                bilevel.weight_step(streams[0][step])
                step += 1
            if epoch >= WARMUP:
                scores.append(alpha.detach()[0].tolist())
    right = [s[0] > s[1] > s[2] for s in scores]
    settled = next((i + 1 for i in range(epochs) if all(right[i:])), None)
    return {"first": first[0].round(3).tolist(), "scores": scores, "epochs": settled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("seeds", 3), ("images", 10_000), ("resolution", 8), ("layers", 6), ("C", 8),
        ("evolve", 15), ("search", 10), ("train", 40), ("networks", 4), ("rank", 12),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--parts", default="evolve,sample,search,rank")
    parser.add_argument("--out", type=Path, default=Path("runs/autospace_table"))
    options = parser.parse_args()
    parts = options.parts.split(",")
    data = load(options.images, options.resolution)
    size = f"layers={options.layers},C={options.C},resolution={options.resolution}"
    manual = nasplug.space(f"manual-irb:{size}").for_data("cifar10")
    cells = nasplug.space(f"open-cells:{size}").for_data("cifar10")
    target = float(np.median(manual.flops(manual.sample(10_000, 0))))
    done = Table(options.out / "results")

    def evolved(variant: str, seed: int) -> Path:
        return run(
            "autospace", options.out / f"evolve-{variant.replace(' ', '-')}-{seed}", seed,
            options.evolve, cells, data, epochs=options.evolve, warmup=options.evolve // 5,
            period=PERIOD, final="cells", **VARIANTS[variant],
        )  # fmt: skip

    def region(where: str, seed: int) -> Any:
        match where:
            case "manual":
                return manual
            case "unselected":
                return unselected(cells, seed)
            case "released":
                return released(cells)
        learned = shrunk(cells, evolved("reference", seed))
        assert isinstance(learned, Layered)
        if where == "learned":
            return learned
        return union(Layered(cells.sized(kernel=7), learned.choices))

    def train_one(space: nasplug.Space, arch: np.ndarray, seed: int) -> list[float]:
        return trained(space, arch, data, options.train, seed)

    def search(name: str, where: str, seed: int) -> None:
        inside = region(where, seed)
        space = inside.space
        method, settings = ALGORITHMS[name]
        supernet: dict[str, Any] = {"lr": LR, "epochs": options.search}
        budget, how = {
            "spos": (QUERIES, supernet),
            "regularized-evolution": (TRAININGS, {"evaluator": f"train:epochs={SHORT}"}),
        }.get(method, (options.search, supernet))
        within = {} if inside is space else {"within": inside}
        out = run(
            method, options.out / f"search-{name}-{where}-{seed}", seed, budget, space, data,
            **how, **at(method, target), **within, **settings,
        )  # fmt: skip
        arch = space.arch(json.loads((out / "selection.json").read_text())["archs"][0])
        done(f"search/{name}/{where}/{seed}", partial(train_one, space, arch, seed))
        if where == "union":
            taken, there = space.split(arch[None])[0], np.concatenate(inside.choices)
            done(f"kinds/{name}/{seed}", partial(shares, space, taken))
            done(f"kinds/choices/{seed}", partial(shares, space, there))

    def losses(variant: str, seed: int) -> list[float]:
        rows = RunDirectory.open(evolved(variant, seed)).journal.read()
        return [row.metrics["loss"] for row in rows]

    for seed in range(options.seeds):
        for where in (*WHERE, *CONTROLS) if "sample" in parts else ():
            inside = region(where, seed)
            for i, arch in enumerate(alike(inside, target, options.networks, seed)):
                work = partial(train_one, inside.space, arch, seed)
                done(f"sample/{where}/{seed}/{i}", work)
        if "search" in parts:
            for name in ("G", "RL", "RS"):
                for where in WHERE:
                    search(name, where, seed)
            search("EA", "unselected", seed)
        for variant in VARIANTS if "evolve" in parts else ():
            done(f"evolve/{variant}/{seed}", partial(losses, variant, seed))
    if "rank" in parts:
        for i, net in enumerate(three(data.resolution)):
            done(f"rank/alone/{i}", partial(alone, net, data, options.rank))
        for seed in range(5):
            done(f"rank/{seed}", partial(ranking, data, seed, options.rank))
    report(done.rows(), target, options)


def report(rows: dict[str, Any], target: float, options: argparse.Namespace) -> None:
    names = (
        "images",
        "resolution",
        "layers",
        "C",
        "evolve",
        "search",
        "train",
        "networks",
        "seeds",
    )
    result: dict[str, Any] = {name: getattr(options, name) for name in names}
    result["target_madds"] = target

    def table(prefix: str, where: str) -> np.ndarray:
        found = [[rows.get(f"{prefix}/{where}/{s}/{i}") for i in range(options.networks)]
                 for s in range(options.seeds)]  # fmt: skip
        return np.array([r for r in found if None not in r])

    print("\n| networks of equal MAdds | MAdds | val_acc | test_acc | best test_acc |")
    print("| --- | --- | --- | --- | --- |")
    sampled = {where: table("sample", where) for where in (*WHERE, *CONTROLS)}
    for where, x in sampled.items():
        if len(x):
            m = x.mean((0, 1))
            spread, best = x[..., 2].std(), x[..., 2].max(1).mean()
            words = f"{m[1]:.2f} | {m[2]:.2f} ± {spread:.2f} | {best:.2f}"
            print(f"| {where} | {m[0] / 1e6:.3f}M | {words} |")
            result[f"sample/{where}"] = x.tolist()
    for pair in PAIRS:
        if n := min(len(sampled[where]) for where in pair):
            a, b = (sampled[where][:n, :, 2] for where in pair)
            found = [round(float(a.mean() - b.mean()), 2), interval(a, b)]
            result[f"sample/{' - '.join(pair)}"] = found
            print(f"{' - '.join(pair)}, {n} seeds: {found}")

    print("\n| search | space: MAdds, test_acc | | | learned - manual | union - manual |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ALGORITHMS:
        found = {
            where: np.array([rows[k] for s in range(options.seeds)
                             if (k := f"search/{name}/{where}/{s}") in rows])
            for where in (*WHERE, *CONTROLS)
        }  # fmt: skip
        found = {where: x for where, x in found.items() if len(x)}
        result |= {f"search/{name}": {w: x.tolist() for w, x in found.items()}} if found else {}
        words = [f"{w}: {x[:, 0].mean() / 1e6:.3f}M, {x[:, 2].mean():.2f} ± {x[:, 2].std():.2f}"
                 for w, x in found.items()]  # fmt: skip
        for where in ("learned", "union"):
            n = min(len(found.get(w, ())) for w in ("manual", where))
            if n:
                d = found[where][:n, 2] - found["manual"][:n, 2]
                words.append(f"{d.mean():+.2f} ± {d.std():.2f}")
        print(f"| {' | '.join([name, *words])} |")
    for name in (*ALGORITHMS, "choices"):
        x = [rows[k] for s in range(options.seeds) if (k := f"kinds/{name}/{s}") in rows]
        if x:
            result[f"kinds/{name}"] = np.mean(x, 0).round(3).tolist()
            print(f"{name}: {dict(zip(KINDS, result[f'kinds/{name}'], strict=True))}")

    print("\n| supernet | loss per epoch, mean over seeds |")
    print("| --- | --- |")
    curves = {
        v: np.array([rows[k] for s in range(options.seeds) if (k := f"evolve/{v}/{s}") in rows])
        for v in VARIANTS
    }
    for variant, x in curves.items():
        if len(x):
            print(f"| {variant} | {' '.join(f'{v:.3f}' for v in x.mean(0))} |")
            result[f"evolve/{variant}"] = x.mean(0).round(4).tolist()
    if all(map(len, (curves["reference"], curves["no reference"]))):
        goal = curves["no reference"].mean(0).min()
        reached = np.flatnonzero(curves["reference"].mean(0) <= goal)
        share = None if not len(reached) else float((reached[0] + 1) / options.evolve)
        result["reference reaches it after"] = share
        print(f"with the reference, the final loss without it ({goal:.3f}) is reached after "
              f"{share} of the iterations")  # fmt: skip

    ranks = [rows[f"rank/{s}"] for s in range(5) if f"rank/{s}" in rows]
    if ranks:
        alone = [round(rows[f"rank/alone/{i}"], 2) for i in range(3)]
        scores = f"scores after {options.rank} epochs (alone: {alone})"
        print(f"\n| initial scores | {scores} | right from epoch |")
        print("| --- | --- | --- |")
        for r in ranks:
            print(f"| {r['first']} | {np.round(r['scores'][-1], 2).tolist()} | {r['epochs']} |")
        result["rank"] = {"alone": alone, "epochs": [r["epochs"] for r in ranks]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
