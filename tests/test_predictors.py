"""Predictors behind one interface, and what they refuse to learn from."""

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError
from nasplug.analysis.predictors import PREDICTORS, XGBoost, held_out, normal_scores, predictor

pytest.importorskip("sklearn")
pytest.importorskip("xgboost")

SPACE = nasplug.space("nb201")


def scored(n, seed=0):
    archs = SPACE.sample(n, seed)
    return archs, (archs == 3).sum(1) + 0.3 * (archs == 1).sum(1) - 2.0 * (archs[:, 3] == 0)


@pytest.mark.parametrize("name", PREDICTORS)
def test_each_ranks_archs_it_has_not_seen(name):
    correlations = held_out(predictor(name, SPACE), *scored(300))
    assert correlations["spearman"] > 0.8
    assert correlations["kendall"] > 0.6


def test_correlations_on_held_out_archs_leave_the_predictor_as_it_is():
    archs, values = scored(100)
    model = XGBoost(SPACE).fit(archs, values)
    before = model.predict(archs)
    held_out(model, archs, values)
    assert np.array_equal(model.predict(archs), before)


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_seed_fixes_the_predictions(name):
    archs, values = scored(60)
    first, second = (predictor(name, SPACE, 3).fit(archs, values).predict(archs) for _ in "ab")
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["forest", "mlp"])
def test_ensembles_are_less_certain_far_from_what_they_learned(name):
    archs = SPACE.all()
    near = archs[archs[:, 0] < 2]
    model = predictor(name, SPACE).fit(*(column[:200] for column in scored(400)))
    assert model.uncertainty(near).shape == (len(near),)
    assert (model.uncertainty(near) >= 0).all()


def test_xgboost_knows_no_uncertainty():
    with pytest.raises(NasplugError, match="forest and mlp do"):
        XGBoost(SPACE).fit(*scored(50)).uncertainty(SPACE.sample(2, 0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0] * 20, "all 20 values are 1"),
        ([1.0] * 19 + [np.nan], "1 of 20 values: they are not finite"),
        ([1.0, 2.0], "at least 5 scored archs, got 2"),
    ],
)
def test_what_cannot_be_fitted_says_why(values, message):
    with pytest.raises(NasplugError, match=message):
        predictor("forest", SPACE).fit(SPACE.sample(len(values), 0), values)


def test_a_misspelt_predictor_is_met_with_the_nearest():
    with pytest.raises(NasplugError, match="did you mean xgboost"):
        predictor("xgbost", SPACE)


def hidden(archs):
    """A number that the encoding says nothing of."""
    return np.random.default_rng(0).normal(size=SPACE.size)[SPACE.index(archs)]


@pytest.mark.parametrize(
    ("name", "shape"), [("xgboost", (-1,)), ("forest", (-1, 1)), ("mlp", (-1,))]
)
def test_columns_beside_the_features_are_learned_from(name, shape):
    archs = SPACE.distinct(SPACE.sample(300, 0))
    values = hidden(SPACE.canonical(archs))
    million = predictor(name, SPACE, extra=lambda archs: 1e6 + 1e3 * hidden(archs).reshape(shape))
    assert held_out(million, archs, values)["spearman"] > 0.9
    assert held_out(predictor(name, SPACE), archs, values)["spearman"] < 0.4


def test_a_column_that_is_not_finite_counts_as_the_lowest():
    archs = SPACE.distinct(SPACE.sample(200, 0))
    low = SPACE.canonical(archs)[hidden(SPACE.canonical(archs)).argmin()]

    def extra(archs):
        values = hidden(archs)
        return np.where(values < -1, np.nan, values)

    model = predictor("forest", SPACE, extra=extra)
    model.fit(archs, hidden(SPACE.canonical(archs)))
    predicted = model.predict(SPACE.sample(500, 1))
    assert np.isfinite(predicted).all()
    assert model.predict(low[None])[0] < np.median(predicted)
    with pytest.raises(NasplugError, match="not finite for any arch"):
        predictor("forest", SPACE, extra=lambda archs: np.full(len(archs), np.nan)).fit(*scored(20))


def test_counts_of_the_space_by_name():
    archs = SPACE.sample(200, 0)
    named = predictor("xgboost+params+flops", SPACE).fit(archs, SPACE.params(archs))
    both = predictor(
        "xgboost", SPACE, extra=lambda a: np.transpose([SPACE.params(a), SPACE.flops(a)])
    ).fit(archs, SPACE.params(archs))
    others = SPACE.sample(300, 1)
    assert np.array_equal(named.predict(others), both.predict(others))
    with pytest.raises(NasplugError, match=r"unknown feature for xgboost\+ 'latency'.*params"):
        predictor("xgboost+latency", SPACE)
    with pytest.raises(NasplugError, match="graph does not know its parameter counts"):
        predictor("forest+params", nasplug.space("graph"))


def test_a_model_of_such_columns_is_not_for_a_file(tmp_path):
    model = predictor("xgboost+params", SPACE).fit(*scored(50))
    with pytest.raises(NasplugError, match="not for a file"):
        model.save(tmp_path / "model.ubj")


def test_a_saved_model_predicts_the_same_and_only_for_its_space(tmp_path):
    archs, values = scored(100)
    model = XGBoost(SPACE).fit(archs, values)
    model.save(tmp_path / "model.ubj")
    again = XGBoost(SPACE, path=tmp_path / "model.ubj")
    assert np.array_equal(again.predict(archs), model.predict(archs))
    with pytest.raises(NasplugError, match="30 features; an arch of macro has 24"):
        XGBoost(nasplug.space("macro"), path=tmp_path / "model.ubj")
    with pytest.raises(NasplugError, match=r"there is no predictor .*nowhere\.ubj"):
        XGBoost(SPACE, path=tmp_path / "nowhere.ubj")
    (tmp_path / "other.json").write_text("not a model")
    with pytest.raises(NasplugError, match="no XGBoost model"):
        XGBoost(SPACE, path=tmp_path / "other.json")


def test_normal_scores_keep_the_order_and_tame_the_tail():
    scores = normal_scores([-1e9, 1.0, 2.0, 2.0, 3.0])
    assert scores[2] == scores[3]
    assert scores[0] == pytest.approx(-scores[4])
    assert (np.diff(scores) >= 0).all()
