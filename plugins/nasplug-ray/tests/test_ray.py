"""A real Ray on loopback."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import ray

import nasplug
from nasplug import NasplugError

SPACE = nasplug.Space({f"x{i}": [0, 1, 2, 3, 4] for i in range(5)})


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(
        "local", num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="ERROR",
        object_store_memory=100 << 20,
    )  # fmt: skip
    yield
    ray.shutdown()


def search(score, **options):
    pytest.importorskip("nasplug_baselines")
    return nasplug.search(
        "regularized-evolution", space=SPACE, evaluate=score, tracking=False, budget=12, **options
    )


def noted(arch, trial):
    trial.set_user_attr("process", os.getpid())
    return sum(arch.values())


def test_ray_scores_what_processes_here_would():
    there = search(noted, workers="ray")
    assert os.getpid() not in {trial.user_attrs["process"] for trial in there.search.trials}
    assert there.search.at_once == 2
    assert ray.is_initialized(), "the user's own connection stays"
    here = search(noted, workers=2)
    assert np.array_equal(there.search.trials.archs, here.search.trials.archs)


def test_a_worker_that_dies_costs_no_trial(tmp_path):
    def deadly(arch):
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(arch.values())

    found = search(deadly, workers="ray")
    assert {trial.state for trial in found.search.trials} == {nasplug.State.COMPLETE}


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere:x", "ray://"])
def test_an_address_where_nothing_is(address):
    """Ray itself would end the process after minutes."""
    ray.shutdown()
    with pytest.raises(NasplugError, match=r"no Ray answers|Ray does not start"):
        search(noted, workers=f"ray:{address}")
