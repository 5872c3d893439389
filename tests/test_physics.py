"""Tasks that are no image classification: Darcy flow and its solver, series of several channels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import nasplug
from nasplug import NasplugError

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from nasplug import nn as nnas  # noqa: E402
from nasplug.cli import cli  # noqa: E402
from nasplug.nn import Images  # noqa: E402
from nasplug.nn.task import METRICS, Task, relative_l2  # noqa: E402

darcy = pytest.importorskip("nasplug.nn.darcy")
TINY = nasplug.space("nb201:C=2,N=1")


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Few fields, and a cache of its own."""
    monkeypatch.setattr(darcy, "COUNT", 35)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nasplug"


def called(*words) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


# ---- the solver


def test_four_inner_nodes_by_hand():
    """4 x 4 nodes, h = 1/3: links of 3, and of a harmonic mean of 2 * 3 * 12 / 15 = 4.8."""
    a = np.full((4, 4), 3.0)
    assert darcy.solve(a)[1, 2] == pytest.approx(1 / (9 * (4 - 2) * 3))
    a[1, 1] = 12
    wanted = [[19.2, -4.8, -4.8, 0], [-4.8, 13.8, 0, -3], [-4.8, 0, 13.8, -3], [0, -3, -3, 12]]
    np.testing.assert_allclose(darcy.operator(a).toarray(), 9 * np.array(wanted))


def test_the_error_of_a_known_solution_falls_with_the_square_of_the_step():
    """u = sin(πx) sin(2πy) in a medium of a = 1 + x + y²."""
    errors = []
    for nodes in (17, 33, 65):
        x, y = np.meshgrid(*[np.linspace(0, 1, nodes)] * 2, indexing="ij")
        a, u = 1 + x + y**2, np.sin(np.pi * x) * np.sin(2 * np.pi * y)
        u_x = np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y)
        u_y = 2 * np.pi * np.sin(np.pi * x) * np.cos(2 * np.pi * y)
        f = 5 * np.pi**2 * a * u - u_x - 2 * y * u_y
        errors.append(np.abs(darcy.solve(a, f) - u).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.05)


def test_flux_through_layers_is_exact():
    """Where a jumps along x alone and no flux leaves sideways, harmonic means conserve it: two
    layers in series, far from the sides that hold u at 0."""
    a = np.where(np.linspace(0, 1, 33)[:, None] < 0.49, 3.0, 12.0) * np.ones(33)
    flux = darcy.operator(a) @ darcy.solve(a)[1:-1, 1:-1].ravel()
    np.testing.assert_allclose(flux, 1, rtol=1e-9)  # the source, everywhere


def test_the_operator_is_symmetric_and_pressures_are_positive():
    (a,) = darcy.coefficients(1, 21, seed=3)
    matrix = darcy.operator(a).toarray()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0
    u = darcy.solve(a)
    assert (u[1:-1, 1:-1] > 0).all()
    assert u[0].any() == u[-1].any() == u[:, 0].any() == u[:, -1].any() == False  # noqa: E712
    assert u.max() < 0.0737 / 3  # a maximum principle: that of a = 3 everywhere


def test_permeabilities_are_two_values_in_smooth_patches_fixed_by_the_seed():
    a = darcy.coefficients(40, 29, seed=0)
    assert {*np.unique(a)} == {3, 12}
    assert 0.4 < (a == 12).mean() < 0.6
    assert (a[:, 1:] == a[:, :-1]).mean() > 0.85  # neighbors are alike
    np.testing.assert_array_equal(a, darcy.coefficients(40, 29, seed=0))
    assert (a != darcy.coefficients(40, 29, seed=1)).any()


def test_the_data_are_solved_once_and_again_if_the_file_is_damaged(few, monkeypatch):
    first = darcy.darcy()
    (file,) = few.glob("darcy-*.npz")
    monkeypatch.setattr(darcy, "solve", None)
    for a, b in zip(first, darcy.darcy(), strict=True):
        assert (a.shape, a.dtype) == ((35, 29, 29), np.float32)
        np.testing.assert_array_equal(a, b)
    monkeypatch.undo()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), b"", b"PK"):
        file.write_bytes(damaged)
        monkeypatch.setattr(darcy, "COUNT", 35)
        monkeypatch.setenv("XDG_CACHE_HOME", str(few.parent))
        np.testing.assert_array_equal(darcy.darcy()[1], first[1])


