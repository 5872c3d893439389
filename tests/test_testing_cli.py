"""``nasplug check``."""

import json

import pytest

from nasplug.cli import main
from nasplug.kernel.registry import registry
from tests import faulty_methods as faulty
from tests import faulty_others


@pytest.fixture
def check(capsys, monkeypatch):
    """The exit code and what is said, where the faulty ones are registered."""
    found, plugin = registry(), registry().plugins[0]
    methods, spaces = dict(found.methods), dict(found.spaces)
    found._register(plugin, methods, "one-short", faulty.StopsOneShort)
    found._register(plugin, methods, "stranger", faulty.Correct)
    found._register(plugin, spaces, "upward", faulty_others.LooksUpward)
    monkeypatch.setattr(found, "methods", methods)
    monkeypatch.setattr(found, "spaces", spaces)

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["check", *arguments])
        return end.value.code or 0, *capsys.readouterr()

    return call


def test_each_check_has_its_line_and_what_fails_its_fix(check):
    code, out, _ = check("one-short")
    assert code == 2
    assert "FAIL  spends_its_budget: As many trials as the budget allows" in out
    assert "      23 trials with a budget of 24: nothing new is proposed" in out
    assert "      -> `propose` returns at least one arch while" in out
    assert " n/a  takes_up_its_state" in out
    code, out, _ = check("stranger")
    assert code == 0
    assert "FAIL" not in out


def test_json_is_one_line(check, nb201_table, monkeypatch):
    code, out, _ = check("upward", "--json")
    said = json.loads(out)
    assert code == 2
    assert not said["ok"]
    failed = [one for one in said["checks"] if one["state"] == "failed"]
    assert [one["name"] for one in failed] == ["has_mutual_neighbors"]
    assert failed[0]["fix"]
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    assert json.loads(check("nb201/toy", "--json")[1])["ok"]


def test_a_card_is_markdown(check):
    code, out, _ = check("stranger", "--card")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "## stranger"
    assert lines[2].startswith("Mutates the best arch so far")
    assert "- Hooks: `propose`, `update`" in lines
    assert "- Hyperparameters: `explore`" in lines
    assert any(line.startswith("- Checks: 31 passed, 0 failed, 3 do not apply") for line in lines)
    assert (
        "| `searches` | ok | A search of a tiny problem ends with archs of its region. |" in lines
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("one-shrt", "did you mean one-short"), ("nb201/cifar", "unknown problem"),
     ("nb201:Q=3", "unknown option of nb201"), ("no/such", "unknown space 'no'")],
)  # fmt: skip
def test_what_is_not_there_is_said_in_words(check, name, words):
    code, _, err = check(name)
    assert code == 2
    assert words in err
