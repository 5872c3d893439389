"""What a study leaves for people: best.json, pareto.json, trials.csv and Optuna's own plots."""

from __future__ import annotations

import copy
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasplug._version import __version__
from nasplug.files import replacing
from nasplug.run.directory import write_json
from nasplug.run.report import write_csv
from nasplug.tuning.storage import ATTRIBUTE, counted

COMPLETE, FAIL = (TrialState.COMPLETE,), (TrialState.FAIL,)


def write(study: optuna.Study, folder: Path) -> None:
    """All of it, into the study directory. Plots need matplotlib, plots.html needs plotly."""
    write_json(folder / "best.json", config(study, _ranked(study)[0]))
    if len(study.directions) > 1:
        write_json(folder / "pareto.json", [config(study, trial) for trial in study.best_trials])
    write_csv(folder / "trials.csv", _trial_rows(study))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Optuna's plots are experimental
        if importlib.util.find_spec("matplotlib") is not None:
            _draw(study, folder)
        if importlib.util.find_spec("plotly") is not None:
            _draw_page(study, folder / "plots.html")


def config(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    """Hyperparameters for ``nasplug run --config``, and how good they were found to be."""
    about, measured = study.user_attrs[ATTRIBUTE], trial.user_attrs["measured"]
    objectives = about["objectives"]
    trials = counted(study)
    failed, reason = failures(study)
    return {
        "method": about["method"],
        "problem": about["problem"],
        "hyperparameters": {**about["fixed"], **trial.params},
        "value": trial.values[0],
        "report": measured["report"],
        "objectives": dict(zip(objectives, trial.values, strict=True)),
        "measured": {
            "what": f"mean {about['reward']} of the arch selected after {about['budget']} trials"
            if objectives[0] == "value"
            else f"mean {objectives[0]} of a search of {about['budget']} trials",
            "by_seed": dict(zip(about["seeds"], measured["objectives"], strict=True)),
            "defaults": trials[0].values[0] if trials[0].values else None,
            "trial": trial.number,
            "trials": len(trials),
            "failed": failed,
            "last_error": reason or None,
            "study": study.study_name,
            "nasplug": __version__,
        },
    }


def headline(study: optuna.Study) -> str:
    """The best so far and the failures, for the progress bar."""
    words = []
    if len(study.directions) > 1:
        words.append(f"{len(study.best_trials)} on the Pareto front")
    elif counted(study, COMPLETE):
        words.append(f"best {study.best_value:.5g}")
    if failed := len(counted(study, FAIL)):
        words.append(f"{failed} failed")
    return ", ".join(words)


def failures(study: optuna.Study) -> tuple[int, str]:
    """How many trials have failed, and what the last of them said."""
    failed = counted(study, FAIL)
    said = [trial.user_attrs.get("error", "its workers died") for trial in failed]
    return len(failed), said[-1] if said else ""


def table(study: optuna.Study, n: int = 5) -> list[dict[str, Any]]:
    """The best trials, or the Pareto front, best first, the defaults, and how many trials have
    failed, as rows for people."""
    about, defaults = study.user_attrs[ATTRIBUTE], counted(study)[0]
    shown = _ranked(study)[:n]
    if defaults.state in COMPLETE and defaults.number not in [trial.number for trial in shown]:
        shown.append(defaults)
    rows = [
        {
            "trial": trial.number,
            **dict(zip(about["objectives"], trial.values, strict=True)),
            "report": trial.user_attrs["measured"]["report"],
            **{name: trial.params.get(name) for name in about["tuned"]},
            "": "defaults" if trial.number == defaults.number else "",
        }
        for trial in shown
    ]
    failed, reason = failures(study)
    if failed:
        rows.append({**dict.fromkeys(rows[0]), "": f"{failed} failed; the last said: {reason}"})
    return rows


def summary(study: optuna.Study, folder: Path) -> dict[str, Any]:
    """What ``--json`` prints."""
    states = [trial.state.name.lower() for trial in counted(study)]
    best = config(study, _ranked(study)[0])
    return {
        **best,
        "pareto": [config(study, trial)["objectives"] for trial in study.best_trials],
        "states": {state: states.count(state) for state in sorted(set(states))},
        "failed": best["measured"]["failed"],
        "last_error": best["measured"]["last_error"],
        "study_dir": str(folder),
    }


def _ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, best first; of several objectives, those on the Pareto front, the
    best in the first of them first."""
    good = study.best_trials if len(study.directions) > 1 else counted(study, COMPLETE)
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    return sorted(good, key=lambda trial: sign * trial.values[0])


def _trial_rows(study: optuna.Study) -> Iterator[list[Any]]:
    """The names of the columns, then all trials."""
    about = study.user_attrs[ATTRIBUTE]
    columns = ("report", "seeds", "seconds", "worker", "error")
    yield ["number", "state", *about["objectives"], *about["tuned"], *columns]
    for trial in study.trials:
        measured = trial.user_attrs.get("measured", {})
        row = [
            trial.number,
            trial.state.name.lower(),
            *(trial.values or [None] * len(about["objectives"])),
            *(trial.params.get(name) for name in about["tuned"]),
            measured.get("report"),
            len(measured.get("objectives", ())),
            trial.duration.total_seconds() if trial.duration else None,
            trial.user_attrs.get("worker"),
            trial.user_attrs.get("error"),
        ]
        yield ["" if content is None else content for content in row]


def _plots(module: Any, study: optuna.Study) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, function that draws it) from one of Optuna's two plotting modules."""
    objectives = study.user_attrs[ATTRIBUTE]["objectives"]
    several = len(objectives) > 1
    first: dict[str, Any] = {"target_name": objectives[0]}
    if several:
        first["target"] = lambda trial: trial.values[0]
    yield "history", lambda: module.plot_optimization_history(study, **first)
    if len({name for trial in study.trials for name in trial.params}) > 1:
        yield "importance", lambda: module.plot_param_importances(_of_one_range(study), **first)
        yield "parallel", lambda: module.plot_parallel_coordinate(study, **first)
    yield "slice", lambda: module.plot_slice(study, **first)
    if several and len(objectives) <= 3:
        yield "pareto", lambda: module.plot_pareto_front(study, target_names=objectives)


def _of_one_range(study: optuna.Study) -> optuna.Study:
    """The study with the widest range of each hyperparameter in all its trials, in memory: Optuna
    takes ranges that end at another hyperparameter apart, and finds no importance in any of them.
    """
    widest: dict[str, Any] = {}
    trials = [copy.copy(trial) for trial in study.get_trials(deepcopy=False, states=COMPLETE)]
    for trial in trials:
        for name, one in trial.distributions.items():
            widest[name] = max(widest.get(name, one), one, key=lambda d: getattr(d, "high", 0))
    for trial in trials:
        trial.distributions = {name: widest[name] for name in trial.params}
    found = optuna.create_study(directions=study.directions)
    found.add_trials(trials)
    return found


def _draw(study: optuna.Study, folder: Path) -> None:
    import matplotlib.pyplot as plt
    import optuna.visualization.matplotlib as drawn

    for name, draw in _plots(drawn, study):
        with plt.rc_context():  # Optuna changes the style
            before = set(plt.get_fignums())
            try:
                draw()
                if name == "slice":  # a panel for each hyperparameter, which Optuna makes narrow
                    plt.gcf().set_size_inches(max(6, 2.6 * len(plt.gcf().axes)), 4.5)
                with replacing(folder / f"{name}.png") as partial:
                    plt.savefig(partial, dpi=110, bbox_inches="tight")
            except Exception as error:  # costs only this picture
                print(f"{name}.png was not drawn: {error}", file=sys.stderr)
            for number in set(plt.get_fignums()) - before:
                plt.close(number)


def _draw_page(study: optuna.Study, file: Path) -> None:
    """Optuna's interactive plots on one page that needs nothing else."""
    import optuna.visualization as drawn

    parts: list[str] = []
    for name, draw in _plots(drawn, study):
        try:
            parts.append(draw().to_html(full_html=False, include_plotlyjs=not parts))
        except Exception as error:
            print(f"{name} is missing in {file.name}: {error}", file=sys.stderr)
    title = f"<title>{study.study_name}</title>"
    with replacing(file) as partial:
        partial.write_text(f"<!doctype html><meta charset=utf-8>{title}{''.join(parts)}")