def test_a_cache_that_cannot_be_written_says_so(few, monkeypatch):
    few.write_text("a file where the folder would be")
    with pytest.raises(NasplugError, match="XDG_CACHE_HOME"):
        darcy.darcy()


# ---- the loss


def test_relative_l2_is_a_mean_over_examples():
    labels = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])  # of norms 5 and 2
    output = torch.tensor([[[[3.0, 3.0]]], [[[2.0, 2.0]]]])  # off by 1 and 2
    task = Task(relative_l2, METRICS["relative_l2"])
    assert task.cost(output, labels).item() == pytest.approx((1 / 5 + 2 / 2) / 2)
    assert task.score([output[:1], output[1:]], labels) == pytest.approx(0.6)
    assert task.score([100 * output], 100 * labels) == pytest.approx(0.6)  # in any unit
    assert not task.maximize
    with pytest.raises(NasplugError, match="need an output of that shape"):
        task.cost(output[..., :1], labels)


# ---- searching on it


def coarse() -> Images:
    """Fields of 8 x 8 nodes."""
    found = darcy.darcy()
    a, u = (torch.from_numpy(x[:, ::4, ::4].copy()) for x in found)
    return nnas.load(nnas.Given((a[:, None], 100 * u), relative_l2, "relative_l2"))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("random", {}), ("regularized-evolution", {}), ("dsm", {"K": 2}),
        ("ddsas", {}), ("darts", {}), ("pc-darts", {"warmup": 0}), ("gdas", {}), ("ostr-darts", {}),
        ("spos", {"epochs": 1, "population": 2, "parents": 2}),
    ],
)  # fmt: skip
def test_methods_minimise_on_fields(few, method, options):
    one_by_one = method in ("random", "regularized-evolution", "dsm")
    if one_by_one:
        options = {"evaluator": "train:epochs=1,batch=8", **options}
    data = coarse()
    assert data.dense
    space = nasplug.space("nb201:C=4,N=1" if method == "pc-darts" else "nb201:C=2,N=1")
    result = nasplug.search(method, space=space, data=data, budget=3, tracking=False, **options)
    problem, values = result.search.problem, result.search.trials.values
    assert (problem.reward, problem.maximize) == (
        f"{'val' if one_by_one else 'supernet'}_relative_l2", False
    )  # fmt: skip
    assert np.isfinite(values).all()
    assert (values > 0).all()
    if one_by_one or method == "spos":
        assert result.best.value == values.min()
    assert result.best.build()(data.train[0]).shape == (len(data.train[0]), 1, 8, 8)


def test_the_problem_by_name_on_the_command_line(few):
    """Reward, report and direction are the problem's; what was found is retrained and scored."""
    run = few.parent / "run"
    called("run", "random", "--on", "nb201:C=2/darcy", "--evaluator", "train:epochs=1",
           "--budget", "2", "--no-track", "--out", run)  # fmt: skip
    scores = json.loads((run / "run.json").read_text())["scores"]
    assert (scores["reward"], scores["report"]) == ("val_relative_l2", "test_relative_l2")
    result = nasplug.load(run)
    assert result.best.value == result.trials["value"].min()
    called("retrain", run, "--recipe", "plain", "--epochs", "1", "--no-track")
    scored = json.loads(called("evaluate", run, "--json"))
    assert 0 < scored["test_relative_l2"] < 2


def test_spaces_without_such_networks_say_so(few):
    pixels = "networks of macro give one vector for each image.*such as nb201"
    with pytest.raises(NasplugError, match=pixels):
        nasplug.problem("macro/darcy")
    with pytest.raises(NasplugError, match=pixels):
        coarse().size(nasplug.space("macro"))
    with pytest.raises(NasplugError, match=r"networks of darts take square images.*nb201"):
        nasplug.problem("darts/japanese-vowels")
    oblong = nnas.load((torch.randn(8, 1, 8, 12), torch.arange(8)))
    with pytest.raises(NasplugError, match=r"images of 8x12 are not square.*resize or crop"):
        oblong.size(nasplug.space("darts"))
    problems = {row["problem"] for row in nasplug.problems()}
    assert "nb201/darcy" in problems
    assert "macro/darcy" not in problems
    with pytest.raises(NasplugError, match="dense of nb201 is a number from 0 to 1"):
        nasplug.space("nb201:dense=2")


