"""Evaluators that score by what an earlier run has left: its supernet, or its trials."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError
from nasplug.analysis import XGBoost, rank_correlations
from nasplug.cli import main
from nasplug.run.directory import RunDirectory

torch = pytest.importorskip("torch")
pytest.importorskip("xgboost")

ON = "manual-irb:C=2/digits"
SHUFFLENET = nasplug.space("shufflenetv2")


def search(method: str, on: str = ON, **options: Any) -> nasplug.Selection:
    return nasplug.search(method, on, tracking=False, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nasplug.Selection:
    """A run of a method that trains a supernet, on half of the choices."""
    pytest.importorskip("nasplug_oneshot")
    space = nasplug.problem(ON).space
    allowed = np.arange(space.cardinalities.max()) < 3
    within = nasplug.Mask(space, np.repeat(allowed[None], space.d, 0))
    out = tmp_path_factory.mktemp("runs") / "spos"
    return search("spos", budget=4, within=within, out=out, epochs=1, population=4, seed=3)


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> nasplug.Selection:
    """A run that minimises a function of the user's."""
    return nasplug.search(
        "random", space=SHUFFLENET, evaluate=distance, direction="minimize", budget=200,
        tracking=False, out=tmp_path_factory.mktemp("runs") / "random",
    )  # fmt: skip


def distance(arch: dict[str, Any]) -> float:
    return float(sum(list(SHUFFLENET.decisions[name]).index(x) for name, x in arch.items()))


# ---- supernet:RUN_DIR


def test_archs_have_the_values_that_the_method_gave_them(trained: nasplug.Selection) -> None:
    """Whatever the seed is: the data are split as they were for the supernet."""
    problem = nasplug.problem(ON, evaluator=f"supernet:{trained.run_dir}", seed=7)
    trials = trained.search.trials
    scored = problem.score(trials.archs[::-1])
    assert scored.values.tolist() == trials.values[::-1].tolist()
    assert np.isfinite(scored.reports).all()
    assert (problem.reward, problem.report) == ("supernet_acc", "test_acc")


def test_any_method_searches_by_it_and_inherits(trained: nasplug.Selection, tmp_path: Path) -> None:
    evaluator = f"supernet:{trained.run_dir},images=100"
    found = search("regularized-evolution", budget=6, evaluator=evaluator, out=tmp_path / "run")
    assert found.search.trials.archs.max() < 3  # the choices that the supernet has
    images = found.search.problem.evaluator.images
    model, built = found.best.inherit(), found.best.build()
    assert model(images.normalise(images.val[0][:2])).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) <= sum(p.numel() for p in built.parameters())
    again = nasplug.load(tmp_path / "run")
    assert again.best.value == found.best.value


def test_what_cannot_be_scored_by_it_says_why(trained: nasplug.Selection, tmp_path: Path) -> None:
    def refused(match: str, option: object, on: str = ON, **options: Any) -> None:
        with pytest.raises(NasplugError, match=match):
            nasplug.problem(on, evaluator=f"supernet:{option}", **options)

    run_dir = trained.run_dir
    assert run_dir
    refused("by which run", "")
    refused("not a run directory", tmp_path)
    refused(r"another space: manual-irb:C=2, not macro:C=2", run_dir, "macro:C=2/digits")
    refused(r"of manual-irb:C=2, and networks of manual-irb:C=4 are of another size", run_dir,
            "manual-irb:C=4/digits")  # fmt: skip
    refused("images= is a number", f"{run_dir},images=none")
    refused("unknown metric of a supernet 'val_acc'", run_dir, reward="val_acc")
    other = search(
        "random", budget=1, evaluator=f"supernet:{run_dir},images=50", out=tmp_path / "r"
    )
    refused("random trains none", other.run_dir)
    digits = nasplug.nn.load("digits", seed=4)
    with pytest.raises(NasplugError, match="trained its supernet on other data than these"):
        nasplug.Problem.of(
            space=nasplug.problem(ON).space, data=digits, evaluator=f"supernet:{run_dir}"
        )
    shutil.copytree(run_dir, tmp_path / "half")
    RunDirectory.open(tmp_path / "half").set_status("running")
    refused("has not finished: `nasplug resume", tmp_path / "half")


# ---- predictor:RUN_DIR


@pytest.mark.parametrize("model", ["", ",model=dropout-mlp"])
def test_a_predictor_learns_what_a_run_has_scored(random: nasplug.Selection, model: str) -> None:
    problem = nasplug.problem("shufflenetv2/function", f"predictor:{random.run_dir}{model}")
    archs = SHUFFLENET.sample(300, 5)
    values = problem.score(archs).values
    assert problem.maximize
    assert rank_correlations(values, -archs.sum(1))["spearman"] > 0.8
    assert problem.evaluator.held_out["spearman"] > 0.6
    assert 0 < problem.evaluator.held_out["kendall"] < 1
    again = nasplug.problem("shufflenetv2/function", f"predictor:{random.run_dir}{model}")
    assert again.score(archs).values.tolist() == values.tolist()


def test_how_well_it_ranks_is_written_down_and_shown(
    random: nasplug.Selection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "random", "--on", "shufflenetv2/function", "--budget", "20", "--no-track"]
    chosen = ["--evaluator", f"predictor:{random.run_dir}", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="0"):
        main([*command, *chosen])
    held_out = json.loads((tmp_path / "run" / "run.json").read_text())["scores"]["held_out"]
    words = f"spearman {held_out['spearman']:.3f}, kendall {held_out['kendall']:.3f}"
    assert f"had not learned from: {words}" in capsys.readouterr().out


def test_few_pairs_and_noise_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0)
    for budget, words in ((20, "unknown, of so few"), (150, "correlation with")):
        nasplug.search(
            "random", space=SHUFFLENET, evaluate=lambda arch: noise.normal(), budget=budget,
            tracking=False, out=tmp_path / str(budget),
        )  # fmt: skip
        nasplug.problem("shufflenetv2/function", f"predictor:{tmp_path / str(budget)}")
        assert words in caplog.text
        assert f"of the {budget} pairs" in caplog.text


def test_what_it_cannot_learn_from_says_why(random: nasplug.Selection) -> None:
    def refused(match: str, option: object, on: str = "shufflenetv2/function") -> None:
        with pytest.raises(NasplugError, match=match):
            nasplug.problem(on, evaluator=f"predictor:{option}")

    refused("by which run", "")
    refused("is another one than nb201", random.run_dir, "nb201/function")
    refused("scored archs on function, not on digits", random.run_dir, "shufflenetv2/digits")
    refused("unknown predictor 'xgbost'", f"{random.run_dir},model=xgbost")
    refused("there is no predictor nowhere.ubj", "nowhere.ubj")


def test_a_model_in_a_file_scores_a_space_without_a_table(tmp_path: Path) -> None:
    archs = SHUFFLENET.sample(300, 0)
    model = XGBoost(SHUFFLENET).fit(archs, archs.sum(1))
    model.save(tmp_path / "mine.ubj")
    evaluator = f"predictor:{tmp_path / 'mine.ubj'}"
    found = search("random", "shufflenetv2/digits", budget=5, evaluator=evaluator)
    trials = found.search.trials
    assert np.allclose(trials.values, model.predict(trials.archs))
