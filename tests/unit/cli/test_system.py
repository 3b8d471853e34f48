"""``dmr system`` and ``dmr purge``: what is asked of the service, and what people are told."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_cli.client.commands import system as module
from dmr_cli.main import main
from dmr_core.domain.digest import Digest
from dmr_core.testing.contracts.model_store import put_model
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

_PLAN = {
    "dry_run": True,
    "count": 3,
    "size": 5000,
    "removed": [
        {"kind": "unreferenced-blob", "count": 2, "size": 4000},
        {"kind": "stale-partial", "count": 1, "size": 1000},
    ],
    "models": [],
    "kept": 1,
    "failed": [],
}
_NOTHING = {"dry_run": True, "count": 0, "size": 0, "removed": [], "models": [], "kept": 0, "failed": []}
_FINDING = {
    "kind": "blob-damaged",
    "note": False,
    "path": "blobs/sha256/ab",
    "problem": "is not what its digest says",
    "models": ["docker.io/ai/one:latest"],
    "advice": "pull it again",
    "repaired": "",
}
_NOTE = {**_FINDING, "note": True, "kind": "garbage", "path": "", "problem": "3 of it", "models": [], "advice": ""}
_REPORT = {"clean": False, "deep": True, "models": 2, "blobs": 5, "hashed": 12345, "findings": [_NOTE, _FINDING]}


def answers(server: CannedServer, *texts: str) -> None:
    lines = "\n".join(texts)
    server.on(
        "POST", "/dmr/v1/store/check", Answer(body=lines.encode(), headers={"content-type": "application/x-ndjson"})
    )


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


# --- prune ------------------------------------------------------------------------------------------


def test_prune_asks_before_it_removes(server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("POST", "/dmr/v1/store/prune", _PLAN, {**_PLAN, "dry_run": False})
    typed(monkeypatch, "y\n")
    code, out, err = dmr("system", "prune")
    assert code == 0
    assert out == ("Blobs of no model: 2 (4.00kB)\nAbandoned downloads: 1 (1.00kB)\nTotal reclaimed space: 5.00kB\n")
    assert err.startswith("WARNING! This will remove:\n  Blobs of no model: 2 (4.00kB)\n")
    assert err.endswith("1 more are in use and stay.\n")
    assert [request.json for request in server.requests] == [
        {"dry_run": True, "all": False},
        {"dry_run": False, "all": False},
    ]


@pytest.mark.parametrize("answer", ["n\n", "\n", "yes\n"])
def test_prune_removes_nothing_without_a_yes(
    server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    server.on("POST", "/dmr/v1/store/prune", _PLAN)
    typed(monkeypatch, answer)
    code, out, err = dmr("system", "prune")
    assert (code, out) == (0, "")
    assert err.endswith("Operation cancelled.\n")
    assert len(server.requests) == 1


def test_prune_fails_where_nobody_can_answer(server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("POST", "/dmr/v1/store/prune", _PLAN)
    typed(monkeypatch, "")
    code, _, err = dmr("system", "prune")
    assert code == 1
    assert "--force" in err
    assert len(server.requests) == 1


def test_prune_does_not_ask_where_there_is_nothing(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/dmr/v1/store/prune", _NOTHING)
    assert dmr("system", "prune") == (0, "Nothing to remove.\n", "")


def test_prune_by_force_and_as_json(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/dmr/v1/store/prune", {**_PLAN, "dry_run": False})
    code, out, _ = dmr("system", "prune", "-a", "-f", "--json")
    assert (code, json.loads(out)) == (0, {**_PLAN, "dry_run": False})
    assert [request.json for request in server.requests] == [{"dry_run": False, "all": True}]
    assert dmr("system", "prune", "--json").code == 2


def test_prune_says_what_it_would_do(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/dmr/v1/store/prune", _PLAN)
    assert dmr("system", "prune", "--dry-run").out.endswith("Would reclaim 5.00kB\n")
    assert [request.json for request in server.requests] == [{"dry_run": True, "all": False}]


def test_prune_fails_when_something_could_not_be_removed(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/dmr/v1/store/prune", {**_PLAN, "failed": ["/models/x: Permission denied"]})
    code, _, err = dmr("system", "prune", "--force")
    assert code == 1
    assert "/models/x: Permission denied" in err


# --- check ------------------------------------------------------------------------------------------


def test_check_tells_problems_first_and_fails_while_there_are_some(server: CannedServer, dmr: Dmr) -> None:
    progress = {"type": "progress", "done": 1, "total": 2, "doing": "x"}
    answers(server, json.dumps(progress), json.dumps({"type": "report", **_REPORT}))
    code, out, err = dmr("system", "check")
    assert (code, err) == (1, "")
    assert out == (
        "Problem: blobs/sha256/ab is not what its digest says\n    models: one\n    next: pull it again\n"
        "Note: 3 of it\n2 model(s), 5 blob(s), 12.35kB read: 1 problem(s), 0 repaired.\n"
    )
    assert [request.json for request in server.requests] == [{"repair": False, "quick": False}]


def test_a_check_that_repaired_everything_succeeds(server: CannedServer, dmr: Dmr) -> None:
    report = {**_REPORT, "clean": True, "deep": False, "findings": [{**_FINDING, "repaired": "set aside"}]}
    answers(server, json.dumps({"type": "report", **report}))
    code, out, _ = dmr("system", "check", "--repair", "--quick")
    assert code == 0
    assert "Repaired: blobs" in out
    assert "    done: set aside\n" in out
    assert out.endswith("2 model(s), 5 blob(s), sizes only: 1 problem(s), 1 repaired.\n")
    assert server.requests[0].json == {"repair": True, "quick": True}
    answers(server, json.dumps({"type": "report", **report}))
    assert json.loads(dmr("system", "check", "--json").out) == report


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"type": "error", "message": "locked", "code": "unavailable"}', "locked"),
        ("garbage", "not JSON"),
        ('{"type": "progress"}', "without saying how it went"),
    ],
)
def test_a_check_that_breaks_off_fails(server: CannedServer, dmr: Dmr, text: str, told: str) -> None:
    answers(server, text)
    code, _, err = dmr("system", "check")
    assert code == 1
    assert told in err


def test_a_service_of_the_reference_cannot_check(server: CannedServer, dmr: Dmr) -> None:
    for command in ("check", "df"):
        code, _, err = dmr("system", command)
        assert code == 1
        assert "is it dmr?" in err


async def make_store(root: Path) -> Digest:
    store = await FilesystemModelStore.open(root)
    return (await put_model(store, b"GGUF")).id


def test_check_works_without_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model_id = asyncio.run(make_store(tmp_path))
    monkeypatch.setenv("MODELS_PATH", str(tmp_path))
    monkeypatch.setattr("dmr_cli.client.endpoint.DEFAULT_PORT", 1)
    assert main(["system", "check"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("1 model(s), 2 blob(s)")
    assert "No service runs here" in captured.err
    (tmp_path / "manifests" / "sha256" / model_id.hex).unlink()
    assert main(["system", "check", "--path", str(tmp_path)]) == 1
    assert main(["system", "check", "--path", str(tmp_path), "--repair", "--json"]) == 0
    assert main(["--host", "127.0.0.1:1", "system", "check"]) == 4


def test_check_of_a_directory_that_is_no_store_makes_none_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["system", "check", "--path", str(tmp_path)]) == 1
    assert "no model store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_progress_is_a_line_that_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with module._Meter(shown=True).running() as meter:
        meter.tell(0, 0)
        meter.tell(500, 1000)
        meter.tell(500, 1000)
    text = capsys.readouterr().err
    line = "Checking: 500.00B of 1.00kB (50%)"
    assert text == f"\r{line}\r{' ' * len(line)}\r"


# --- df and purge -----------------------------------------------------------------------------------


def test_df_shows_where_the_bytes_are(server: CannedServer, dmr: Dmr) -> None:
    usage = {
        "total": 10_000,
        "bundles": 100,
        "partials": 2000,
        "quarantine": 0,
        "unreferenced": 900,
        "reclaimable": 2900,
        "models": [
            {
                "id": "sha256:" + "a" * 64,
                "tags": ["docker.io/ai/one:latest", "b"],
                "size": 7000,
                "unique": 4000,
                "shared": 3000,
            },
            {"id": "sha256:" + "b" * 64, "tags": [], "size": 3000, "unique": 0, "shared": 3000},
        ],
    }
    server.on("GET", "/dmr/v1/store/usage", usage)
    assert dmr("system", "df").out == (
        "TYPE                                COUNT  SIZE\n"
        "Models                              2      7.00kB\n"
        "Bundles, beyond their links                100.00B\n"
        "Downloads under way or interrupted         2.00kB\n"
        "Belonging to no model                      900.00B\n"
        "Set aside by repairs                       0.00B\n"
        "\n"
        "Total 10.00kB, reclaimable 2.90kB\n"
    )
    assert dmr("system", "df", "-v").out.endswith(
        "MODEL         SIZE    UNIQUE  SHARED\n"
        "one (+1)      7.00kB  4.00kB  3.00kB\n"
        "bbbbbbbbbbbb  3.00kB  0.00B   3.00kB\n"
    )
    assert json.loads(dmr("system", "df", "--json").out) == usage


def test_purge_unloads_then_removes_and_says_nothing(
    server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("POST", "/engines/unload", {"unloaded_runners": 1})
    server.on("DELETE", "/models/purge", Answer())
    assert dmr("purge", "--force") == (0, "", "")
    assert [(request.method, request.path) for request in server.requests] == [
        ("POST", "/engines/unload"),
        ("DELETE", "/models/purge"),
    ]
    assert server.requests[0].json["all"] is True
    typed(monkeypatch, "Y\n")
    assert dmr("purge").code == 0
    assert len(server.requests) == 4
    typed(monkeypatch, "no\n")
    code, out, err = dmr("purge")
    assert (code, out) == (0, "")
    assert err == (
        "WARNING! This will remove ALL models from the local store.\n"
        "Are you sure you want to continue? [y/N] Operation cancelled.\n"
    )
    assert len(server.requests) == 4


def test_purge_of_models_in_use_has_the_exit_code_of_a_conflict(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/engines/unload", {"unloaded_runners": 0})
    server.on("DELETE", "/models/purge", Answer(status=409, body=b"error while purging models: in use"))
    code, _, err = dmr("purge", "-f")
    assert code == 5
    assert "in use" in err
