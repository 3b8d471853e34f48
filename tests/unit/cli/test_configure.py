"""What ``dmr configure`` sends, and how it shows what the service tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

DONE = Answer(202, b"")
PATH = "/engines/_configure"


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["m"], {}),
        (["--context-size", "4096", "m"], {"context-size": 4096}),
        (["m", "--context-size=-1"], {"context-size": -1}),
        (["--keep-alive", "0", "m"], {"keep_alive": "0"}),
        (["--keep-alive", "-1", "m"], {"keep_alive": "-1"}),
        (["--max-concurrency", "2", "m"], {"max-concurrency": 2}),
        (["--mode", "Embedding", "m"], {"mode": "embedding"}),
        (["--think", "m"], {"llamacpp": {"reasoning-budget": -1}}),
        (["--think=true", "m"], {"llamacpp": {"reasoning-budget": -1}}),
        (["--think=false", "m"], {"llamacpp": {"reasoning-budget": 0}}),
        (["--think=0", "m"], {"llamacpp": {"reasoning-budget": 0}}),
        (["--no-think", "m"], {"llamacpp": {"reasoning-budget": 0}}),
        (["--reasoning-budget", "99", "m"], {"llamacpp": {"reasoning-budget": 99}}),
        (
            ["--speculative-draft-model", "d", "--speculative-num-tokens", "4", "m"],
            {"speculative": {"draft_model": "d", "num_tokens": 4}},
        ),
        (["--speculative-min-acceptance-rate", "0.8", "m"], {"speculative": {"min_acceptance_rate": 0.8}}),
        (
            ["--hf_overrides", '{"a": {"b": [{"c": 1}]}}', "--gpu-memory-utilization", "0.5", "m"],
            {"vllm": {"hf-overrides": {"a": {"b": [{"c": 1}]}}, "gpu-memory-utilization": 0.5}},
        ),
        (["m", "--", "--temp", "0.5", "--think=x"], {"runtime-flags": ["--temp", "0.5", "--think=x"]}),
        (["m", "--"], {}),
        (["set", "--context-size", "8", "m"], {"context-size": 8}),
        (["set", "show"], {"model": "show"}),
        (
            ["--unset", "context-size", "--unset", "reasoning-budget", "--unset", "keep-alive", "m"],
            {"context-size": None, "llamacpp": {"reasoning-budget": None}, "keep_alive": None},
        ),
        (["--unset", "speculative", "m"], {"speculative": None}),
    ],
)
def test_what_is_named_is_sent_and_nothing_else(
    server: CannedServer, dmr: Dmr, arguments: list[str], sent: dict[str, Any]
) -> None:
    server.on("POST", PATH, DONE)

    assert dmr("configure", *arguments) == (0, "", "")
    assert server.requests[0].json == {"model": "m", **sent}


def test_the_alias_and_a_named_engine(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/engines/llama.cpp/_configure", DONE)

    assert dmr("config", "--backend", "llama.cpp", "m").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Exactly one model must be specified, got 0"),
        (["a", "b"], "Exactly one model must be specified, got 2: a b"),
        (["--", "--temp", "1"], "Exactly one model must be specified, got 0"),
        (["--think=maybe", "m"], "invalid value 'maybe' for --think"),
        (["--think", "--reasoning-budget", "4", "m"], "--think and --reasoning-budget"),
        (["--context-size", "many", "m"], "'many' is not a valid integer"),
        (["--gpu-memory-utilization", "1.5", "m"], "1.5 is not in the range 0<=x<=1"),
        (["--mode", "dance", "m"], "'dance' is not one of"),
        (["--hf_overrides", "[1]", "m"], "must be a JSON object"),
        (["--hf_overrides", "{", "m"], "--hf_overrides is not JSON"),
        (["--hf_overrides", '{"a": [{"b-c": 1}]}', "m"], 'invalid hf_overrides key "b-c"'),
        (["--unset", "context-size", "--context-size", "4", "m"], "takes away what another option sets"),
        (["--unset", "speculative", "--speculative-num-tokens", "4", "m"], "takes away what another option sets"),
        (["show", "--explain"], "name a MODEL to explain"),
        (["reset"], "Missing argument 'MODEL'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_it_is_sent(
    server: CannedServer, dmr: Dmr, arguments: list[str], message: str
) -> None:
    outcome = dmr("configure", *arguments)

    assert (2, "", True) == (outcome.code, outcome.out, message in outcome.err)
    assert server.requests == []


def test_the_services_own_words_are_printed(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", PATH, Answer(409, b"runner already active\n"), Answer(400, b"keep_alive is bad\n"))

    assert dmr("configure", "m") == (5, "", "Error: runner already active\n")
    assert dmr("configure", "m") == (1, "", "Error: keep_alive is bad\n")


ENTRIES = [
    {"Backend": "llama.cpp", "Model": "m:latest", "ModelID": "sha256:0", "Mode": "completion", "Config": {}},
    {"Backend": "vllm", "Model": "m:latest", "ModelID": "sha256:0", "Mode": "embedding", "Config": {"context-size": 1}},
]


def test_show_is_the_references_json(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", PATH, ENTRIES)
    server.on("GET", f"{PATH}?model=a%2Fm", ENTRIES)

    assert dmr("configure", "show") == (0, json.dumps(ENTRIES, indent=2) + "\n", "")
    assert json.loads(dmr("configure", "show", "--json", "--mode", "embedding").out) == ENTRIES[1:]
    assert json.loads(dmr("configure", "show", "--backend", "llama.cpp").out) == ENTRIES[:1]
    assert dmr("configure", "show", "a/m").code == 0


def test_explain_is_a_table_and_command_lines(server: CannedServer, dmr: Dmr) -> None:
    found = {
        "model": "m",
        "model_id": "sha256:0",
        "backend": "llama.cpp",
        "mode": "completion",
        "settings": [
            {
                "name": "context-size",
                "value": "8",
                "source": "configuration",
                "by": "",
                "overrode": [
                    {"value": "16", "source": "artifact", "by": "context_size"},
                    {"value": "32", "source": "environment", "by": "LLAMA_ARGS"},
                ],
            },
            {"name": "--jinja", "value": "true", "source": "default", "by": "", "overrode": []},
        ],
        "argv": ["llama-server", "--grammar", "a b'c"],
        "running": [{"phase": "ready", "pid": 7, "restart_pending": True, "argv": ["llama-server"]}],
    }
    server.on("GET", "/dmr/v1/explain?model=m&mode=embedding&backend=x", found)

    expected = (
        "m (completion) on llama.cpp, sha256:0\n"
        "\n"
        "SETTING       VALUE  SOURCE         INSTEAD OF\n"
        "context-size  8      configuration  16 (artifact: context_size)\n"
        "                                    32 (environment: LLAMA_ARGS)\n"
        "--jinja       true   default\n"
        "\n"
        "The engine is started as:\n"
        "  llama-server --grammar 'a b'\"'\"'c'\n"
        "\n"
        "In memory (ready, process 7); it is older than these settings:\n"
        "  llama-server\n"
    )
    assert (0, expected, "") == dmr("configure", "show", "--explain", "--mode", "embedding", "--backend", "x", "m")
    json_form = dmr("configure", "show", "--explain", "--json", "--mode", "embedding", "--backend", "x", "m")
    assert json.loads(json_form.out) == found


def test_reset_tells_whether_there_was_something(server: CannedServer, dmr: Dmr) -> None:
    server.on("DELETE", f"{PATH}?model=m", {"forgotten": 2}, {"forgotten": 0})
    server.on("DELETE", "/engines/vllm/_configure?model=m&mode=embedding", {"forgotten": 1})

    assert dmr("configure", "reset", "m") == (0, "Settings of 'm' are forgotten.\n", "")
    assert dmr("configure", "reset", "m") == (0, "Nothing was configured for 'm'.\n", "")
    outcome = dmr("configure", "reset", "--mode", "embedding", "--backend", "vllm", "--json", "m")
    assert (0, {"forgotten": 1}) == (outcome.code, json.loads(outcome.out))
