"""``init=``: what is tried first, by any method."""

import json

import pytest

import nasplug
from nasplug import Mask, Method, NasplugError, Space, hookimpl
from nasplug.kernel.registry import Entry, Plugin, registry
from nasplug.run.init import FIRST, POOL

SPACE = Space({name: list(range(6)) for name in "abcd"})
QUIET = {"tracking": False, "progress": False}
METHODS = ("random", "regularized-evolution", "local-search", "reinforce", "dsm", "lissnas")


def score(arch):
    return sum(arch.values()) + arch["a"] * arch["b"] / 10


def search(method="regularized-evolution", budget=30, **options):
    return nasplug.search(
        method, space=SPACE, evaluate=score, budget=budget, **QUIET, **options
    ).search


@pytest.mark.parametrize("method", METHODS)
def test_every_method_tries_them_first_and_learns_from_them(method):
    distribution = "baselines" if method in METHODS[:4] else method
    pytest.importorskip(f"nasplug_{distribution}")
    given = SPACE.sample(12, 3)
    run = search(method, init=given, seed=1)
    assert run.trials.archs[:12].tolist() == SPACE.unique(given).tolist()
    assert (run.trials.rounds[:12] == 0).all()
    assert len(run.trials) == 30
    if method == "regularized-evolution":
        alive = [arch.tolist() for arch in search(method, 12, init=given).method.alive]
        assert alive == given[-10:].tolist()
    if method == "local-search":  # climbs from the best of them
        best = given[run.trials.scores[:12].argmax()]
        assert (SPACE.distance(run.trials.archs[12:20], best) == 1).all()


def test_from_archs_strings_a_file_and_a_run(tmp_path):
    found = nasplug.search(
        "random", space=SPACE, evaluate=score, budget=20, out=tmp_path / "run", **QUIET
    )
    archs = found.archs[:4]
    text = [SPACE.to_str(arch) for arch in archs]
    (tmp_path / "archs.txt").write_text("\n".join(text) + "\n\n")
    for init in (archs, archs.tolist(), text, tmp_path / "archs.txt", str(tmp_path / "archs.txt")):
        assert search(init=init).trials.archs[:4].tolist() == archs.tolist()
    assert search(init=tmp_path / "run").trials.archs[:10].tolist() == found.archs.tolist()


def test_more_than_the_budget_fill_it():
    given = SPACE.sample(20, 0)
    assert search(budget=7, init=given).trials.archs.tolist() == given[:7].tolist()


def test_a_method_of_rounds_keeps_the_rest_of_its_first():
    given = SPACE.sample(5, 7)
    cold = search("random", batch=20).trials.archs
    warm = search("random", batch=20, init=given).trials.archs
    assert warm[:20].tolist() == given.tolist() + cold[5:20].tolist()


class Ranker:
    """An evaluator that is asked for by name, for archs whose first choice is late or early."""

    option = "late | early"
    maximize = free = apart = True
    reward = report = "rank"
    asked = 0

    def __init__(self, space, data, reward=None, report=None, seed=0, option=""):
        self.region, self.sign = space, {"late": 1, "early": -1}[option]

    @classmethod
    def data(cls, space):
        return []

    @hookimpl
    def evaluate(self, candidates):
        rows = candidates.waiting
        Ranker.asked += len(rows)
        return candidates.tell(rows, values=self.sign * candidates.archs[rows, 0].astype(float))


@pytest.fixture
def ranked(monkeypatch):
    """A search for late first choices that begins with the earliest of the pool."""
    entry = Entry(Ranker, "", Plugin("test", ""))
    monkeypatch.setitem(registry().evaluators, "ranker", entry)
    monkeypatch.setattr(Ranker, "asked", 0)

    def run(method="regularized-evolution", budget=30, **options):
        return nasplug.search(
            method, on="nb201/digits", evaluator="ranker:late", init="ranker:early", budget=budget,
            **QUIET, **options,
        )  # fmt: skip

    return run


