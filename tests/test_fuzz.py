"""Parsers of what people type or files hold: a value or a NasplugError, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import nasplug
from nasplug import NasplugError, Problem, Space
from nasplug.kernel.registry import registry
from nasplug.run.constraints import Constraint
from nasplug.spaces import Learned

BUILT_IN = registry().spaces
SPACES = {name: nasplug.space(name) for name in BUILT_IN} | {
    "plain": Space({"width": [16, 32], "act": ["relu", "gelu"], "rate": [0.1, 1.0]}),
}
PIECES = st.sampled_from([*"|~+-=,:()[]'\"0123456789 \n", "", "none", "Genotype", "output", "k3e3"])
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def attempt(parse, *arguments):
    """The value, or None if what was given is refused in words."""
    try:
        return parse(*arguments)
    except NasplugError:
        return None


@st.composite
def garbled(draw, text):
    """A text with some pieces put in, left out or doubled."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 4)))
        text = text[:start] + draw(PIECES | st.text(max_size=3)) + text[end:]
    return text


# ---- archs


@pytest.mark.parametrize("name", SPACES)
@quick
@given(data=st.data())
def test_strings_of_archs(name, data):
    space = SPACES[name]
    arch = space.sample(1, data.draw(st.integers(0, 2**32)))[0]
    text = space.to_str(arch)
    assert np.array_equal(space.arch(text), arch)
    for wrong in (data.draw(garbled(text)), data.draw(st.text(max_size=30))):
        found = attempt(space.arch, wrong)
        if found is not None:
            assert space.contains(found[None]).all()
            assert np.array_equal(space.arch(space.to_str(found)), found)


@pytest.mark.parametrize("name", SPACES)
@quick
@given(data=st.data())
def test_decisions_of_archs(name, data):
    space = SPACES[name]
    arch = space.sample(1, data.draw(st.integers(0, 2**32)))[0]
    params = space.to_dict(arch)
    assert np.array_equal(space.arch(params), arch)
    assert np.array_equal(space.arch({key: str(choice) for key, choice in params.items()}), arch)
    keys = st.sampled_from(space.names) | st.text(max_size=5) | st.integers() | st.none()
    odd = st.sampled_from([np.arange(3), np.float32(2), {1}, b"x", 1j, object(), float("nan")])
    wrong = params | data.draw(st.dictionaries(keys, json_values | odd, min_size=1, max_size=3))
    found = attempt(space.arch, wrong)
    if found is not None:
        assert space.contains(found[None]).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("name", ["nb201", "plain"])
@quick
@given(value=json_values)
@example(value=[2.0**63, None])
@example(value=[float("nan")] * 6)
@example(value=[[1e30] * 3])
@example(value=10**400)
def test_vectors_of_archs(name, value):
    space = SPACES[name]
    found = attempt(space.check, value)
    if found is not None:
        assert found.ndim == 2
        assert found.dtype == space.dtype
        assert space.contains(found).all()


# ---- spaces and problems by name

names = st.sampled_from(sorted(BUILT_IN))
options = st.lists(
    st.tuples(
        st.sampled_from(["C", "N", "layers", "classes", "channels", "resolution", "width", "D"])
        | st.text(max_size=4),
        st.integers(-2, 70).map(str) | st.text(max_size=3),
    ),
    max_size=3,
).map(lambda pairs: ",".join(f"{name}={value}" for name, value in pairs))
spelled = st.tuples(names | st.text(max_size=6), options | st.text(max_size=8)).map(":".join)
spelled = spelled | names | st.text(max_size=12)


@quick
@given(text=spelled)
@example(text="nb201:C=8=9")
@example(text="nb201:data=3")
@example(text="nb201:C=")
@example(text="nowhere.json:C=8")
@example(text="\0.json")
@example(text=":")
def test_names_of_spaces(text):
    space = attempt(nasplug.space, text)
    if space is not None:
        assert isinstance(space, Space)
        assert space.matches(nasplug.space(space.name))
        assert nasplug.space(space.name).name == space.name
        assert dict(nasplug.space(space.name).sizes) == dict(space.sizes)


