"""Trials at once: candidates are scored by workers, of this machine or of a cluster.

One interface for every engine, `concurrent.futures.Executor`: processes of this machine are
loky's, clusters are Dask's, Ray's, MPI's.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from nasplug.errors import NasplugError, lacking
from nasplug.hookspecs import hookimpl
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import State, Trials

MOST = 256  # processes on one machine
SENT = 1 << 20  # bytes that may go with every trial
LOOK = 0.5  # seconds between looks at the process that a worker works for


@dataclass(frozen=True)
class Workers:
    """Who scores: so many at a time, each with an executor of its own or all with one.

    written: for run.json, by which `Workers.of` finds them again; "" if it cannot.
    local: processes of this machine, which are ended, and replaced when they die.
    """

    size: int
    executor: Callable[[int], Executor]
    written: str
    local: bool = False

    @classmethod
    def of(cls, given: int | str | Executor) -> Workers:
        """From a number of processes, the name of an engine (``"dask:tcp://host:8786"``), or any
        executor."""
        if not (hasattr(given, "submit") or (isinstance(given, str) and given[:1].isalpha())):
            n = int(str(given)) if str(given).isdecimal() else 0
            if not 1 <= n <= MOST:
                raise NasplugError(
                    f"workers={given!r} is no executor and no number of processes, of which this "
                    f"machine takes 1 to {MOST}; more are a cluster's, as in "
                    "workers='dask:tcp://scheduler:8786'"
                )
            return cls(n, partial(_process, n), str(n), local=True)
        executor: Any = given
        if isinstance(given, str):
            name, _, address = given.partition(":")
            executor = registry().get("executor", name)(address)
        return cls(_size(executor), lambda _: executor, given if isinstance(given, str) else "")


def _size(executor: Any) -> int:
    """How many calls an executor works on at a time."""
    if client := getattr(executor, "_client", None):  # of Dask's `client.get_executor()`
        return sum(client.nthreads().values()) or 1
    for name in ("max_workers", "_max_workers"):
        if isinstance(size := getattr(executor, name, None), int) and size > 0:
            return size
    raise NasplugError(
        f"{type(executor).__name__} does not say how many calls it works on at a time: set its "
        "attribute max_workers"
    )


# ---- processes of this machine


def _process(of: int, number: int) -> Executor:
    """One of so many processes, with its share of the cores and a GPU, if there are any."""
    try:
        from loky import ProcessPoolExecutor
    except ImportError as error:
        raise lacking("workers", error) from None
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // of))}
    if gpus := _gpus():
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    found: Executor = ProcessPoolExecutor(
        1, env=environment, initializer=_serve, initargs=(os.getpid(),)
    )
    return found


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name for name in said.split(",") if name]
    return [str(i) for i in range(len(glob("/dev/nvidia[0-9]*")))]


def _serve(master: int) -> None:
    """Ctrl-C is the master's business, and a worker ends when the master does, which it asks again
    and again: loky's processes have no sentinel of their parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def look() -> None:
        while os.getppid() == master:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


# ---- in a worker


class Score(NamedTuple):
    """What a trial was told: no class of the user's is in it."""

    value: float
    report: float
    cost: float
    state: int
    metrics: dict[str, float]
    notes: dict[str, Any]


# What this process scores with; its scorer is made once, which takes a millisecond.
_known: dict[str, tuple[Problem, Callable[[Trials], Trials]]] = {}


def score(
    key: str,
    problem: bytes | str,
    arch: bytes,
    number: int,
    round: int,
    fidelity: int,
    checkpoints: Path | None,
    pruner: bytes,
) -> Score:
    """Score one arch. The problem comes pickled, or as the file that holds it: by the search that
    this process works for, and nobody else."""
    try:
        if key not in _known:
            pickled = Path(problem).read_bytes() if isinstance(problem, str) else problem
            opened = pickle.loads(pickled)
            _known.clear()
            _known[key] = opened, opened.scorer()
        opened, scorer = _known[key]
        archs = np.frombuffer(arch, opened.space.dtype)[None]
        trials = Trials(opened.space, archs, opened.maximize, number, round, fidelity)
        trials.checkpoints, trials.pruner = checkpoints, pickle.loads(pruner)
        scorer(trials)
    except Exception as error:  # here, since it may be of a class that cannot travel
        said = {"error": f"{type(error).__name__}: {error}"}
        return Score(np.nan, np.nan, np.nan, State.FAILED, {}, said)
    metrics = {name: float(column[0]) for name, column in trials.metrics.items()}
    value, report, cost = (float(c[0]) for c in (trials.values, trials.reports, trials.costs))
    return Score(value, report, cost, int(trials.states[0]), metrics, trials.notes.get(0, {}))


# ---- in the search


@dataclass
class Job:
    """A row that is scored, by which worker, and which time."""

    trials: Trials
    row: int
    worker: int = -1
    attempts: int = 0


