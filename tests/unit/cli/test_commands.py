"""What the management commands print, where, and how they exit."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from dmr_cli.client.commands.ps import until
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

ID = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "fedcba9876543210" * 4
SMOL: dict[str, Any] = {
    "id": ID,
    "tags": ["docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:Tiny"],
    "created": 0,
    "config": {
        "format": "gguf",
        "parameters": "361.82M",
        "quantization": "Q4_K_M",
        "architecture": "llama",
        "size": "256.35MB",
        "gguf": {"general.architecture": "llama", "llama.context_length": "4096"},
    },
}
BARE: dict[str, Any] = {"id": OTHER, "created": 0, "config": None}
LOCAL: dict[str, Any] = {"id": OTHER, "tags": ["localhost:5000/team/x:v1"], "created": 0, "config": {"context_size": 8}}


def test_list_is_a_table_of_tags(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models", [SMOL, BARE])

    expected = (
        "MODEL NAME    PARAMETERS  QUANTIZATION  ARCHITECTURE  MODEL ID      CREATED  CONTEXT  SIZE\n"
        "<none>                                                fedcba987654\n"
        "smollm2       361.82M     Q4_K_M        llama         0123456789ab           4096     256.35MB\n"
        "smollm2:Tiny  361.82M     Q4_K_M        llama         0123456789ab           4096     256.35MB\n"
    )
    assert (0, expected, "") == dmr("list")
    assert (0, expected, "") == dmr("ls")


def test_list_of_nothing_is_the_headings(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models", [])

    outcome = dmr("list")

    assert outcome.out == "MODEL NAME  PARAMETERS  QUANTIZATION  ARCHITECTURE  MODEL ID  CREATED  CONTEXT  SIZE\n"
    assert dmr("list", "-q") == (0, "", "")
    assert dmr("list", "--json") == (0, "[]\n", "")
    assert dmr("list", "--json", "nothing") == (0, "[]\n", "")


def test_list_says_how_old_a_model_is(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models", [{**BARE, "created": int(time.time()) - 3 * 86400 - 60}])

    assert "  3 days ago\n" in dmr("list").out


def test_list_sorts_by_name_then_tag(server: CannedServer, dmr: Dmr) -> None:
    tags = ["qwen3-coder:latest", "qwen3:0.6B-F16", "Zeta:latest", "qwen3:latest", "7b:latest"]
    server.on("GET", "/models", [{**BARE, "tags": [f"docker.io/ai/{tag}" for tag in tags]}, BARE])

    names = [line.split()[0] for line in dmr("list").out.splitlines()[1:]]

    assert names == ["7b", "<none>", "qwen3", "qwen3:0.6B-F16", "qwen3-coder", "Zeta"]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("smollm2", ["smollm2", "smollm2:Tiny"]),
        ("SmolLM2", ["smollm2", "smollm2:Tiny"]),
        ("ai/smollm2:latest", ["smollm2"]),
        ("docker.io/ai/smollm2:Tiny", ["smollm2:Tiny"]),
        ("index.docker.io/ai/smollm2:Tiny", ["smollm2:Tiny"]),
        ("smollm2:tiny", []),
        ("localhost:5000/team/x", ["localhost:5000/team/x:v1"]),
        ("localhost:5000/team/x:v1", ["localhost:5000/team/x:v1"]),
        ("team/x", []),
        ("0123456789ab", ["smollm2", "smollm2:Tiny"]),
        (ID, ["smollm2", "smollm2:Tiny"]),
        (f"smollm2@{ID}", ["smollm2", "smollm2:Tiny"]),
        (f"other@{ID}", []),
        ("nothing", []),
    ],
)
def test_list_filters_by_what_a_name_means(server: CannedServer, dmr: Dmr, typed: str, names: list[str]) -> None:
    server.on("GET", "/models", [SMOL, LOCAL])

    assert names == [line.split()[0] for line in dmr("list", typed).out.splitlines()[1:]]


def test_list_prints_ids_and_json(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models", [SMOL, LOCAL])

    assert dmr("list", "-q") == (0, "0123456789ab\nfedcba987654\n", "")
    assert json.loads(dmr("list", "--json").out) == [SMOL, LOCAL]
    assert [{**SMOL, "tags": SMOL["tags"][1:]}] == json.loads(dmr("list", "--json", "smollm2:Tiny").out)


def test_list_as_openai_clients_see_it(server: CannedServer, dmr: Dmr) -> None:
    data = [{"id": "docker.io/ai/smollm2:latest", "object": "model"}, {"id": "docker.io/ai/x:1", "object": "model"}]
    server.on("GET", "/engines/v1/models", {"object": "list", "data": data})

    assert {"object": "list", "data": data} == json.loads(dmr("list", "--openai").out)
    assert {"object": "list", "data": data[:1]} == json.loads(dmr("list", "--openai", "smollm2").out)


def test_list_refuses_flags_that_contradict(dmr: Dmr) -> None:
    expected = "Error: --quiet cannot be used with --json or --openai\nTry 'dmr list --help'.\n"
    assert (2, "", expected) == dmr("list", "-q", "--openai")


def test_list_does_not_print_what_could_drive_a_terminal(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models", [{**BARE, "tags": ["docker.io/ai/\x1b]0;owned\x07evil\x1b[31m:1"]}])

    assert dmr("list").out.splitlines()[1].split()[0] == "evil:1"


def test_ps_is_a_table(server: CannedServer, dmr: Dmr) -> None:
    never = "0001-01-01T00:00:00Z"
    runners = [
        {"backend_name": "vllm", "model_name": ID, "mode": "embedding", "last_used": never, "loading": True},
        {
            "backend_name": "llama.cpp",
            "model_name": "docker.io/ai/smollm2:latest",
            "mode": "completion",
            "in_use": True,
            "memory": 123_456_789,
            "processor": "CUDA0 (33 of 33 layers)",
        },
    ]
    server.on("GET", "/engines/ps", runners)

    expected = (
        "MODEL NAME    BACKEND    MODE        PROCESSOR                MEMORY    UNTIL\n"
        "0123456789ab  vllm       embedding                                      Loading...\n"
        "smollm2       llama.cpp  completion  CUDA0 (33 of 33 layers)  123.46MB  5 minutes from now\n"
    )
    assert (0, expected, "") == dmr("ps")
    assert runners == json.loads(dmr("ps", "--json").out)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"loading": True}, "Loading..."),
        ({"keep_alive": "-1"}, "Forever"),
        ({"in_use": True, "keep_alive": "1h0m0s"}, "About an hour from now"),
        ({"last_used": "0001-01-01T00:00:00Z", "keep_alive": "10m0s"}, "10 minutes from now"),
        ({"last_used": "1970-01-01T00:16:40.123456789Z"}, "4 minutes from now"),
        ({"last_used": "1970-01-01T01:16:40+01:00", "keep_alive": "30s"}, "Expiring"),
        ({"last_used": "1970-01-01T00:16:40Z", "keep_alive": "0s"}, "Expiring"),
        ({"last_used": "rubbish", "keep_alive": "rubbish"}, "5 minutes from now"),
    ],
)
def test_until_when_a_model_stays(entry: dict[str, Any], expected: str) -> None:
    assert expected == until(entry, 1030.0)


def test_df_is_a_table(server: CannedServer, dmr: Dmr) -> None:
    usage = {"models_disk_usage": 1_230_000_000, "default_backend_disk_usage": 45_600_000}
    server.on("GET", "/engines/df", usage, usage, {"models_disk_usage": 0, "default_backend_disk_usage": 0})

    assert dmr("df") == (0, "TYPE              SIZE\nModels            1.23GB\nInference engine  45.60MB\n", "")
    assert usage == json.loads(dmr("df", "--json").out)
    assert dmr("df") == (0, "TYPE    SIZE\nModels  0.00B\n", "")


def test_rm_tells_what_it_did_up_to_the_first_failure(server: CannedServer, dmr: Dmr) -> None:
    server.on("DELETE", "/models/a", [{"Untagged": "docker.io/ai/a:latest"}, {"Deleted": ID}])
    server.on("DELETE", "/models/b", Answer(404, b"error while deleting model: model not found\n"))

    outcome = dmr("rm", "a", "b", "c")

    assert (3, f"Untagged: docker.io/ai/a:latest\nDeleted: {ID}\n", "Error: no such model: b\n") == outcome
    assert [request.path for request in server.requests] == ["/models/a?force=false", "/models/b?force=false"]


def test_rm_by_id_with_several_tags_is_a_conflict(server: CannedServer, dmr: Dmr) -> None:
    text = 'unable to delete "x" (must be forced) due to multiple tag references: resource conflict'
    server.on("DELETE", "/models/x", Answer(409, text.encode() + b"\n"), [{"Deleted": ID}])

    assert (5, "", f"Error: {text}\n") == dmr("rm", "x")
    assert (0, json.dumps([{"deleted": ID}], indent=2) + "\n", "") == dmr("rm", "-f", "--json", "x")
    assert server.requests[-1].path == "/models/x?force=true"


def test_rm_of_a_model_called_purge_does_not_purge(server: CannedServer, dmr: Dmr) -> None:
    server.on("DELETE", "/models/ai/purge", [])

    assert dmr("rm", "purge").code == 0
    assert server.requests[0].path == "/models/ai/purge?force=false"


@pytest.mark.parametrize("name", ["", "../engines/ps", "a//b", "a\nb"])
def test_what_cannot_be_a_name_is_refused_before_it_is_sent(server: CannedServer, dmr: Dmr, name: str) -> None:
    outcome = dmr("rm", name)

    assert outcome.code == 2
    assert server.requests == []


@pytest.mark.parametrize(
    ("target", "query"),
    [
        ("mine", "repo=mine&tag=latest"),
        ("mine:v1", "repo=mine&tag=v1"),
        ("localhost:5000/a b/x", "repo=localhost%3A5000%2Fa%20b%2Fx&tag=latest"),
        ("localhost:5000/x:a&b", "repo=localhost%3A5000%2Fx&tag=a%26b"),
    ],
)
def test_tag_escapes_its_query(server: CannedServer, dmr: Dmr, target: str, query: str) -> None:
    server.on("POST", "/models/ai/smollm2%3F/tag", Answer(201, b"{}"))

    outcome = dmr("tag", "ai/smollm2?", target)

    assert (0, f'Model "ai/smollm2?" tagged successfully with "{target}"\n', "") == outcome
    assert f"/models/ai/smollm2%3F/tag?{query}" == server.requests[0].path


def test_tag_of_nothing_and_with_a_digest(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/models/nope/tag", Answer(404, b"model not found\n"))

    assert dmr("tag", "nope", "x") == (3, "", "Error: no such model: nope\n")
    assert dmr("tag", "nope", f"x@{ID}").code == 2
    assert dmr("tag", "nope", "").code == 2


def test_inspect_prints_json(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/smollm2", {"id": ID, "note": "<é>"})
    server.on("GET", "/engines/v1/models/ai/smollm2", {"id": "x"})

    assert (0, f'{{\n  "id": "{ID}",\n  "note": "<é>"\n}}\n', "") == dmr("inspect", "smollm2")
    assert dmr("inspect", "--openai", "ai/smollm2") == (0, '{\n  "id": "x"\n}\n', "")


def test_inspect_of_nothing(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/nope", Answer(404, b"model not found\n"))
    server.on("GET", "/models/nope?remote=true", Answer(404, b"MANIFEST_UNKNOWN - Model not found\n"))

    assert dmr("inspect", "nope") == (3, "", "Error: no such model: nope\n")
    assert dmr("inspect", "-r", "nope") == (3, "", "Error: no such model in its registry: nope\n")
    assert dmr("inspect", "-r", "--openai", "nope").code == 2


def test_a_model_called_export_is_not_exported(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/ai/export:latest", {"id": ID})

    assert dmr("inspect", "ai/export").code == 0


def test_unload_says_which_models_still_answer(server: CannedServer, dmr: Dmr) -> None:
    runners = [
        {"backend": "llama.cpp", "model": "docker.io/ai/a:latest", "mode": "completion", "stopped": True},
        {"backend": "llama.cpp", "model": "docker.io/ai/b:latest", "mode": "completion", "stopped": False},
    ]
    server.on("POST", "/engines/unload", {"unloaded_runners": 2, "runners": runners})
    assert dmr("unload", "--all") == (0, "Unloaded 2 model(s).\n", "b is answering; it goes when it is done.\n")
    assert json.loads(dmr("unload", "--all", "--json").out)["runners"] == runners


def test_unload(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/engines/unload", {"unloaded_runners": 2}, {"unloaded_runners": 0})

    assert dmr("unload", "a", "b", "--backend", "vllm") == (0, "Unloaded 2 model(s).\n", "")
    assert server.requests[0].json == {"all": False, "backend": "vllm", "models": ["a", "b"]}
    assert dmr("stop", "--all") == (0, "No models are running.\n", "")
    assert dmr("unload", "a") == (3, "", "Error: not in memory: a\n")
    assert json.loads(dmr("unload", "--all", "--json").out) == {"unloaded_runners": 0, "runners": []}
    assert dmr("unload").code == 2
    assert dmr("unload", "--all", "a").code == 2


def test_status_of_a_running_service(server: CannedServer, dmr: Dmr) -> None:
    backends = {
        "vllm": "Not Installed: only supported on Linux",
        "llama.cpp": "Running: llama.cpp b1234",
        "mlx": "",
        "odd": "on fire",
    }
    server.on("GET", "/engines/status", backends)

    expected = (
        "Docker Model Runner is running\n\n"
        "BACKEND    STATUS         DETAILS\n"
        "llama.cpp  Running        llama.cpp b1234\n"
        "odd        Error          on fire\n"
        "mlx        Not Installed\n"
        "vllm       Not Installed  only supported on Linux\n"
    )
    assert (0, expected, "") == dmr("status")
    assert {
        "running": True,
        "backends": backends,
        "kind": "Docker Engine (Manual Install)",
        "endpoint": f"{server.url}/v1/",
        "endpointHost": f"{server.url}/v1/",
    } == json.loads(dmr("status", "--json").out)


def test_status_of_a_service_that_does_not_run_is_4_in_both_formats(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/engines/status", Answer(503, b"disabled\n"))

    expected = f"{server.url} is not in service: disabled\n"
    assert (4, "Docker Model Runner is not running\n", expected) == dmr("status")
    refused = dmr("--host", "127.0.0.1:1", "status", "--json")
    assert (refused.code, json.loads(refused.out)["running"], refused.err) == (4, False, "")


def test_status_that_cannot_be_told(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/engines/status", Answer(500, b"boom"))

    assert (1, "", f"Error: cannot tell the status of {server.url}: boom\n") == dmr("status")


def test_version_of_both_sides(server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("GET", "/version", {"version": "1.2.3"}, Answer(500))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("dmr_cli.client.commands.version._machine", lambda: "x86_64")

    text = (
        "Client:\n Version:    0.1.0\n OS/Arch:    linux/amd64\n\n"
        "Server:\n Version:    {}\n Engine:     Docker Engine (Manual Install)\n"
    )
    assert (0, text.format("1.2.3"), "") == dmr("version")
    assert (0, text.format("(not reachable)"), "") == dmr("version")
    assert json.loads(dmr("version", "--json").out) == {
        "client": {"version": "0.1.0", "os": "linux", "arch": "amd64"},
        "server": {"version": None, "engine": "Docker Engine (Manual Install)"},
    }


def test_plugins_and_what_detectors_found(server: CannedServer, dmr: Dmr) -> None:
    answer = {
        "plugins": [
            {
                "name": "llamacpp",
                "distribution": "dmr-backends-llamacpp",
                "version": "0.1.0",
                "state": "active",
                "provides": ["llama.cpp"],
                "error": None,
            },
            {
                "name": "boom",
                "distribution": "x",
                "version": "1",
                "state": "failed",
                "provides": [],
                "error": "No module",
            },
        ],
        "detections": [
            {
                "variant": "cuda",
                "devices": [{"index": 0, "name": "H", "memory_total": 80_000_000_000, "memory_free": 1000}],
                "detail": "driver 1",
            },
            {"variant": "rocm", "devices": [], "detail": "no driver"},
        ],
    }
    server.on("GET", "/dmr/v1/plugins", answer)

    expected = (
        "NAME      DISTRIBUTION           VERSION  STATE   PROVIDES   ERROR\n"
        "llamacpp  dmr-backends-llamacpp  0.1.0    active  llama.cpp\n"
        "boom      x                      1        failed             No module\n"
        "\n"
        "VARIANT  DEVICE  NAME  MEMORY   FREE    DETAIL\n"
        "cuda     0       H     80.00GB  1.00kB  driver 1\n"
        "rocm                                    no driver\n"
    )
    assert (0, expected, "") == dmr("plugins")
    assert answer == json.loads(dmr("plugins", "--json").out)


def test_plugins_of_another_service(server: CannedServer, dmr: Dmr) -> None:
    assert (1, "", f"Error: the service at {server.url} lists no plugins; is it dmr?\n") == dmr("plugins")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(500, b"plain words\n"), "plain words"),
        (Answer(500, b'{"error":{"message":"typed words","type":"x"}}'), "typed words"),
        (Answer(500, b'{"error":"ollama words"}'), "ollama words"),
        (Answer(500, b'{"message":"other words"}'), "other words"),
        (Answer(500, b"<html>proxy</html>"), "the service answered 500 Internal Server Error"),
        (Answer(500), "the service answered 500 Internal Server Error"),
        (Answer(302, headers={"Location": "/"}), "the service answered 302 Found"),
        (Answer(500, b"x" * 5000), "x" * 4096 + " …[truncated]"),
        (
            Answer(502, b'{"error":{"message":"a cause. A step.\\n\\nVerbose output:\\none\\n\\n two \\n"}}'),
            "a cause. A step.\n\nIts output:\n  | one\n  |  two",
        ),
        (
            Answer(502, b"a cause\n\nVerbose output:\n" + b"\n".join(b"line %d" % n for n in range(20_000))),
            "a cause\n\nThe last 12 lines of the engine's output (19988 more with --debug):\n"
            + "\n".join(f"  | line {n}" for n in range(19_988, 20_000)),
        ),
    ],
)
def test_a_failure_is_told_once_in_the_words_of_the_service(
    server: CannedServer, dmr: Dmr, answer: Answer, message: str
) -> None:
    server.on("GET", "/models", answer)

    assert (1, "", f"Error: {message}\n") == dmr("list")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"nonsense", "answered GET /models with something that is not JSON"),
        (b'{"a":1}', "answered GET /models with something that is not a list of objects"),
    ],
)
def test_an_answer_of_another_shape_is_told(server: CannedServer, dmr: Dmr, body: bytes, message: str) -> None:
    server.on("GET", "/models", Answer(body=body))

    outcome = dmr("list")

    assert (1, f"Error: {server.url} {message}\n") == (outcome.code, outcome.err)
