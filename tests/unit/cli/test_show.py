"""What ``dmr show`` and ``dmr inspect --remote`` print."""

from __future__ import annotations

import json
from typing import Any

from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

ID = "sha256:" + "0123456789abcdef" * 4
MODEL: dict[str, Any] = {
    "id": ID,
    "tags": ["docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:tiny"],
    "created": 0,
    "config": {
        "format": "gguf",
        "parameters": "361.82M",
        "quantization": "Q4_K_M",
        "architecture": "llama",
        "size": "256.35MB",
        "context_size": 4096,
        "gguf": {"z.last": "1", "general.architecture": "llama"},
        "safetensors": {},
    },
}


def test_show_lines_up_what_there_is(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/smollm2", MODEL)
    assert dmr("show", "smollm2") == (
        0,
        (
            f"Model:       {ID}\n"
            "Tags:        docker.io/ai/smollm2:latest, docker.io/ai/smollm2:tiny\n"
            "\n"
            "Format:       gguf\n"
            "Architecture: llama\n"
            "Parameters:   361.82M\n"
            "Size:         256.35MB\n"
            "Quantization: Q4_K_M\n"
            "Context Size: 4096\n"
            "\n"
            "GGUF Metadata:\n"
            "  z.last: 1\n"
            "  general.architecture: llama\n"
        ),
        "",
    )


def test_show_leaves_out_what_nobody_knows(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/bare", {"id": ID, "created": 0, "config": None})
    assert dmr("show", "bare") == (0, f"Model:       {ID}\n", "")


def test_show_tells_when_a_model_was_made(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/m", {**MODEL, "created": 1_700_000_000})
    line = next(line for line in dmr("show", "m").out.splitlines() if line.startswith("Created:"))
    assert line[:23] == "Created:     2023-11-14" or line[:23] == "Created:     2023-11-15"
    server.on("GET", "/models/odd", {**MODEL, "created": 10**30})
    assert "Created:" not in dmr("show", "odd").out


def test_show_of_a_remote_model_says_what_a_pull_would_fetch(server: CannedServer, dmr: Dmr) -> None:
    remote = {**MODEL, "download_size": 256_350_000, "layers": [{"digest": ID, "size": 5, "media_type": "x"}]}
    del remote["tags"]
    server.on("GET", "/models/smollm2", remote)
    shown = dmr("show", "--remote", "smollm2")
    assert server.requests[-1].path == "/models/smollm2?remote=true"
    assert "Download:    256.35MB\n" in shown.out
    assert "Tags:" not in shown.out
    assert json.loads(dmr("show", "--json", "-r", "smollm2").out) == remote
    assert json.loads(dmr("inspect", "-r", "smollm2").out) == remote


def test_a_missing_model_says_where_it_is_missing(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/nope", Answer(status=404, body=b"model not found\n"))
    assert dmr("show", "nope") == (3, "", "Error: no such model: nope\n")
    assert dmr("show", "-r", "nope") == (3, "", "Error: no such model in its registry: nope\n")
    assert dmr("inspect", "-r", "nope") == (3, "", "Error: no such model in its registry: nope\n")


def test_a_registry_that_lets_nobody_in_is_told(server: CannedServer, dmr: Dmr) -> None:
    text = b'error while getting remote model: failed to pull model "m": UNAUTHORIZED - log in\n'
    server.on("GET", "/models/m", Answer(status=401, body=text))
    assert dmr("show", "-r", "m") == (1, "", f"Error: {text.decode()}")
