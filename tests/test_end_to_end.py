"""Every installed arch-proposing method, through the public door."""

import pytest

import nasplug
from nasplug import Space
from nasplug.kernel.registry import registry

SPACE = Space({f"d{i}": range(4) for i in range(6)})
METHODS = [
    name
    for name in ("random", "regularized-evolution", "local-search", "reinforce", "dsm")
    if name in registry().methods
]
BUDGET = 60


def score(arch):
    return sum(choice * (i + 1) for i, choice in enumerate(arch.values()))


def search(method, **options):
    options = {"space": SPACE, "evaluate": score, "budget": BUDGET, "tracking": False} | options
    return nasplug.search(method, **options)


@pytest.mark.parametrize("method", METHODS)
def test_the_answer_is_the_best_that_was_scored(method):
    result = search(method, seed=1)
    assert result.best.value == result.search.trials.values.max()
    assert result.best.value == score(result.best.params)


def test_a_run_directory_tells_all(tmp_path):
    result = search("random", out=tmp_path / "run")
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"run.json", "journal.sqlite", "selection.json", "trials.csv", "status.json"} <= names
    assert result.run_dir == tmp_path / "run"
    assert len(result.trials) == BUDGET


def test_the_best_becomes_a_module():
    torch = pytest.importorskip("torch")
    result = nasplug.search("random", on="nb201/digits", budget=1, tracking=False)
    assert result.best.build()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    model = result.best.build(classes=7, channels=3, resolution=32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert result.best.metrics["params"] > 0
    assert 0 <= result.best.value <= 100
    assert 0 <= result.report <= 100
