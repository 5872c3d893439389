"""Optuna's samplers as methods."""

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

import nasplug
from nasplug import NasplugError, Space
from nasplug.testing import method_checks
from nasplug_optuna import samplers
from nasplug_optuna.method import OptunaSampler, OptunaTPE, distributions

SPACE = Space({"op": ["conv", "pool", "skip"], "width": [16, 32, 64, 128], "on": [False, True]})
CHECKS = {check.name: check for check in method_checks("optuna-random")}
OTHERS = {
    f"{name}-{check.name}": check
    for name in ("optuna-tpe", "optuna-nsga2", "optuna-cmaes")
    for check in method_checks(name)
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_they_behave(check):
    check()


@pytest.mark.slow
@pytest.mark.parametrize("check", OTHERS.values(), ids=OTHERS)
def test_the_others_behave(check):
    check()


def width(arch):
    return arch["width"] - 20 * (arch["op"] != "conv")


def search(method, **options):
    options = {"space": SPACE, "evaluate": width, "budget": 12, "tracking": False} | options
    return nasplug.search(method, **options)


def test_decisions_as_distributions():
    found = distributions(SPACE)
    assert found == {
        "op": CategoricalDistribution(range(3)), "width": IntDistribution(0, 3),
        "on": CategoricalDistribution(range(2)),
    }  # fmt: skip
    assert set(map(type, distributions(SPACE, ranges_only=True).values())) == {IntDistribution}


def test_trials_are_those_that_optuna_makes_itself():
    """What is asked and told here, asked and told by hand."""
    trials = search("optuna-tpe", repeats="count").search.trials
    rng = np.random.default_rng(0)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=int(rng.integers(2**31))), direction="maximize"
    )
    told = {}
    while len(told) < 12:
        trial = study.ask(distributions(SPACE))
        arch = np.array([list(trial.params.values())])
        key = arch.tobytes()
        told.setdefault(key, (arch[0], width(SPACE.to_dict(arch[0]))))
        study.tell(trial, told[key][1])
    assert trials.archs.tolist() == [arch.tolist() for arch, _ in told.values()]
    assert trials.values.tolist() == [value for _, value in told.values()]


@pytest.mark.parametrize("method", ["optuna-nsga2", "optuna-cmaes", "optuna-random"])
def test_each_finds_the_best_of_a_few(method):
    assert search(method, budget=24).best.params["width"] == 128


def test_any_sampler_by_name():
    tpe = samplers.make("tpe", '{"multivariate": true}', 3)
    assert isinstance(tpe, optuna.samplers.TPESampler)
    assert search("optuna", sampler="QMCSampler").best.value > 0
    for given, said in (
        ({"sampler": "tpo"}, "unknown sampler of Optuna 'tpo'; did you mean tpe"),
        ({"options": "{multivariate}"}, "options are JSON"),
        ({"options": '{"variate": 1}'}, "TPESampler cannot be made with"),
    ):
        with pytest.raises(NasplugError, match=said):
            search("optuna", **given)


def test_samplers_of_the_hub(tmp_path, monkeypatch):
    """From a registry on disk, as OptunaHub's own tests have it: there is no network here."""
    hub = pytest.importorskip("optunahub")
    folder = tmp_path / "package" / "samplers" / "mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "import optuna\nclass Mine(optuna.samplers.RandomSampler): ...\n__all__ = ['Mine']\n"
    )
    registry = str(tmp_path / "package")
    monkeypatch.setattr(
        hub, "load_module", lambda name: hub.load_local_module(name, registry_root=registry)
    )
    assert type(samplers.make("hub:samplers/mine", "{}", 3)).__name__ == "Mine"
    assert len(search("optuna", sampler="hub:samplers/mine").search.trials) == 12
    with pytest.raises(NasplugError, match="samplers/yours does not come from OptunaHub"):
        search("optuna", sampler="hub:samplers/yours")


def test_a_sampler_that_repeats_itself_is_handed_others():
    class Stubborn(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            return 0

    method = OptunaSampler()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nasplug_optuna.method.make", lambda *given: Stubborn())
        trials = search(method, budget=24).search.trials
    assert len(np.unique(trials.archs, axis=0)) == 24


def test_optuna_says_nothing_and_is_as_it_was(capfd):
    before = optuna.logging.get_verbosity()
    search(OptunaTPE())
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""
