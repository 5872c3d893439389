"""The figures and tables of the five papers, as far as a small machine goes.

    python benchmarks/papers.py --list
    NASPLUG_DATA=... python benchmarks/papers.py dsm-figure-8 [--seeds 50]

An entry searches, most of them by `nasplug.compare`, which keeps each search in
``runs/comparisons.db`` so that an interrupted one goes on, and its numbers are then kept in
benchmarks/results/papers.json; or it reads what another benchmark has kept. The page
benchmarks/results/papers.md is made of both and written anew. Nothing was chosen by these numbers.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import nasplug
from nasplug.comparison.contenders import variants
from nasplug.kernel.registry import registry

RESULTS = Path(__file__).parent / "results"
KEPT, PAGE = RESULTS / "papers.json", RESULTS / "papers.md"
NB201 = ("nb201/cifar10", "nb201/cifar100")
TABLES = (*NB201, "macro/cifar10")
TIMED = {"nb201/cifar10": 190, "nb201/cifar100": 97}  # archs in 25,000 simulated seconds
PAPER = "M=4,samples=1,unseen=false"  # DSM-NAS on NAS-Bench-201
QUERIES, LABELS = 200, 500  # of a search; of a shrinker
SHARES = (30, 20, 10, 5)  # percent of a random sample
EPOCHS, IMAGES, SIDE = 8, 1000, 8  # of a supernet
WHOLE = (50, 25_000)  # the papers' epochs and images: α and ζ take as many steps as there
DRAWN = WHOLE[1] // 64 // 30  # subspaces of DDSAS in an epoch of these
CRITERIA = ("strength", "strength*", "naive", "magnitude")

Row = dict[str, Any]  # {column: text, number, or [mean, standard deviation]}
Rows = list[Row]


@dataclass(frozen=True)
class Entry:
    """title: which figure or table. size: what is run here. paper: {row: its number there}.

    rows: of the seeds; what another benchmark has kept, if `kept_by` is the command that made it.
    """

    title: str
    size: str
    rows: Callable[[int], Rows]
    paper: Mapping[str, str] = field(default_factory=dict)
    kept_by: str = ""
    seeds: int = 50

    @property
    def made_by(self) -> str:
        name = next(name for name, entry in ENTRIES.items() if entry is self)
        return self.kept_by or f"python benchmarks/papers.py {name}"


# ---- comparisons


def compared(methods: Mapping[str, Any], on: Sequence[str], budget: int, seeds: int) -> Rows:
    """A row per method and problem; p is that of the difference from the first method."""
    comparison = nasplug.compare(methods, on, budget=budget, seeds=seeds, tracking=False)
    tests, (first, *_) = comparison.tests(), methods
    rows = []
    for found in comparison.summary().itertuples():
        pair = tests[
            (tests.problem == found.problem)
            & (tests.method == first)
            & (tests.other == found.method)
        ]
        rows.append({
            "": found.method, "problem": found.problem,
            "report": [found.mean, found.std], "reward": [found.value, found.value_std],
            "p": float(pair.p_holm.iloc[0]) if len(pair) else None,
        })  # fmt: skip
    return rows


def ablated(method: str, *names: str) -> dict[str, Any]:
    """A method and some of the variants that it declares."""
    whole, *_ = declared = variants(method)
    return {name: declared[name] for name in (whole, *names)}


def drawn(on: str, budget: int, seed: int, within: Any = None) -> nasplug.Selection:
    """What random search finds."""
    method = registry().get("method", "random")()
    return nasplug.Search(
        nasplug.problem(on), method, budget=budget, seed=seed, within=within
    ).run()


def dsm_updates(seeds: int) -> Rows:
    methods = {**ablated("dsm", "random edits", "fixed subspaces"), "random, whole space": "random"}
    rows = [{**row, "all of them": None} for row in compared(methods, NB201, QUERIES, seeds)]
    for on in NB201:
        archs = nasplug.problem(on).score(nasplug.problem(on).space.all()).reports
        (whole,) = (row for row in rows if (row["problem"], row[""]) == (on, "random, whole space"))
        whole["all of them"] = [archs.mean(), archs.std()]
        rows.append(mined(on, seeds))
    return rows


def mined(on: str, seeds: int) -> Row:
    """Random search within the ball around the best center of a search with M=4."""
    problem, best, inside = nasplug.problem(on), [], []
    archs = problem.space.all()
    reports = problem.score(archs).reports
    methods = {"dsm": "dsm", "M=4": "dsm:M=4"}
    kept = nasplug.compare(methods, NB201, budget=QUERIES, seeds=seeds, tracking=False)
    centers = kept.searches.query("problem == @on and method == 'M=4'").arch
    for seed, center in enumerate(centers):
        ball = nasplug.Ball(problem.space, problem.space.from_str(center), 4)
        inside.append(reports[ball.contains(archs)])
        found = drawn(on, QUERIES, seed, ball).best
        best.append((found.report_value, found.value))
    report, reward = np.transpose(best)
    return {
        "": "random, mined subspace", "problem": on, "report": spread(report),
        "reward": spread(reward), "p": None,
        "all of them": [np.mean(inside), np.mean([one.std() for one in inside])],
    }  # fmt: skip


def spread(values: Any) -> list[float]:
    """[mean, standard deviation]; of a single value the mean alone."""
    mean = [float(np.mean(values))]
    return [*mean, float(np.std(values, ddof=1))] if len(values) > 1 else mean


def simulated(seeds: int) -> Rows:
    methods = {"DSM-NAS, as shipped": "dsm", "DSM-NAS": f"dsm:{PAPER}", "random": "random",
               "regularized evolution": "regularized-evolution"}  # fmt: skip
    return [row for on, budget in TIMED.items() for row in compared(methods, [on], budget, seeds)]


def dsm_ablations(given: str, on: Sequence[str], *names: str) -> Callable[[int], Rows]:
    return lambda seeds: compared(ablated(given, *names), on, QUERIES, seeds)


def top_shares(seeds: int) -> Rows:
    """The best of a random sample, by reward, beside what LISSNAS leaves by as many labels."""
    rows = []
    kept = [r for r in load("shrinkage_nb201") if (r["method"], r["target"]) == ("lissnas", 350)]
    for on in NB201:
        problem = nasplug.problem(on)
        whole = problem.score(problem.space.all()).reports
        rows.append({"": "the full space", "problem": on, "mean": whole.mean(), "max": whole.max()})
        found: dict[int, list[tuple[float, float]]] = {share: [] for share in SHARES}
        for seed in range(seeds):
            trials = drawn(on, LABELS, seed).search.trials
            reports = trials.reports[np.argsort(-trials.scores, kind="stable")]
            for share in SHARES:
                top = reports[: LABELS * share // 100]
                found[share].append((top.mean(), top.max()))
        for share, values in found.items():
            mean, most = np.transpose(values)
            rows.append({
                "": f"Top-{share}", "problem": on, "mean": spread(mean), "max": spread(most)
            })  # fmt: skip
        (lissnas,) = (row for row in kept if row["problem"] == on)
        mean, most = (lissnas[column]["mean"] for column in ("mean", "max"))
        rows.append({"": "LISSNAS", "problem": on, "mean": mean, "max": most})
    return rows


def lissnas_neighbors(seeds: int) -> Rows:
    methods = ablated("lissnas", "no neighbors", "without locality")
    return compared(methods, NB201, QUERIES, seeds)


# ---- supernets


def explored(seeds: int) -> Rows:
    """The cell after each epoch: how far it is from the one before, and what the table says."""
    from nb201_oneshot import images  # torch takes seconds

    data, table = images(IMAGES, SIDE), nasplug.problem("nb201/cifar10")
    rows = []
    for method in ("darts", "gdas", "ddsas"):
        runs = []
        for seed in range(seeds):
            with TemporaryDirectory() as folder:
                found = nasplug.search(
                    method, space=nasplug.space("nb201:C=8,N=1"), data=data, budget=EPOCHS,
                    seed=seed, out=Path(folder) / "run", tracking=False, progress=False,
                )  # fmt: skip
            trials = found.search.trials
            reports = table.score(trials.archs).reports
            runs.append((trials.metrics["distance"], reports))
        distance, report = np.array(runs).transpose(1, 0, 2)
        rows.append({
            "": method, "cosine distance of epochs": spread(np.nanmean(distance, 1)),
            "of the last five": spread(np.nanmean(distance[:, -5:], 1)),
            "test accuracy, mean of epochs": spread(report.mean(1)),
            "last": spread(report[:, -1]),
        })  # fmt: skip
    return rows


class Pairs:
    """Of operations k1, k2 of an edge in a subspace: within 1.0±0.1, the second term of eq. 10?

    All of its factors but f(ζ_k2) / f(ζ_k1) cancel, since both archs are of one subspace.
    """

    def __init__(self) -> None:
        self.shares: list[float] = []  # after each subspace

    @nasplug.hookimpl
    def update(self, search: nasplug.Search) -> None:
        Z, p = search.method.Z, search.method.zeta.detach().sigmoid().numpy()
        pairs = Z[:, :, None] & Z[:, None] & ~np.eye(Z.shape[1], dtype=bool)
        self.shares.append(float(np.mean(abs(p[:, None] / p[:, :, None] - 1)[pairs] <= 0.1)))


def approximated(seeds: int) -> Rows:
    from nb201_oneshot import images

    epochs, n = WHOLE
    data, found = images(n, SIDE), []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            watch = Pairs()
            nasplug.search(
                "ddsas", space=nasplug.space("nb201:C=4,N=1"), data=data, budget=epochs,
                seed=seed, out=Path(folder) / "run", plugins=[watch], tracking=False,
                progress=False, L=12,
            )  # fmt: skip
        parts = np.array_split(100 * np.array(watch.shares), 5)
        found.append([100 * np.mean(watch.shares), *(part.mean() for part in parts)])
    whole, *parts = np.transpose(found)
    steps = {f"{20 * i} to {20 * i + 20} % of steps": spread(x) for i, x in enumerate(parts)}
    return [{"": "within 1.0±0.1, %", "all subspaces": spread(whole), **steps}]


def imagined(preferences: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, Any]]:
    """DDSAS on NB201, without a network: after each subspace the saliency, p q of all, and α.

    preferences: (6, 5), how far ζ and α of an operation move in a subspace that has it, against
    the mean of what is there on its edge.
    """
    from nasplug_ddsas.method import saliency, sample, ucb

    every, cut, groups = np.ones((6, 5), bool), np.arange(5) == np.zeros((6, 1)), [[*range(6)]]
    zeta, alpha = 1e-3 * rng.standard_normal((2, *every.shape))
    t, s = np.zeros(every.shape, int), np.zeros(every.shape)
    for T in count():
        p, q = 1 / (1 + np.exp(-zeta)), np.exp(alpha)
        Z = sample(ucb(p, T, t), every, 12, groups, cut)
        present = Z.sum(1, keepdims=True)
        step = Z * (preferences - (Z * preferences).sum(1, keepdims=True) / present)
        zeta, alpha, t = zeta + step, alpha + step, t + Z
        s = saliency(s, t, Z, p * q * Z / (q * Z).sum(1, keepdims=True))
        joint = np.exp(alpha) / np.exp(alpha).sum(1, keepdims=True) / (1 + np.exp(-zeta))
        yield np.where(cut, -np.inf, s), np.where(cut, -np.inf, joint), alpha


def unlearned(seeds: int) -> Rows:
    """The cell that DDSAS selects if ζ and α stay as they begin: its subspaces alone decide."""
    space, table, rows = nasplug.space("nb201"), nasplug.problem("nb201/cifar10"), []
    runs = [
        [s.argmax(1) for s, *_ in islice(imagined(0.0, np.random.default_rng(seed)), 50 * DRAWN)]
        for seed in range(seeds)
    ]
    for epochs in (1, 25, 50):
        archs = np.array([cells[epochs * DRAWN - 1] for cells in runs], space.dtype)
        reports = table.score(archs).reports
        rows.append({
            "": f"after {epochs} epoch{'s' * (epochs > 1)}", "CIFAR-10": spread(reports),
            "median": float(np.median(reports)), "at least 93.7, %": 100 * np.mean(reports >= 93.7),
        })  # fmt: skip
    return rows


def told_apart(seeds: int) -> Rows:
    """On how many edges the operation that is preferred most is selected after 25 epochs."""
    rows = []
    for drift in (3e-4, 1e-3, 3e-3):
        found = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            wanted = rng.standard_normal((6, 5))
            *_, (s, joint, alpha) = islice(imagined(drift * wanted, rng), 25 * DRAWN)
            best = np.where(np.isinf(s), -np.inf, wanted).argmax(1)
            hits = [100 * np.mean(x.argmax(1) == best) for x in (s, joint)]
            found.append([*hits, np.ptp(alpha, axis=1).mean()])
        by_saliency, by_joint, apart = np.mean(found, 0).tolist()
        rows.append({
            "": f"{apart:.2f} apart", "saliency, %": by_saliency, "p q as it is, %": by_joint,
        })  # fmt: skip
    return rows


# ---- what other benchmarks have kept


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def distances(_: int) -> Rows:
    found = load("locality")
    return [
        {"": f"D={d + 1}", **{on: found[on]["aad"][d] for on in TABLES}}
        for d in range(6)
    ]  # fmt: skip


def resources(_: int) -> Rows:
    found = load("supernet_speed")
    return [
        {"": f"L={L}", "seconds a step": found["seconds"][L], "GB": found["memory_gb"][L]}
        for L in ("28", "112")
    ]  # fmt: skip


def criteria(_: int) -> Rows:
    found = load("nb201_oneshot")
    return [
        {
            "": name, "CIFAR-10": spread([run[-1] for run in found[name]["cifar10"]]),
            "CIFAR-100": spread(found[name]["cifar100"]), "Spearman": found[name]["spearman"][0],
        }
        for name in CRITERIA
    ]  # fmt: skip


def criteria_by_epoch(_: int) -> Rows:
    found = load("nb201_oneshot")
    epochs = (1, 2, 3, 5, 10, 15, 20, 25)
    return [
        {"": name, **{f"{e}": np.mean(found[name]["cifar10"], 0)[e - 1] for e in epochs}}
        for name in CRITERIA
    ]


def learned_space(_: int) -> Rows:
    rows = []
    for name, algorithm, space in (
        ("Evolution in the full space", "EA", "unselected"),
        ("Manual, RL", "RL", "manual"),
        ("AutoSpace, RL", "RL", "union"),
        ("Manual, G", "G", "manual"),
        ("AutoSpace, G", "G", "union"),
    ):
        madds, _val, test = np.transpose(load("autospace_10")[f"search/{algorithm}"][space])
        rows.append({"": name, "MAdds (M)": spread(madds / 1e6), "test accuracy": spread(test)})
    return rows


def ranked(_: int) -> Rows:
    epochs = load("autospace")["rank"]["epochs"]
    return [{"": f"{i + 1}", "right from epoch": f"{epoch}"} for i, epoch in enumerate(epochs)]


# ---- the entries

HEAD = """# The papers' figures and tables

