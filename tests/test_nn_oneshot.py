"""Searches by supernet, end to end: resumed to the last bit, better than random, table unread."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy

import nasplug
from nasplug import Mask, NasplugError
from nasplug.kernel.tree import map_leaves
from nasplug.run.directory import RunDirectory

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("nasplug_ddsas")
pytest.importorskip("nasplug_darts")
pytest.importorskip("nasplug_ostr")

import torch
from torch.utils.data import TensorDataset

from nasplug.nn import initialise, load, mixed_ops, train

ON = {"on": "nb201:C=2,N=1/digits", "budget": 8, "seed": 3, "tracking": False, "batch": 128}
SEARCH = """
import json, sys, nasplug
nasplug.search(sys.argv[1], out=sys.argv[2], **json.loads(sys.argv[3]))
"""


def scored(out):
    try:
        with sqlite3.connect(f"file:{out}/journal.sqlite?mode=ro", uri=True) as journal:
            return journal.execute("SELECT count(*) FROM trials").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def leaves(tree, path=""):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from leaves(value, f"{path}/{key}")
        else:
            yield f"{path}/{key}", np.asarray(value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddsas", {"M": 4, "mode": "shrink", "period": 3}),
        pytest.param("gdas", {}, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_never_killed(tmp_path, name, options):
    nasplug.search(name, out=tmp_path / "whole", **ON, **options)
    settings = json.dumps(ON | options)
    command = [sys.executable, "-c", SEARCH, name, str(tmp_path / "killed"), settings]
    process = subprocess.Popen(command)
    try:
        while scored(tmp_path / "killed") < 3 and process.poll() is None:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 3 <= scored(tmp_path / "killed") < 8
    resumed = nasplug.resume(tmp_path / "killed")
    states = [
        dict(leaves(RunDirectory(tmp_path / part).load_checkpoint(lambda _: True)))
        for part in ("whole", "killed")
    ]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        if key in ("/run", "/checksums"):  # which run it is of, and its journal's times
            continue
        np.testing.assert_array_equal(value, states[1][key], err_msg=key)
    whole = [row.value for row in RunDirectory(tmp_path / "whole").journal.read()]
    assert resumed.search.trials.values.tolist() == whole
    assert scored(tmp_path / "killed") == 8


ARRAYS = st.sampled_from(["int8", "int64", "uint64", "float32", "float64", "bool"]).flatmap(
    lambda dtype: numpy.arrays(dtype, numpy.array_shapes(min_dims=0, min_side=0, max_side=3))
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.integers() | st.text(max_size=5) | st.sampled_from(["array", "items", "0"])
TREES = st.recursive(
    PLAIN | ARRAYS,
    lambda tree: st.lists(tree, max_size=3) | st.dictionaries(KEYS, tree, max_size=3),
    max_leaves=8,
)


def assert_same(a, b):
    """The same tree: keys and types of leaves too."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert [*a] == [*b]
        assert [*map(type, a)] == [*map(type, b)]
        a, b = [*a.values()], [*b.values()]
    if isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (a != a and b != b)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return RunDirectory(tmp_path_factory.mktemp("checkpoint"))


@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(KEYS, TREES, max_size=4))
def test_a_checkpoint_comes_back_as_it_was(directory, state):
    """Integer keys as integers, arrays by dtype and shape, however deep."""
    directory.save_checkpoint(state)
    assert_same(directory.load_checkpoint(lambda _: True), state)


def test_a_checkpoint_of_an_optimiser_comes_back(directory):
    """Whose state goes by numbers, with tuples in its groups, and NumPy's numbers beside it."""
    weight = torch.nn.Parameter(torch.ones(2, 3))
    adam = torch.optim.Adam([weight], 0.1, betas=(0.5, 0.999))
    weight.sum().backward()
    adam.step()
    state = map_leaves(
        lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf, adam.state_dict()
    )
    directory.save_checkpoint({"adam": state, "step": np.int64(3), "pair": (1, np.float32(0.5))})
    back = directory.load_checkpoint(lambda _: True)
    assert (back["step"], back["pair"]) == (3, [1, 0.5])
    assert set(back["adam"]["state"]) == {0}
    other = torch.optim.Adam([torch.nn.Parameter(torch.ones(2, 3))], 0.7)
    tensors = map_leaves(
        lambda leaf: torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, back["adam"]
    )
    other.load_state_dict(tensors)
    assert other.param_groups[0]["lr"] == 0.1
    assert other.param_groups[0]["betas"] == [0.5, 0.999]
    assert torch.equal(next(iter(other.state.values()))["exp_avg"], adam.state[weight]["exp_avg"])


class Interrupt:
    """Ctrl-C after the second epoch."""

    @nasplug.hookimpl(trylast=True)
    def update(self, search, trials):
        if search.finished == 2:
            raise KeyboardInterrupt


