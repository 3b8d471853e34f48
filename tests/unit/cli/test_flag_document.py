"""The page that lists runtime flags says what the tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_cli.server.flag_document import flag_document, main
from dmr_core.domain.flag_kinds import Choice
from dmr_core.domain.flags import Flag, FlagTable

DOCUMENT = Path(__file__).parents[3] / "docs" / "flags.md"


def test_the_document_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    main()

    assert DOCUMENT.read_text() == capsys.readouterr().out, "python -m dmr_cli.server.flag_document > docs/flags.md"


def test_every_flag_is_a_row_with_its_value_and_setting() -> None:
    kind = Choice(("a|b", "c"))
    table = FlagTable(
        "one",
        (
            Flag(names=("-m", "--many"), kind=kind, setting="many", help="how many"),
            Flag(names=("--map",), off_names=("-nm", "--no-map")),
        ),
        withheld={"--key": "it is secret", "--quiet": ""},
    )
    document = flag_document({"one": table})

    assert "| `--many` `-m` | one of a\\|b, c | how many | `many` |" in document
    assert "| `--map` `--no-map` `-nm` |  |  |  |" in document
    assert "- `--key`: it is secret" in document
    assert "--quiet" not in document