Written by `python benchmarks/papers.py`, at the size that each entry states: mean±standard
deviation over the seeds. *report* is what the table reports of the selected arch, which no search
sees; *reward* is what it was selected by; *p* is that of Wilcoxon's signed-rank test against the
first row, with Holm's correction. What the papers print is of their own spaces, data and sizes:
what can be compared is which row is ahead.
"""
ONESHOT = "python benchmarks/nb201_oneshot.py"
ON_TABLES = "tables instead of the supernet on ImageNet; 200 queries"
REWARD_AND_GRAPH = {"absolute reward": "67.63±0.31", "without subspace graph": "67.12±0.46"}
ENTRIES = {
    "dsm-table-2": Entry(
        "DSM-NAS, Table II: NAS-Bench-201 in 25,000 simulated seconds",
        "validation accuracy after 12 epochs searched by, test accuracy after 200 reported; as "
        "many archs as searches of DSM-NAS score in that time by the costs of `nasplug[nb201]` "
        f"(eight each): {TIMED[NB201[0]]} of CIFAR-10, {TIMED[NB201[1]]} of CIFAR-100. "
        f"*DSM-NAS* has the paper's `{PAPER}`; printed are CIFAR-10 and CIFAR-100",
        simulated,
        {"DSM-NAS": "94.23±0.22, 72.76±0.80", "random": "93.88±0.27, 71.54±1.04"},
        seeds=100,
    ),
    "dsm-figure-6": Entry(
        "DSM-NAS, Figure 6: difference in test accuracy by distance",
        "mean absolute difference of an arch and one that D random edits lead to",
        distances,
        {"D=1": "4.49 (NAS-Bench-201)", "D=2": "6.69"},
        kept_by="python benchmarks/locality.py --out benchmarks/results/locality.json",
    ),
    "dsm-figure-7": Entry(
        "DSM-NAS, Figure 7: with and without updates of the subspaces",
        "200 queries; the mined subspace is the ball of M=4 around the best center; *all of them*: "
        "every arch of the space, or of the ball (what is printed)",
        dsm_updates,
        {"random, whole space": "87.37±9.71", "random, mined subspace": "91.89±1.53"},
    ),
    "dsm-figure-8": Entry(
        "DSM-NAS, Figure 8: the reward, and the subspace graph",
        f"{ON_TABLES}; printed: validation accuracy in the MobileNet-like space, "
        "67.81±0.18 for DSM-NAS",
        dsm_ablations("dsm", TABLES, *REWARD_AND_GRAPH),
        REWARD_AND_GRAPH,
    ),
    "dsm-figure-8-settings": Entry(
        "DSM-NAS, Figure 8, with the paper's settings",
        f"as Figure 8, with `{PAPER}`",
        dsm_ablations(f"dsm:{PAPER}", NB201, *REWARD_AND_GRAPH),
        REWARD_AND_GRAPH,
    ),
    "dsm-figure-9a": Entry(
        "DSM-NAS, Figure 9 (a): the number of subspaces",
        f"{ON_TABLES}; `dsm` has K=4",
        dsm_ablations("dsm", TABLES, "K=1", "K=10"),
        {"K=1": "the worst", "K=10": "as good as more"},
    ),
    "dsm-figure-9b": Entry(
        "DSM-NAS, Figure 9 (b): the local search distance",
        f"{ON_TABLES}; `dsm` has M=1; 6 decisions (macro: 8) where the paper has 20",
        dsm_ablations("dsm", TABLES, "M=3", "M=5"),
        {"M=3": "the best of 1, 3, 5, 10, 20"},
    ),
    "lissnas-table-9": Entry(
        "LISSNAS, Table 9: naive random shrinkage",
        "NAS-Bench-201 instead of 101, 500 true queries each; LISSNAS leaves 350 archs",
        top_shares,
        {
            "the full space": "90.4, 94.6", "Top-30": "90.8, 93.2", "Top-20": "91.0, 93.5",
            "Top-10": "91.4, 94.1", "Top-5": "91.9, 93.9", "LISSNAS": "92.1, 94.6",
        },
    ),
    "lissnas-table-10": Entry(
        "LISSNAS, Table 10: how neighbors are generated",
        "NAS-Bench-201 instead of 101, 200 true queries each; the best arch found",
        lissnas_neighbors,
        {"no neighbors": "93.9", "without locality": "93.2", "lissnas": "94.6"},
    ),
    "ddsas-figure-5": Entry(
        "DDSAS, Figure 5: exploration and exploitation",
        f"cells of C=8, N=1 on {IMAGES} + {IMAGES} images of CIFAR-10 at {SIDE}x{SIDE}, {EPOCHS} "
        "epochs, a size at which supernets do not tell good cells from bad; tabulated accuracy",
        explored,
        {"darts": "the least", "gdas": "the greatest, less accurate", "ddsas": "between, 93.73"},
        seeds=3,
    ),
    "ddsas-chance": Entry(
        "DDSAS, Table 4: what chance would have",
        "the cells of NAS-Bench-201 that are selected if ζ and α stay as they begin, L=12, M=30: "
        "the saliency is a mean of p·q over subspaces, q is 1 where an operation is alone on its "
        "edge, and so which operations were drawn together decides",
        unlearned,
        {"after 50 epochs": "93.73±0.32 (learned)"},
        seeds=200,
    ),
    "ddsas-saliency": Entry(
        "DDSAS, eq. 11: what the saliency tells apart",
        "made-up preferences, towards which ζ and α move in each subspace, 13 an epoch, for 25 "
        "epochs: on how many edges of a cell the operation preferred most is selected, by how far "
        "the α of an edge are apart then",
        told_apart,
        seeds=60,
    ),
    "ddsas-figure-6a": Entry(
        "DDSAS, Figure 6 (a): how often the second term of eq. 10 is within 1.0±0.1",
        f"pairs of operations of an edge, over all subspaces of a search: cells of NAS-Bench-201, "
        f"C=4, N=1, images of {SIDE}x{SIDE}, 50 epochs of 25,000 images as in the paper. Of that "
        "term all cancels but f(ζ) of one operation over that of the other, and with it their p "
        "in the first term: what is left of eq. 10 is the ratio of their q",
        approximated,
        {"within 1.0±0.1, %": "82.2 (all subspaces)"},
        seeds=1,
    ),
    "ddsas-figure-6b": Entry(
        "DDSAS, Figure 6 (b): the cost of L operations",
        "DARTS supernet, C=16, 8 cells, batch 16",
        resources,
        {"L=28": "linear in L", "L=112": "linear in L"},
        kept_by="python benchmarks/supernet_speed.py",
    ),
    "ostr-table-5": Entry(
        "OStr-DARTS, Table V: the criteria",
        "C=8, N=5, images of 16x16; 25 of 100 epochs, three seeds",
        criteria,
        {
            "magnitude": "54.30±0.00, 15.61±0.00", "naive": "93.86±0.29, 71.88±0.37",
            "strength*": "94.02±0.25, 73.09±0.77", "strength": "94.36±0.00, 73.51±0.00",
        },
        kept_by=ONESHOT,
    ),
    "ostr-figure-9": Entry(
        "OStr-DARTS, Figure 9: accuracy of the selected cell by epoch",
        "CIFAR-10, as in Table V",
        criteria_by_epoch,
        {"strength": "does not drop", "strength*": "does not drop", "naive": "slow, lower"},
        kept_by=ONESHOT,
    ),
    "autospace-table-2": Entry(
        "AutoSpace, Tables 2 and 4: where to search",
        "CIFAR-10 at 8x8, 10,000 images, 0.345M, three seeds, networks trained for ten epochs, "
        "which are too few; evolution by 20 trainings",
        learned_space,
        {
            "Evolution in the full space": "73.7 at 480M", "Manual, RL": "74.9 at 470M",
            "AutoSpace, RL": "75.8 at 415M",
            "Manual, G": "74.1 at 340M", "AutoSpace, G": "75.3 at 340M",
        },
        kept_by="python benchmarks/autospace_table.py --train 10",
    ),
    "autospace-table-6": Entry(
        "AutoSpace, Table 6: rankings from random initial scores",
        "networks of 3, 1 and 0 inverted residuals at 8x8; by trial",
        ranked,
        {"1": "5", "2": "3", "3": "4", "4": "5", "5": "6"},
        kept_by="python benchmarks/autospace_table.py --parts rank",
    ),
}  # fmt: skip


def page() -> str:
    """All entries, in Markdown."""
    kept = measured()
    return "\n".join([HEAD, *(section(name, kept.get(name)) for name in ENTRIES)])


def measured() -> dict[str, Any]:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def section(name: str, kept: Mapping[str, Any] | None) -> str:
    """An entry with its table, or with the command that measures it. kept: of papers.json."""
    entry = ENTRIES[name]
    if entry.kept_by:
        rows, seeds = entry.rows(0), ""
    elif kept:
        rows, seeds = kept["rows"], f"; {kept['seeds']} seed{'s' * (kept['seeds'] > 1)}"
    else:
        return f"## {entry.title}\n\nNot measured yet: `{entry.made_by}`\n"
    head = [*rows[0], "the paper"]
    printed = dict(entry.paper)
    body = [[*map(cell, row.values()), printed.pop(row[""], "")] for row in rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]
    table = re.sub(" +", " ", "\n".join(lines))
    size = entry.size[0].upper() + entry.size[1:]
    return f"## {entry.title}\n\n{size}{seeds}: `{entry.made_by}`\n\n{table}\n"


def cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list | tuple):
        return "±".join(f"{x:.2f}" for x in value)
    return f"{value:#.2g}" if abs(value) < 1 else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("entries", nargs="*", choices=[*ENTRIES, []], metavar="ENTRY")
    parser.add_argument("--seeds", type=int, help="by default what the page states")
    parser.add_argument("--list", action="store_true", help="the entries")
    given = parser.parse_args()
    if given.list:
        for name, entry in ENTRIES.items():
            print(f"{name:18} {entry.title}\n{'':18} {entry.made_by}")
        return
    for name in given.entries:
        entry = ENTRIES[name]
        seeds = given.seeds or entry.seeds
        rows = entry.rows(seeds)
        if not entry.kept_by:
            kept = {**measured(), name: {"seeds": seeds, "rows": rows}}
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        print(section(name, measured().get(name)))
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
