"""Trials at once: how much faster workers are than one, per engine, and what a trial costs.

    python benchmarks/parallel.py [--workers 32] [--rounds 30] [--kills 20]

An evaluator that waits 50 ms is scored by processes of this machine, by Dask and by Ray (both
started here, on loopback): the ratio is to one worker without any overhead, in the second half of
the search, so that what starts is left out. A table that answers at once tells what a trial costs.
An executor that answers at once shows nasplug's own part of it, at up to 10,000 workers.
Durations that vary by a factor of four tell what asynchronous rounds gain; nb201/digits, really
trained, what two processes gain on this machine. Workers are killed (`kill -9`) while they score:
the trials must be those of a search in which none was. Ratios of one run, timed by the parts that
they compare; the last line is one JSON object.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, nullcontext
from typing import Any

import psutil

import nasplug
from nasplug import State
from nasplug.run.parallel import Score

WAIT = 0.05  # seconds of a trial
SPACE = nasplug.Space({f"x{i}": list(range(8)) for i in range(12)})


def waits(arch: dict[str, int]) -> float:
    time.sleep(WAIT)
    return float(sum(arch.values()))


def varies(arch: dict[str, int]) -> float:
    time.sleep(WAIT * (1 + 3 * arch["x0"] / 7))
    return float(sum(arch.values()))


def at_once(arch: dict[str, int]) -> float:
    return float(sum(arch.values()))


class Clock:
    """When each round was over, and how many trials there were then."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, int]] = []

    @nasplug.hookimpl
    def update(self, search: nasplug.Search) -> None:
        self.ticks.append((time.perf_counter(), search.finished))

    def rate(self, after: int) -> float:
        """Trials per second once `after` trials are over."""
        start, first = next(tick for tick in self.ticks if tick[1] >= after)
        end, last = self.ticks[-1]
        return (last - first) / (end - start)


def rate(evaluate: Callable[..., float], workers: Any, budget: int, **options: Any) -> float:
    """Trials per second by some workers, without their start."""
    clock = Clock()
    nasplug.search(
        "random", space=SPACE, evaluate=evaluate, budget=budget, workers=workers, plugins=[clock],
        tracking=False, progress=False, **options,
    )  # fmt: skip
    return clock.rate(budget // 2)


class Instant(Executor):
    """Any number of workers that answer at once."""

    def __init__(self, n: int) -> None:
        self.max_workers = n

    def submit(self, call: Any, /, *args: Any, **named: Any) -> Future[Score]:
        future: Future[Score] = Future()
        future.set_result(Score(1.0, 2.0, 3.0, State.COMPLETE, {"params": 1.0}, {}))
        return future


def own_cost(workers: int) -> float:
    """Microseconds of nasplug itself a trial, in rounds of as many as workers."""
    budget = max(4000, 3 * workers)
    start = time.perf_counter()
    nasplug.search(
        "random", space=SPACE, evaluate=at_once, budget=budget, workers=Instant(workers),
        tracking=False, progress=False,
    )  # fmt: skip
    return 1e6 * (time.perf_counter() - start) / budget


@contextmanager
def dask(n: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=n // 2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()


@contextmanager
def ray(n: int) -> Iterator[Any]:
    import ray

    ray.init("local", num_cpus=n, log_to_driver=False, include_dashboard=False)
    yield "ray"
    ray.shutdown()


def digits(workers: int | None, budget: int, **options: Any) -> float:
    clock = Clock()
    nasplug.search(
        "random", "nb201/digits", evaluator="train", budget=budget, workers=workers, seed=1,
        plugins=[clock], tracking=False, progress=False, **options,
    )  # fmt: skip
    return clock.rate(2)


def killed(kills: int) -> dict[str, int]:
    """Workers killed at random moments, and trials that were other ones than without."""

    def search(plugins: list[Any]) -> list[tuple[int, list[int], float]]:
        found = nasplug.search(
            "regularized-evolution", space=SPACE, evaluate=waits, budget=60 + 25 * kills,
            workers=4, retries=5, plugins=plugins, tracking=False, progress=False,
        )  # fmt: skip
        return [(t.number, t.arch.tolist(), t.value) for t in found.search.trials]

    done, over = 0, threading.Event()

    def kill() -> None:
        nonlocal done
        dice = random.Random(0)
        while done < kills and not over.wait(dice.uniform(0.2, 0.8)):
            alive = []
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if "popen_loky" in " ".join(child.cmdline()):
                        alive.append(child.pid)
            if alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(alive), signal.SIGKILL)
                    done += 1

    thread = threading.Thread(target=kill)
    thread.start()
    found = search([])
    over.set()
    thread.join()
    never = search([])
    return {"kills": done, "other trials": sum(a != b for a, b in zip(found, never, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--kills", type=int, default=20)
    asked = parser.parse_args()
    n, budget = asked.workers, asked.workers * asked.rounds
    result: dict[str, Any] = {"workers": n}
    engines: dict[str, Callable[[int], Any]] = {"local": nullcontext, "dask": dask, "ray": ray}
    for engine, open_engine in engines.items():
        for mode in (False, True):
            with open_engine(n) as workers:
                speed = rate(waits, workers, budget, asynchronous=mode) * WAIT
                result[f"{engine}{', asynchronous' if mode else ''}"] = speed
    result["ms a trial, 1 process"] = 1000 / rate(at_once, 1, 2000)
    result["ms a trial, 2 processes"] = 1000 / rate(at_once, 2, 2000)
    for many in (10, 1000, 10_000):
        result[f"us of nasplug, {many} workers"] = own_cost(many)
    together = rate(varies, 8, 8 * asked.rounds)
    result["asynchronous"] = rate(varies, 8, 8 * asked.rounds, asynchronous=True) / together
    alone = digits(None, 14)
    result["digits, 2 processes"] = digits(2, 14) / alone
    result["digits, asynchronous"] = digits(2, 14, asynchronous=True) / alone
    result |= killed(asked.kills)
    result = {k: v if isinstance(v, int) else round(v, 3) for k, v in result.items()}
    for name, value in result.items():
        print(f"{name:30}{value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