def test_classes_of_pixels_and_sizes_of_own_data():
    """A dense space is fitted to what comes: pixels with classes, other sides, or none of it."""
    x = torch.randn(12, 2, 6, 9)
    fields = nnas.load((x, torch.randn(12, 3, 6, 9))).size(TINY)
    assert fields.build(fields.sample(1, 0)[0])(x).shape == (12, 3, 6, 9)
    marked = nnas.load((x, (x[:, 0] > 0).long()))
    result = nasplug.search(
        "random", space=TINY, data=marked, evaluator="train:epochs=1", budget=1, tracking=False
    )
    assert result.search.problem.reward == "val_acc"
    assert result.best.build()(x).shape == (12, 2, 6, 9)
    plain = nnas.load((torch.randn(12, 2, 8, 8), torch.arange(12) % 3)).size(fields)
    assert plain.name == "nb201:C=2,N=1,channels=2,classes=3,resolution=8"


# ---- series


def write_series(folder, part, n, rng):
    """n series of each of nine speakers, 12 channels of 7 to 29 steps."""
    lines = ["# of nobody", "@problemName JapaneseVowels", "@data"]
    for speaker in range(1, 10):
        for _ in range(n):
            channels = speaker + rng.normal(size=(12, rng.integers(7, 30)))
            rows = (",".join(f"{x:.4f}" for x in channel) for channel in channels)
            lines.append(":".join([*rows, str(speaker)]))
    folder.mkdir(exist_ok=True)
    (folder / f"JapaneseVowels_{part}.ts").write_text("\n".join(lines) + "\n")


def test_series_of_several_channels_are_images_that_are_not_square(tmp_path, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    for part, n in (("TRAIN", 6), ("TEST", 2)):
        write_series(tmp_path / "JapaneseVowels", part, n, rng)
    images = nnas.load("japanese-vowels")
    assert images.train[0].shape == (36, 1, 12, 32)
    assert [len(part[1]) for part in (images.train, images.val, images.test)] == [36, 18, 18]
    assert images.train[1].bincount().tolist() == [4] * 9
    assert (images.test[0][:, :, :, 29:] == 0).all()  # after the longest
    inside = images.train[0][images.train[0] != 0]
    assert inside.mean().item() == pytest.approx(0, abs=1e-3)
    assert inside.std().item() == pytest.approx(1, abs=1e-2)
    result = nasplug.search("random", "nb201:C=4/japanese-vowels", budget=1, tracking=False)
    assert result.search.problem.reward == "val_acc"
    assert result.best.value > 3 * 100 / 9  # the speakers are far apart
    (tmp_path / "JapaneseVowels" / "JapaneseVowels_TEST.ts").write_text("@data\n1,2:3,x:1\n")
    with pytest.raises(NasplugError, match=r"JapaneseVowels_TEST.ts is no file of series"):
        nnas.load("japanese-vowels")


def test_series_that_are_not_here_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    monkeypatch.setattr("nasplug.nn.series.find_spec", lambda name: None)
    with pytest.raises(NasplugError, match=r"pip install 'nasplug\[series\]'"):
        nnas.load("japanese-vowels")
    with pytest.raises(NasplugError, match=r"nb201/japanese-vowels.*nasplug\[series\]"):
        nasplug.problem("nb201/japanese-vowels")


# ---- the docs


def test_the_page_runs(few, monkeypatch, capsys):
    monkeypatch.chdir(few.parent)
    text = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    exec(compile(code, "tasks.md", "exec"), {"__name__": "tasks"})
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("val_relative_l2 ")
    assert out[1:] == re.findall(r"^print\(.*\)  # ((?:torch|\(2).*)$", code, re.MULTILINE)
