"""``docs/compatibility.md`` has every line it should have, and every test it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (?P<id>[GB]\d+) \| (?P<what>[^|]+) \| (?P<here>[^|]+) \| (?P<tests>[^|]*) ?\|$", re.MULTILINE)
_TEST = re.compile(r"`(?P<file>[\w/]+\.py)::(?P<name>test_\w+)`")


def _rows() -> list[re.Match[str]]:
    return list(_ROW.finditer((ROOT / "docs" / "compatibility.md").read_text()))


def test_every_peculiarity_and_defect_is_listed_once() -> None:
    expected = [f"G{n}" for n in range(1, 27)] + [f"B{n}" for n in range(1, 38)]
    assert expected == [row["id"] for row in _rows()]


def test_every_line_says_what_is_done_and_has_a_test() -> None:
    for row in _rows():
        assert re.match(r"keep|fix|open", row["here"]), row["id"]
        assert bool(_TEST.search(row["tests"])) != row["here"].startswith("open"), row["id"]


def test_every_test_that_is_named_exists() -> None:
    missing = [
        f"{row['id']}: {named[0]}"
        for row in _rows()
        for named in _TEST.finditer(row["tests"])
        if not re.search(
            rf"^ *(async )?def {named['name']}\(", (ROOT / "tests" / named["file"]).read_text(), re.MULTILINE
        )
    ]
    assert [] == missing