def own(n=96, shape=(3, 8, 8), classes=3, seed=0):
    """A data set of one's own: noise, with labels that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, *shape, generator=generator)
    return TensorDataset(images, torch.randint(classes, (n,), generator=generator))


SPACE = nasplug.space("nb201:C=2,N=1")
METHODS = {"ddsas": {"batch": 16, "M": 2}, "random": {}}  # by a supernet, and one by one
every_method = pytest.mark.parametrize("name", METHODS)


def search(name, data, budget=2, space=SPACE, **options):
    settings = {**METHODS[name], **options}
    return nasplug.search(name, space=space, data=data, budget=budget, tracking=False, **settings)


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """One epoch is enough to see what stand-alone training trains on."""
    monkeypatch.setattr("nasplug.evaluators.train.TrainEvaluator.epochs", {"": 1})


@every_method
def test_a_dataset_of_ones_own_and_resumed_with_it(tmp_path, name):
    mine = own()
    whole = search(name, mine, budget=4)
    assert whole.search.space.name == "nb201:C=2,N=1,classes=3,resolution=8"
    assert whole.best.build()(mine[0][0][None]).shape == (1, 3)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(name, mine, budget=4, out=out, plugins=[Interrupt()])
    resumed = nasplug.resume(out, space=SPACE, data=mine)
    np.testing.assert_array_equal(resumed.search.trials.values, whole.search.trials.values)
    np.testing.assert_array_equal(resumed.search.trials.archs, whole.search.trials.archs)
    assert nasplug.resume(out, data=mine).best.value == whole.best.value  # the space by its name
    with pytest.raises(NasplugError, match=r"with data of yours: nasplug.resume\(run_dir, d"):
        nasplug.resume(out)
    with pytest.raises(NasplugError, match=f"lr is no source of {name}"):
        nasplug.resume(out, data=mine, lr=1)


@every_method
def test_without_data_there_is_nothing_to_train_on(name):
    options = METHODS[name]
    with pytest.raises(NasplugError, match=r"Give (evaluate=, a function, or )?data="):
        nasplug.search(name, space=SPACE, budget=2, tracking=False, **options)
    with pytest.raises(NasplugError, match="or a space with evaluate= or data=, not both"):
        nasplug.search(name, "nb201/digits", data=own(), budget=2, tracking=False, **options)
    with pytest.raises(NasplugError, match="evaluate= or data=, not both"):
        search(name, own(), evaluate=len)


@every_method
def test_training_and_validation_apart(name):
    """A pair of data sets; all images of each are taken."""
    found = search(name, (own(80, seed=1), own(48, seed=2)))
    owner = found.search.method if name == "ddsas" else found.search.problem.evaluator
    parts = owner.images.train, owner.images.val
    assert [len(labels) for _, labels in parts] == [80, 48]
    right = found.search.trials.values * 48 / 100
    np.testing.assert_allclose(right, right.round(), atol=1e-6)


@every_method
def test_data_by_name_sizes_the_space(name):
    """As nasplug.nn.load takes it; `on="nb201/digits"` says the same."""
    named = search(name, "digits", batch=256) if name == "ddsas" else search(name, "digits")
    assert named.search.space.sizes == {**SPACE.sizes, "channels": 1, "resolution": 8}


@every_method
def test_the_run_directory_does_not_hold_the_data(tmp_path, name):
    """Nor does run.json, of a data set that is a list of pairs."""
    pairs = [(image.numpy(), int(label)) for image, label in own(64)]
    search(name, pairs, out=tmp_path / "run")
    text = (tmp_path / "run" / "run.json").read_text()
    assert len(text) < 10_000
    assert json.loads(text)["data"] is True


@every_method
@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([(torch.zeros(3, 8, 8), -1)] * 8, "class labels are whole numbers from 0 on"),
        ([(torch.zeros(3, 8, 8), "cat")] * 8, "labels must be numbers"),
        ([(torch.zeros(3, 8, 8), (0, {"x": 1}))] * 8, "need a loss of yours: loss="),
        ([(torch.zeros(3, 8, 8), 0, 0)] * 8, "pairs of an input and a label.*, got 3"),
        (TensorDataset(torch.zeros(0, 3, 8, 8), torch.zeros(0).long()), "data takes a torch"),
        ([1, 2, 3], "pairs of an input and a label"),
        ("digits-of-mine", "no images for 'digits-of-mine'"),
        (7, "data takes a torch Dataset"),
        (TensorDataset(torch.zeros(8, 8), torch.zeros(8).long()), "height, width"),
        ([(torch.zeros(3, 8, 8 + i), 0) for i in range(8)], "inputs and labels of one shape"),
        (own(16, (3, 8, 10)), "images of 8x10 do not fit.*resize or pad"),
        (own(16, (3, 6, 6)), "images of 6x6 do not fit.*multiples of 4"),
    ],
)
def test_a_dataset_that_does_not_fit_is_named(name, dataset, message, monkeypatch, tmp_path):
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    with pytest.raises(NasplugError, match=message):
        search(name, dataset)


def test_images_that_are_not_finite_are_named():
    infinite = TensorDataset(torch.full((32, 3, 8, 8), torch.inf), torch.zeros(32).long())
    with pytest.raises(NasplugError, match="see whether all images are finite"):
        search("ddsas", infinite)
    with pytest.raises(NasplugError, match=r"every trial failed; the last said.*loss is nan"):
        search("random", infinite)


class Within:
    """A wrapper that lets no more be tried than a mask."""

    def __init__(self, region):
        self.region = region

    @nasplug.hookimpl(wrapper=True)
    def propose(self, search, subspace):
        yield
        return self.region


@pytest.mark.parametrize("name", ["darts", "gdas", "ostr-darts", "ddsas", "pc-darts"])
def test_a_wrapper_of_propose_restricts_what_is_trained(name):
    """It is what `evaluate` is handed that counts, not what the method has proposed."""
    problem = "nb201:C=4,N=1/digits"
    region = Mask(SPACE, {"1<-0": ["nor_conv_1x1"], "3<-0": ["skip_connect", "avg_pool_3x3"]})
    options = {"warmup": 0} if name == "pc-darts" else {}
    found = nasplug.search(
        name, problem, budget=2, batch=256, tracking=False, plugins=[Within(region)], **options
    )
    method = found.search.method
    assert region.contains(found.search.trials.archs).all()
    assert region.contains(found.best.arch[None])[0]
    np.testing.assert_array_equal(method.mask, region.allowed)
    for op in mixed_ops(method.net):
        for k, module in enumerate(op.ops):
            if not region.allowed[op.decision, k]:
                assert all(p.grad is None for p in module.parameters())


def test_a_wrapper_may_propose_archs_to_a_supernet_only_if_it_scores_them():
    class Single:
        @nasplug.hookimpl(wrapper=True)
        def propose(self, search, subspace):
            yield
            return search.space.sample(1, 0)

    with pytest.raises(NasplugError):
        nasplug.search(
            "darts", "nb201:C=4,N=1/digits", budget=1, batch=256, tracking=False,
            plugins=[Single()],
        )  # fmt: skip


def test_the_table_is_looked_up_and_never_used(nb201_table, tmp_path, monkeypatch):
    """A search of cells in a smaller network too reports what the table has of the published."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(nb201_table / "nas-bench-201.parquet")
    names = [name.replace("toy/", "digits/") for name in table.column_names]
    parquet.write_table(table.rename_columns(names), tmp_path / "nas-bench-201.parquet")
    searches = []
    for folder in (tmp_path, tmp_path / "nothing"):
        monkeypatch.setenv("NASPLUG_DATA", str(folder))
        searches.append(
            nasplug.search(
                "ostr-darts", "nb201:C=2,N=1/digits", budget=2, batch=256, tracking=False
            ).search
        )
    trials = searches[0].trials
    assert np.isfinite(trials.reports).all()
    for arch, report in zip(trials.archs, trials.reports, strict=True):
        assert report == pytest.approx(80 + 2 * ((arch == 3).sum() + 0.1 * (arch == 1).sum()))
    assert set(trials.metrics) >= {f"{name}.test_acc@200" for name in ("strength", "naive")} | {
        "val_acc@12"
    }
    np.testing.assert_array_equal(trials.archs, searches[1].trials.archs)
    assert np.isnan(searches[1].trials.reports).all()


