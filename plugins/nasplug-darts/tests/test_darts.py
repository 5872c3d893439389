import logging
import subprocess
import sys

import numpy as np
import pytest

import nasplug
from nasplug import Mask, NasplugError

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from nasplug.nn import BiLevel  # noqa: E402
from nasplug.testing import method_checks  # noqa: E402
from nasplug_darts.darts import Darts  # noqa: E402
from nasplug_darts.gdas import GDAS  # noqa: E402
from nasplug_darts.pc_darts import PCDarts  # noqa: E402

ON = "nb201:C=4,N=1/digits"
METHODS = {"darts": Darts(), "pc-darts": PCDarts(warmup=1), "gdas": GDAS()}
CHECKS = {f"{name}-{check}": check for name in METHODS for check in method_checks(METHODS[name])}
CHECKS |= {f"second-{check}": check for check in method_checks(Darts(order=2))[:6]}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_they_behave(check):
    check()


def run(cls, budget=2, seed=0, on=ON, within=None, **options):
    method = cls(**({"batch": 256} | options))
    selection = nasplug.search(
        method, on=on, budget=budget, seed=seed, tracking=False, within=within
    )
    return selection, method


def test_warmup_leaves_the_architecture_alone():
    """Of PC-DARTS at its own warm-up, 15 epochs, nothing would be learned in 15."""
    alphas = []

    class Watch:
        @nasplug.hookimpl
        def update(self, search):
            alphas.append(search.method.alpha.detach().clone())

    nasplug.search(PCDarts(batch=256, warmup=2), on=ON, budget=3, tracking=False, plugins=[Watch()])
    assert torch.equal(alphas[0], alphas[1])
    assert not torch.equal(alphas[1], alphas[2])


@pytest.mark.parametrize(
    ("budget", "options", "left"),
    [(15, {}, 15), (1, {}, 1), (20, {"epochs": 10}, 10), (2, {"warmup": 2}, 2)],
)
def test_a_budget_that_the_warmup_takes_up_says_so(budget, options, left):
    warmup = options.get("warmup", 15)
    with pytest.raises(NasplugError, match=f"warmup={warmup} leaves none of {left} epochs"):
        run(PCDarts, budget=budget, **options)


def test_darts_cells_are_searched_too():
    selection, _ = run(Darts, budget=1, on="darts:C=2,layers=3/digits", batch=512)
    assert selection.best.arch.shape == (32,)
    assert 0 <= selection.best.value <= 100


def test_a_collapse_is_logged_and_tracked(caplog):
    space = nasplug.space("nb201")
    idle = Mask(space, {name: ["none", "skip_connect"] for name in space.names})
    with caplog.at_level(logging.WARNING, "nasplug"):
        selection, _ = run(Darts, within=idle)
    assert "epoch 1: collapse, 100% of the operations do nothing" in caplog.text
    np.testing.assert_array_equal(selection.search.trials.metrics["idle_share"], 1)


def test_out_of_memory_says_which_batch_fits(monkeypatch):
    loss = BiLevel.loss

    def limited(level, batch, mixture):
        if len(batch[1]) > 70:
            raise torch.OutOfMemoryError
        return loss(level, batch, mixture)

    monkeypatch.setattr(BiLevel, "loss", limited)
    with pytest.raises(NasplugError, match=r"out of memory at batch=256, .* batch=64 would fit"):
        run(Darts)


PROCESS = """
import pathlib, torch, nasplug
torch.distributed.init_process_group("gloo")
found = nasplug.search("darts", on="nb201:C=2,N=1/digits", budget=2, tracking=False, batch=256)
alpha = found.search.method.alpha.detach()
rank = torch.distributed.get_rank()
pathlib.Path(f"rank{rank}.txt").write_text(f"{found.best} {alpha.double().sum().item()}")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_of_torchrun_end_with_the_same_arch(tmp_path):
    (tmp_path / "search.py").write_text(PROCESS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "search.py"]
    subprocess.run(launch, cwd=tmp_path, capture_output=True, check=True)
    first, second = ((tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