@quick
@given(
    text=st.tuples(
        spelled, st.sampled_from(["digits", "cifar10", "toy"]) | st.text(max_size=6)
    ).map("/".join)
    | st.text(max_size=12)
)
@example(text="nb201/*")
@example(text="nb201/")
@example(text="/digits")
@example(text="nb201:C=8/cifar10")
@example(text="nb201/../nb201")
@example(text="nb201/\0")
def test_names_of_problems(nb201_table, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASPLUG_DATA", str(nb201_table))
        problem = attempt(nasplug.problem, text)
    assert problem is None or isinstance(problem, Problem)


# ---- constraints


@quick
@given(text=st.text(max_size=12) | garbled("flops <= 300e6") | garbled("params>=1.5"))
@example(text="flops<=1e999")
@example(text="flops<=-.e5")
@example(text="flops<=١")
def test_constraints(text):
    constraint = attempt(Constraint, text)
    if constraint is not None:
        assert constraint.name
        assert constraint.compare([0.0, 1e9]).dtype == bool


@quick
@given(limit=st.floats(allow_nan=False), operator=st.sampled_from(["<", "<=", ">", ">="]))
def test_constraints_mean_what_they_say(limit, operator):
    if np.isinf(limit):
        return
    values = np.array([-1e300, limit, 1e300, 0.0])
    found = Constraint(f" latency@1/a.b {operator} {limit!r} ")
    assert (found.name, found.limit) == ("latency@1/a.b", limit)
    compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
    assert np.array_equal(found.compare(values), compare[operator](values, limit))


# ---- files of learned spaces

MANUAL = nasplug.space("manual-irb").for_data("digits")
LEARNED = {
    "format": 1, "space": "manual-irb", "data": "digits",
    "layers": [["k3e3", "k5e6"], ["zero"], ["k7e3"], ["k3e3"], ["k3e3", "k7e6"], ["k3e6"]],
}  # fmt: skip


def learned(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "fuzzed.json"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return attempt(nasplug.space, str(file))


@quick
@given(key=st.sampled_from([*LEARNED, "other"]), value=json_values, text=st.text(max_size=20))
@example(key="layers", value=3, text="")
@example(key="layers", value=[], text="")
@example(key="layers", value=[[]] * 6, text="")
@example(key="layers", value=[[3]] * 6, text="")
@example(key="layers", value=["abc"] * 6, text="")
@example(key="layers", value={"a": 1}, text="")
@example(key="layers", value=[["k3e3", "k3e3"]] * 6, text="")
@example(key="layers", value=[["zero"]] * 6, text="")
@example(key="space", value=None, text="")
@example(key="space", value="nb201", text="")
@example(key="data", value=[1], text="")
@example(key="data", value={"a": 1}, text="")
@example(key="format", value=2, text="[" * 100_000)
def test_files_of_learned_spaces(tmp_path_factory, key, value, text):
    assert learned(tmp_path_factory, json.dumps(LEARNED)).size == 4
    found = learned(tmp_path_factory, json.dumps(LEARNED | {key: value}))
    assert found is None or isinstance(found, Learned)
    learned(tmp_path_factory, text)
    learned(tmp_path_factory, json.dumps({k: v for k, v in LEARNED.items() if k != key}))


@pytest.mark.parametrize("base", ["macro", "open-cells", "manual-irb"])
@quick
@given(rows=st.lists(st.lists(json_values, max_size=3), max_size=9))
def test_layers_of_learned_spaces(tmp_path_factory, base, rows):
    content = LEARNED | {"space": base, "layers": rows}
    found = learned(tmp_path_factory, json.dumps(content))
    assert found is None or isinstance(found, Learned)


def test_a_learned_space_of_itself_is_refused(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(LEARNED | {"space": str(file)}))
    with pytest.raises(NasplugError):
        nasplug.space(str(file))


# ---- Optuna's samplers and pruners


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Optuna's, of its options
@quick
@given(
    text=st.text(max_size=15)
    | garbled("tpe(multivariate=True)")
    | garbled("cmaes(n_startup_trials=3, restart_strategy='ipop')")
)
@example(text="tpe(**{'a': 1})")
@example(text="tpe(seed=1, seed=2)")
@example(text="tpe(-'a')")
@example(text="TPE()")
@example(text="random(3)")
@example(text="(" * 300)
@example(text="tpe(x=\0)")
def test_names_of_samplers_and_pruners(text):
    optuna = pytest.importorskip("optuna")
    from nasplug.run.by_name import by_name

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = attempt(lambda: by_name(optuna.samplers, "Sampler", text, seed=3))
    assert found is None or isinstance(found, optuna.samplers.BaseSampler)
    found = attempt(lambda: by_name(optuna.pruners, "Pruner", text))
    assert found is None or isinstance(found, optuna.pruners.BasePruner)


def test_samplers_take_options():
    optuna = pytest.importorskip("optuna")
    from nasplug.run.by_name import by_name

    found = by_name(optuna.samplers, "Sampler", "tpe(multivariate=True)", seed=3)
    assert isinstance(found, optuna.samplers.TPESampler)
    assert isinstance(by_name(optuna.pruners, "Pruner", "nop"), optuna.pruners.NopPruner)


def test_a_literal_that_is_none_is_refused():
    optuna = pytest.importorskip("optuna")
    from nasplug.run.by_name import by_name

    with pytest.raises(NasplugError, match="a sampler is a name"):
        by_name(optuna.samplers, "Sampler", "tpe(a={[]: 1})")
