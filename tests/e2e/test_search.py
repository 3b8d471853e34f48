"""``dmr search`` against both hubs, with a service and without one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Daemon
from tests.stand_ins.search_hubs import SearchHubs, search_hubs


@pytest.fixture
def hubs(daemon: Daemon) -> Iterator[SearchHubs]:
    with search_hubs() as running:
        # Nobody answers at the registry: what Docker Hub's models consist of stays unknown, and nothing leaves here.
        daemon.environment |= {
            "DMR_DOCKER_HUB_URL": running.url,
            "HF_ENDPOINT": running.url,
            "DEFAULT_REGISTRY": "127.0.0.1:9",
        }
        running.repositories = [
            {"name": "tiny-llama", "namespace": "ai", "pull_count": 12_345, "star_count": 7, "description": "Small"},
            {"name": "other", "namespace": "ai", "pull_count": 99_999, "description": "like \x1b[31mllama\x1b[0m"},
            {"name": "unrelated", "namespace": "ai", "pull_count": 5},
        ]
        running.models = [{"id": "org/llama-x", "downloads": 2_000_000, "likes": 3, "pipeline_tag": "text-generation"}]
        running.files = {"org/llama-x": [{"rfilename": "llama-x.gguf", "size": 1_500_000_000}]}
        yield running


@pytest.mark.parametrize("running", [True, False])
def test_models_of_both_hubs_are_found(daemon: Daemon, hubs: SearchHubs, *, running: bool) -> None:
    if running:
        daemon.start()
    else:
        daemon.port = 9  # nobody listens there
    done = daemon.cli("search", "llama")
    assert done.stderr == b""
    assert [line.split("  ")[0] for line in done.stdout.decode().splitlines()] == [
        "NAME",
        "other",
        "tiny-llama",
        "hf.co/org/llama-x",
    ]
    assert b"\x1b" not in done.stdout
    assert "llama.cpp  1.50GB  2.0M" in done.stdout.decode()
    (found,) = json.loads(daemon.cli("search", "--json", "-n", "1", "--source", "hf").stdout)
    assert (found["Name"], found["Backend"], found["Size"]) == ("org/llama-x", "llama.cpp", 1_500_000_000)
    assert daemon.cli("search", "nothing-like-it").stdout == b'No models found matching "nothing-like-it"\n'


def test_one_hub_that_fails_leaves_the_other(daemon: Daemon, hubs: SearchHubs) -> None:
    daemon.start()
    hubs.replies["/v2/repositories/ai/"] = (429, {}, b"")
    done = daemon.cli("search", "llama")
    text = b"Warning: failed to search Docker Hub: rate limited by Docker Hub, please try again later\n"
    assert done.stderr == text
    assert b"hf.co/org/llama-x" in done.stdout
    hubs.replies["/api/models"] = (500, {}, b"")
    failed = daemon.cli("search", "llama", check=False)
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr.startswith(b"Error: search failed: all search sources failed: [Docker Hub: rate limited")
