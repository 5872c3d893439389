"""A real scheduler and real workers on loopback."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from distributed import Client, LocalCluster

import nasplug
from nasplug import NasplugError

SPACE = nasplug.Space({f"x{i}": [0, 1, 2, 3, 4] for i in range(5)})


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


def search(**options):
    def score(arch, trial):
        trial.set_user_attr("process", os.getpid())
        return sum(arch.values())

    pytest.importorskip("nasplug_baselines")
    return nasplug.search(
        "regularized-evolution", space=SPACE, evaluate=score, tracking=False, budget=20, **options
    )


def test_a_cluster_by_its_address_scores_what_processes_here_would(cluster):
    before = set(cluster.scheduler.clients)
    there = search(workers=f"dask:{cluster.scheduler_address}")
    assert set(cluster.scheduler.clients) == before  # the client that was opened is closed
    processes = {trial.user_attrs["process"] for trial in there.search.trials}
    assert os.getpid() not in processes
    assert len(processes) == 2
    here = search(workers=2)
    assert np.array_equal(there.search.trials.archs, here.search.trials.archs)


def test_any_clients_executor_does(cluster):
    with Client(cluster) as client:
        found = search(workers=client.get_executor(), asynchronous=True)
    assert found.search.at_once == 2
    assert len(found.search.trials) == 20


def test_a_worker_that_is_killed_costs_no_trial(cluster):
    with Client(cluster) as client:
        killed = []

        class Killer:
            @nasplug.hookimpl
            def update(self, search):
                if search.round == 2:
                    killed.append(next(iter(client.run(os.getpid).values())))
                    os.kill(killed[0], signal.SIGKILL)

        found = search(workers=client.get_executor(), plugins=[Killer()])
    assert killed
    assert {trial.state for trial in found.search.trials} == {nasplug.State.COMPLETE}


@pytest.mark.parametrize("address", ["", ":tcp://127.0.0.1:9", ":/nowhere.json", ":http://x"])
def test_a_scheduler_that_is_not_there_is_named(address, monkeypatch):
    monkeypatch.setattr("nasplug_dask.executor.PATIENCE", 1)
    with pytest.raises(NasplugError, match="scheduler"):
        search(workers=f"dask{address}")
