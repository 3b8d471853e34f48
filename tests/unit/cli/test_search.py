"""What ``dmr search`` prints, and whom it asks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmr_cli.main import main
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

HUB: dict[str, Any] = {
    "name": "ai/gemma3",
    "reference": "gemma3",
    "description": "A model",
    "downloads": 1_234_567,
    "stars": 45_600,
    "source": "Docker Hub",
    "official": True,
    "updated_at": "2026-01-01T00:00:00Z",
    "backend": "llama.cpp",
    "size": 2_500_000_000,
}
FACE: dict[str, Any] = {
    "name": "org/x",
    "reference": "hf.co/org/x",
    "description": "AI model",
    "downloads": 999,
    "stars": 0,
    "source": "HuggingFace",
    "official": False,
    "updated_at": "",
    "backend": "unknown",
    "size": 0,
}


def test_search_is_a_table(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/dmr/v1/search", {"hits": [HUB, FACE], "warnings": []})
    assert dmr("search", "-n", "5", "--source", "hf", "gem & co") == (
        0,
        (
            "NAME         DESCRIPTION  BACKEND    SIZE    DOWNLOADS  STARS  SOURCE\n"
            "gemma3       A model      llama.cpp  2.50GB  1.2M       45.6K  Docker Hub\n"
            "hf.co/org/x  AI model     unknown    n/a     999        0      HuggingFace\n"
        ),
        "",
    )
    assert server.requests[-1].path == "/dmr/v1/search?term=gem%20%26%20co&limit=5&source=hf"


def test_search_as_json_has_the_keys_of_the_reference(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/dmr/v1/search", {"hits": [HUB], "warnings": []})
    (found,) = json.loads(dmr("search", "--json").out)
    assert found == {
        "Name": "ai/gemma3",
        "Description": "A model",
        "Downloads": 1_234_567,
        "Stars": 45_600,
        "Source": "Docker Hub",
        "Official": True,
        "UpdatedAt": "2026-01-01T00:00:00Z",
        "Backend": "llama.cpp",
        "Size": 2_500_000_000,
        "Reference": "gemma3",
    }


def test_nothing_found_is_said_and_in_json_an_empty_list(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/dmr/v1/search", {"hits": [], "warnings": []})
    assert dmr("search", "zzz") == (0, 'No models found matching "zzz"\n', "")
    assert dmr("search") == (0, "No models found\n", "")
    assert dmr("search", "--json", "zzz") == (0, "[]\n", "")


def test_a_hub_that_failed_is_a_warning(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/dmr/v1/search", {"hits": [FACE], "warnings": ["failed to search Docker Hub: \x1b[2Jno"]})
    outcome = dmr("search")
    assert outcome.code == 0
    assert outcome.err == "Warning: failed to search Docker Hub: no\n"


def test_all_that_failed_are_an_error(server: CannedServer, dmr: Dmr) -> None:
    text = b"search failed: all search sources failed: [Docker Hub: this; HuggingFace: that]\n"
    server.on("GET", "/dmr/v1/search", Answer(status=502, body=text))
    assert dmr("search") == (1, "", f"Error: {text.decode()}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "bing"], 'unknown source "bing": valid options are'),
        (["-n", "0"], "0 is not in the range"),
        (["one", "two"], "unexpected extra argument"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(
    server: CannedServer, dmr: Dmr, arguments: list[str], words: str
) -> None:
    outcome = dmr("search", *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert server.requests == []


@pytest.mark.parametrize("running", [True, False])
def test_without_a_service_that_can_search_it_searches_itself(
    server: CannedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    """Another model runner answers 404; none at all refuses the connection."""
    asked: list[tuple[str, int, str]] = []

    def search(term: str, limit: int, source: str) -> dict[str, Any]:
        asked.append((term, limit, source))
        return {"hits": [HUB], "warnings": []}

    monkeypatch.setattr("dmr_cli.server.search.search", search)
    host = server.url if running else "http://127.0.0.1:1"
    assert main(["--host", host, "search", "gemma"]) == 0
    assert "gemma3" in capsys.readouterr().out
    assert asked == [("gemma", 32, "all")]