MARGIN = 3.0  # percentage points


@pytest.mark.slow  # tests/test_own_models.py has a method of each kind
def test_searched_cells_beat_random_ones_on_digits():
    """Validation accuracy after the same short training from scratch; the mean of 20 random."""
    space = nasplug.problem("nb201:N=1/digits").space
    data = load("digits")

    def score(arch):
        model = initialise(lambda: space.build(arch), 0)
        return train(model, data, epochs=3, seed=0)["value"]

    random = np.mean([score(arch) for arch in space.sample(20, seed=0)])
    for name, options in (("ddsas", {"M": 10}), ("ostr-darts", {})):
        selection = nasplug.search(
            name, on="nb201:C=4,N=1/digits", budget=12, tracking=False, batch=64, **options
        )
        found = score(selection.best.arch)
        assert found > random + MARGIN, (name, found, random)


def test_a_space_of_a_data_sets_size_is_found_again(tmp_path):
    images = [(torch.randn(1, 8, 8), i % 2) for i in range(64)]
    space = nasplug.space("nb201:N=1").for_data("digits")
    first = nasplug.search(
        "darts", space=space, data=images, budget=1, out=tmp_path / "run", tracking=False,
        progress=False, batch=32,
    )  # fmt: skip
    again = nasplug.resume(tmp_path / "run", data=images, progress=False)
    assert again.search.space.sizes == first.search.space.sizes
    assert np.array_equal(again.best.arch, first.best.arch)
