"""``evaluator="proxy:..."``: one value for an arch, ranks that stay, what goes wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import nasplug
from nasplug import NasplugError
from nasplug_proxies.evaluator import Ranks
from nasplug_proxies.proxies import PROXIES

ON = "nb201:C=4,N=1/digits"
QUIET = {"tracking": False, "progress": False}


def test_a_search_by_a_proxy():
    result = nasplug.search(
        "regularized-evolution", on=ON, evaluator="proxy:l2_norm", budget=12, seed=0, **QUIET
    )
    values = result.trials["value"] if hasattr(result.trials, "columns") else result.trials.values
    assert result.best.value == np.nanmax(values)
    assert len(values) == 12


def test_a_search_begins_with_the_best_by_a_proxy():
    result = nasplug.search(
        "local-search", on=ON, evaluator="proxy:l2_norm", init="proxy:params", budget=11, **QUIET
    )
    space, archs = result.search.space, result.search.trials.archs
    params = space.params(archs[:10])
    assert (np.diff(params) <= 0).all()
    assert params[0] > np.quantile(space.params(space.all()), 0.9)
    by_naswot = nasplug.search(
        "random", on=ON, evaluator="proxy:params", init="proxy:naswot", budget=10, **QUIET
    ).search.trials.archs
    values = nasplug.problem(ON, evaluator="proxy:naswot").score(by_naswot).values
    assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("option", ["naswot", "params+flops"])
def test_an_arch_has_one_value_in_any_order_and_by_any_evaluator(option):
    first, second = (nasplug.problem(ON, evaluator=f"proxy:{option}", seed=3) for _ in "ab")
    archs = first.space.sample(6, 0)
    values = first.score(archs).values
    assert np.array_equal(values[::-1], second.score(archs[::-1]).values, equal_nan=True)
    other = nasplug.problem(ON, evaluator=f"proxy:{option}", seed=4).score(archs).values
    assert not np.array_equal(values, other, equal_nan=True)


def test_several_proxies_are_ranked_among_a_sample_and_noted():
    scored = nasplug.problem(ON, evaluator="proxy:params+flops").score([[3] * 6, [0] * 6])
    assert 0.95 < scored.values[0] < 1
    assert 0 < scored.values[1] < 0.05
    space = nasplug.space("nb201:C=4,N=1").for_data("digits")
    assert scored.metrics["params"].tolist() == space.params([[3] * 6, [0] * 6]).tolist()
    assert set(scored.metrics) == {"params", "flops"}


def test_ranks_are_an_interpolated_distribution_function():
    sample = np.array([3.0, 1.0, 2.0, 2.0, np.nan])
    rank = Ranks(sample)
    assert [rank(1.0), rank(2.0), rank(3.0)] == [0.125, 0.5, 0.875]
    assert rank(2.5) == pytest.approx((0.5 + 0.875) / 2)
    ordered = [rank(v) for v in (-1e9, 0.0, 1.0, 1.5, 2.0, 2.9, 3.0, 3.1, 1e9)]
    assert (np.diff(ordered) > 0).all()
    assert ordered[0] >= 0
    assert ordered[-1] <= 1
    assert not np.isfinite([rank(np.nan), rank(np.inf), rank(-np.inf)]).any()


def test_a_network_that_passes_nothing_on_is_a_failed_trial():
    scored = nasplug.problem(ON, evaluator="proxy:synflow").score([[0] * 6, [3] * 6])
    assert [trial.state.name for trial in scored] == ["FAILED", "COMPLETE"]
    assert scored.notes[0]["error"] == "the value is not finite"


def test_images_of_the_users_own():
    images = TensorDataset(torch.randn(40, 3, 8, 8), torch.arange(40) % 4)
    result = nasplug.search(
        "random", space=nasplug.space("nb201:C=4,N=1"), data=images, evaluator="proxy:snip",
        budget=3, **QUIET,
    )  # fmt: skip
    assert result.best.build()(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


def test_the_loss_of_the_users_own():
    """It was cross-entropy whatever they gave, also of labels that are real numbers."""
    data = TensorDataset(torch.randn(40, 3, 8, 8), torch.randn(40, 1))
    one, three = (
        nasplug.search(
            "random", space=nasplug.space("nb201:C=4,N=1"), data=data, evaluator="proxy:snip",
            loss=lambda output, y, k=k: k * (output - y).square().mean(), budget=3, **QUIET,
        ).search.trials.values
        for k in (1, 3)
    )  # fmt: skip
    assert np.isfinite(one).any()
    assert three == pytest.approx(3 * one, nan_ok=True)


def test_what_proxies_cannot_look_at_is_said():
    tokens = TensorDataset(torch.randint(9, (40, 12)), torch.arange(40) % 4)
    with pytest.raises(NasplugError, match=r"one tensor of real numbers .* got \(1, 12\)"):
        nasplug.search(
            "random", space=nasplug.space("nb201:C=4,N=1"), data=tokens, evaluator="proxy:snip",
            budget=1, **QUIET,
        )  # fmt: skip


@pytest.fixture
def table(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    space = nasplug.space("nb201")
    archs = space.all()
    columns = {
        "arch": [space.to_str(arch) for arch in archs],
        "digits/val_acc@12": np.zeros(len(archs)),
        "digits/test_acc@200": (archs == 3).sum(1).astype(float),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "nas-bench-201.parquet")
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))


@pytest.mark.usefixtures("table")
def test_a_table_says_for_people_what_the_winner_is_worth():
    found = nasplug.problem(ON, evaluator="proxy:params")
    assert found.report == "test_acc@200"
    assert found.score([[3, 3, 0, 0, 0, 0], [0] * 6]).reports.tolist() == [2, 0]
    with pytest.raises(NasplugError, match=r"unknown column .* 'accuracy'"):
        nasplug.problem(ON, evaluator="proxy:params", report="accuracy")


def test_a_proxy_is_never_a_default():
    listed = {row["problem"]: row["evaluators"] for row in nasplug.problems()}
    assert "train" in listed["nb201/digits"]
    assert not any("proxy" in evaluators for evaluators in listed.values())
    assert nasplug.problem("macro/digits").evaluator_name == "train"


@pytest.mark.parametrize(
    ("on", "evaluator", "message"),
    [
        (ON, "proxy", r"by which proxy\? proxy:naswot.*there are .*zen"),
        (ON, "proxy:", "by which proxy"),
        (ON, "proxy:synflw", "unknown proxy 'synflw'; did you mean synflow"),
        (ON, "proxy:naswot+", "unknown proxy ''"),
        (ON, "prox:naswot", "unknown evaluator 'prox'; did you mean proxy"),
        (
            ON,
            "train:3",
            "unknown option of training '3'; known: amp, batch, epochs, lr, patience, seeds",
        ),
        ("graph/digits", "proxy:naswot", "graph builds no networks"),
        ("nb201/no-such-data", "proxy:naswot", "no images for 'no-such-data'"),
    ],
)
def test_bad_input(on, evaluator, message):
    with pytest.raises(NasplugError, match=message):
        nasplug.search("random", on=on, evaluator=evaluator, budget=2, **QUIET)


def test_rewards_and_reports_that_there_are_not(monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", "")
    with pytest.raises(NasplugError, match="unknown metric of proxies 'val_acc'; known: zen"):
        nasplug.problem(ON, evaluator="proxy:zen", reward="val_acc")
    with pytest.raises(NasplugError, match="report='test_acc' would be of a table"):
        nasplug.problem(ON, evaluator="proxy:zen", report="test_acc")


def test_every_proxy_is_in_the_readme():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert not [name for name in (*PROXIES, "params", "flops") if f"`{name}`" not in readme]