class Parallel:
    """A plugin of a search that scores what waits with workers, and tells it as it comes.

    A round ends when all of it is scored; in an asynchronous search as soon as some of what is out
    is. A trial whose worker dies is scored again, `retries` times, and has then failed.
    """

    def __init__(self, search: Search, workers: Workers, retries: int = 1) -> None:
        problem = search.problem
        if hasattr(search.method, "evaluate"):
            raise NasplugError(f"{search.method_name} trains one network: workers= cannot share it")
        if problem.free:
            raise NasplugError(
                f"{problem.name} is looked up by its {problem.evaluator_name}, which is quicker "
                "than sending it to workers: leave workers= away"
            )
        self.search, self.workers, self.retries = search, workers, retries
        self.executors = [workers.executor(i) for i in range(workers.size)]
        self.idle = deque(range(workers.size))
        self.waiting: deque[Job] = deque()
        self.running: set[Future[Score]] = set()
        self.done: SimpleQueue[tuple[Job, Future[Score]]] = SimpleQueue()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.key, self.problem = self._packed(problem)
        search.pm.register(self, "workers")

    @hookimpl(tryfirst=True)
    def evaluate(self, search: Search, candidates: Trials | Region) -> Trials | None:
        if not isinstance(candidates, Trials):
            return None
        pruner = _pickled(search.pruner, "the pruner")
        rows = candidates.waiting
        if search.asynchronous:
            numbers = candidates.numbers[rows].tolist()
            search.out.update(zip(numbers, candidates.archs[rows], strict=True))
        self.waiting.extend(Job(candidates, row) for row in rows.tolist())
        told: list[int] = []
        while self.waiting or self.running:
            while self.waiting and self.idle:
                self._submit(self.waiting.popleft(), pruner)
            search.activity = f"{len(self.running)} at once"
            told += self._collect()
            if search.asynchronous and told and search.wanted > 0 and self.done.empty():
                break
        return search.trials.select(np.array(told, np.intp)) if search.asynchronous else candidates

    def close(self) -> None:
        """End the processes of this machine; what others have been given is called off."""
        for future in self.running:
            future.cancel()
        for number in range(self.workers.size) if self.workers.local else ():
            self._end(number)
        if self.workers.written and not self.workers.local:  # it was opened by its name
            self.executors[0].shutdown(wait=False)
        if self._folder:
            self._folder.cleanup()

    def _submit(self, job: Job, pruner: bytes) -> None:
        job.worker = self.idle.popleft()
        job.attempts += 1
        trials, row = job.trials, job.row
        arch, number = trials.archs[row].tobytes(), int(trials.numbers[row])
        at = (int(trials.fidelities[row]), trials.checkpoints)
        what = (self.key, self.problem, arch, number, self.search.round, *at, pruner)
        try:
            future = self.executors[job.worker].submit(score, *what)
        except BrokenExecutor:  # it has died while it had nothing to do
            self._renew(job.worker)
            future = self.executors[job.worker].submit(score, *what)
        self.running.add(future)
        future.add_done_callback(lambda done: self.done.put((job, done)))

    def _collect(self) -> list[int]:
        """Wait for a job; the number of its trial, if that has been told."""
        job, future = self.done.get()
        self.running.remove(future)
        self.idle.append(job.worker)
        trials, row = job.trials, job.row
        try:
            value, report, cost, state, metrics, notes = future.result()
        except (Exception, CancelledError) as error:  # whatever an engine raises when one dies
            self._renew(job.worker)
            if job.attempts <= self.retries:
                self.waiting.appendleft(job)
                return []
            trials.fail(row, f"its worker died: {type(error).__name__}: {_first_line(error)}")
        else:
            if notes:
                trials.notes[row] = notes
            trials.tell(
                row, values=value, reports=report, costs=cost, metrics=metrics, state=State(state)
            )
        return [int(trials.numbers[row])]

    def _renew(self, number: int) -> None:
        """A new process in the place of one that has died; an engine does that itself."""
        if self.workers.local:
            self._end(number)
            self.executors[number] = self.workers.executor(number)

    def _end(self, number: int) -> None:
        self.executors[number].shutdown(kill_workers=True)  # type: ignore[call-arg]  # loky's

    def _packed(self, problem: Problem) -> tuple[str, bytes | str]:
        """The problem for the workers, and by what they know it."""
        pickled = _pickled(problem, f"what scores {problem.name}")
        key = hashlib.sha256(pickled).hexdigest()
        if len(pickled) <= SENT:
            return key, pickled
        if not self.workers.local:
            raise NasplugError(
                f"what scores {problem.name} is {len(pickled) >> 20} MB, too much to send with "
                "each trial: read the data in a function of yours, evaluate="
            )
        self._folder = tempfile.TemporaryDirectory(prefix="nasplug-")
        file = Path(self._folder.name) / "problem"
        file.write_bytes(pickled)
        return key, str(file)


def _pickled(thing: Any, what: str) -> bytes:
    """NasplugError that says what cannot be sent to another process."""
    try:
        from cloudpickle import dumps
    except ImportError as error:
        raise lacking("workers", error) from None
    try:
        return dumps(thing)
    except Exception as error:  # whatever the class of some attribute raises
        raise NasplugError(
            f"{what} cannot be sent to workers: {type(error).__name__}: {_first_line(error)}"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
