"""Every promise of docs/promises.md names a test that there is."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMISED = re.findall(r"`(tests/\w+\.py)::(\w+)`", (ROOT / "docs" / "promises.md").read_text())


def test_every_promise_has_its_test():
    assert len(PROMISED) > 20
    for file, name in PROMISED:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