def test_an_evaluator_ranks_a_pool_of_random_archs(ranked):
    run = ranked().search
    first = run.trials.archs[:FIRST]
    assert (first[:, 0] == 0).all()  # a fifth of the pool has it
    assert len(run.space.distinct(first)) == FIRST
    assert (run.trials.rounds[:FIRST] == 0).all()
    assert run.trials.rounds[FIRST] == 1
    assert Ranker.asked <= POOL + 30
    other = ranked(seed=1).search.trials.archs[:FIRST]
    assert other.tolist() != first.tolist()


def test_the_pool_is_of_the_region(ranked):
    space = nasplug.space("nb201").for_data("digits")
    mask = Mask(space, {space.names[0]: space.decisions[space.names[0]][2:]})
    run = ranked(within=mask, constraints=["params<=500e3"]).search
    first = run.trials.archs[:FIRST]
    assert (first[:, 0] == 2).all()
    assert mask.contains(first).all()
    assert (space.params(first) <= 500e3).all()


def test_a_search_goes_on_from_what_was_ranked(ranked, tmp_path):
    class Stop:
        @hookimpl
        def update(self, search):
            if len(search.trials) == 15:
                raise KeyboardInterrupt

    whole = ranked().search.trials.archs
    with pytest.raises(KeyboardInterrupt):
        ranked(out=tmp_path / "run", plugins=[Stop()])
    Ranker.asked = 0
    found = nasplug.resume(tmp_path / "run", progress=False)
    assert found.search.trials.archs.tolist() == whole.tolist()
    assert Ranker.asked == 15
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["init"] == "ranker:early"
    assert written["first"] == whole[:FIRST].tolist()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_workers_score_them(asynchronous):
    given = SPACE.sample(7, 0)
    run = search(init=given, workers=2, asynchronous=asynchronous, budget=12)
    assert len(run.trials) == 12
    assert run.trials.archs[:7].tolist() == given.tolist()


def test_a_plugin_of_the_users_may_leave_some_out():
    class Odd:
        @hookimpl(wrapper=True)
        def propose(self):
            archs = yield
            return archs[archs[:, 0] % 2 == 1]

    given = SPACE.sample(12, 3)
    trials = search(init=given, plugins=[Odd()]).trials
    odd = given[given[:, 0] % 2 == 1]
    assert trials.archs[: len(odd)].tolist() == odd.tolist()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("nowhere", r"nowhere cannot be read .* an evaluator is named as in proxy:naswot"),
        (["a=9,b=1,c=0,d=0"], "unknown choice of a"),
        ([[0, 0, 0]], "4 decisions"),
        ([], "no archs"),
        (3, "init: "),
        ("proxi:naswot", "init='proxi:naswot': .*proxi"),
        ("table", "init='table': evaluator='table' is about a table or data"),
    ],
)
def test_bad_input(init, message):
    with pytest.raises(NasplugError, match=message):
        search(init=init)


def test_bad_files(tmp_path):
    with pytest.raises(NasplugError, match="nasplug resume"):
        search(init=tmp_path)  # a folder without a selection: the run has not finished
    (tmp_path / "selection.json").write_text(json.dumps({"best": {}}))
    with pytest.raises(NasplugError, match="lists no archs"):
        search(init=tmp_path)
    (tmp_path / "image.png").write_bytes(b"\xff\xfe\x00\xff")
    with pytest.raises(NasplugError, match="cannot be read"):
        search(init=tmp_path / "image.png")
    (tmp_path / "private").write_text("hunter2\n")
    with pytest.raises(NasplugError, match="private holds something that is no arch") as told:
        search(init=tmp_path / "private")
    assert "hunter2" not in str(told.value)


def test_archs_outside_the_region():
    with pytest.raises(NasplugError, match=r"init: a=4.* is not in mask"):
        search(init=[[4, 1, 0, 5]], within=Mask(SPACE, {"a": [0]}))


def test_methods_that_train_one_network_have_no_first_archs():
    class Trains(Method):
        @hookimpl
        def evaluate(self, candidates):
            raise AssertionError

    with pytest.raises(NasplugError, match="Trains trains one network"):
        nasplug.search(Trains(), space=SPACE, budget=2, init=[[0, 0, 0, 0]], **QUIET)
