"""What a study leaves for people: best.json, pareto.json, trials.csv and Optuna's own plots."""

from __future__ import annotations

import csv
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasplug import __version__
from nasplug.journal import write_json
from nasplug.tuning.storage import ATTRIBUTE, retried


def write(study: optuna.Study, folder: Path) -> None:
    """All of it, into the study directory. Plots need matplotlib, plots.html needs plotly."""
    write_json(folder / "best.json", config(study, best(study)))
    if len(study.directions) > 1:
        write_json(folder / "pareto.json", [config(study, trial) for trial in study.best_trials])
    _write_trials(study, folder / "trials.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Optuna's plots are experimental
        if importlib.util.find_spec("matplotlib") is not None:
            _draw(study, folder)
        if importlib.util.find_spec("plotly") is not None:
            _draw_page(study, folder / "plots.html")


def best(study: optuna.Study) -> FrozenTrial:
    """The best trial; of several objectives, the one on the Pareto front with the best first."""
    if len(study.directions) == 1:
        return study.best_trial
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(study.best_trials, key=lambda trial: sign * trial.values[0])


def config(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    """Hyperparameters for ``nasplug run --config``, and how good they were found to be."""
    about = study.user_attrs[ATTRIBUTE]
    objectives = about["objectives"]
    first = study.trials[0]
    return {
        "method": about["method"],
        "problem": about["problem"],
        "hyperparameters": {**about["fixed"], **trial.params},
        "value": trial.values[0],
        "report": trial.user_attrs["measured"]["report"],
        "objectives": dict(zip(objectives, trial.values, strict=True)),
        "measured": {
            "what": f"mean {about['reward']} of the arch selected after {about['budget']} trials"
            if objectives[0] == "value"
            else f"mean {objectives[0]} of a search of {about['budget']} trials",
            "by_seed": dict(
                zip(about["seeds"], trial.user_attrs["measured"]["objectives"], strict=True)
            ),
            "defaults": first.values[0] if first.values else None,
            "trial": trial.number,
            "trials": len(study.get_trials(deepcopy=False)),
            "study": study.study_name,
            "nasplug": __version__,
        },
    }


def headline(study: optuna.Study) -> str:
    """The best so far, for the progress bar."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return ""
    if len(study.directions) > 1:
        return f"{len(study.best_trials)} on the Pareto front"
    return f"best {study.best_value:.5g}"


def table(study: optuna.Study, n: int = 5) -> list[dict[str, Any]]:
    """The best trials, or the Pareto front, best first, and the defaults, as rows for people."""
    about = study.user_attrs[ATTRIBUTE]
    done = study.get_trials(states=(TrialState.COMPLETE,))
    good = study.best_trials if len(study.directions) > 1 else done
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    ranked = sorted(good, key=lambda trial: sign * trial.values[0])[:n]
    ranked += [t for t in done if t.number == 0 and t not in ranked]
    return [
        {
            "trial": trial.number,
            **dict(zip(about["objectives"], trial.values, strict=True)),
            "report": trial.user_attrs["measured"]["report"],
            **{name: trial.params.get(name) for name in about["tuned"]},
            "": "defaults" if trial.number == 0 else "",
        }
        for trial in ranked
    ]


def summary(study: optuna.Study, folder: Path) -> dict[str, Any]:
    """What ``--json`` prints."""
    lost = retried(study)
    states = [t.state.name.lower() for t in study.trials if t.number not in lost]
    return {
        **config(study, best(study)),
        "pareto": [config(study, trial)["objectives"] for trial in study.best_trials],
        "states": {state: states.count(state) for state in sorted(set(states))},
        "study_dir": str(folder),
    }


def _write_trials(study: optuna.Study, file: Path) -> None:
    about = study.user_attrs[ATTRIBUTE]
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        attributes = ("report", "seeds", "seconds", "worker", "error")
        writer.writerow(["number", "state", *about["objectives"], *about["tuned"], *attributes])
        for trial in study.trials:
            measured = trial.user_attrs.get("measured", {})
            values = trial.values or [None] * len(about["objectives"])
            writer.writerow(
                [
                    trial.number,
                    trial.state.name.lower(),
                    *values,
                    *(trial.params.get(name) for name in about["tuned"]),
                    measured.get("report"),
                    len(measured.get("objectives", ())),
                    trial.duration.total_seconds() if trial.duration else None,
                    trial.user_attrs.get("worker"),
                    trial.user_attrs.get("error"),
                ]
            )


def _plots(module: Any, study: optuna.Study) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, function that draws it) from one of Optuna's two plotting modules."""
    objectives = study.user_attrs[ATTRIBUTE]["objectives"]
    several = len(objectives) > 1
    first: dict[str, Any] = {"target_name": objectives[0]}
    if several:
        first["target"] = lambda trial: trial.values[0]
    yield "history", lambda: module.plot_optimization_history(study, **first)
    if len({name for trial in study.trials for name in trial.params}) > 1:
        yield "importance", lambda: module.plot_param_importances(study, **first)
        yield "parallel", lambda: module.plot_parallel_coordinate(study, **first)
    yield "slice", lambda: module.plot_slice(study, **first)
    if several and len(objectives) <= 3:
        yield "pareto", lambda: module.plot_pareto_front(study, target_names=objectives)


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
                plt.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
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
    file.write_text(f"<!doctype html><meta charset=utf-8>{title}{''.join(parts)}")
