"""The container of a NIM: what it is made of, and which one that exists will do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_backends_nim.container import ContainerPlan, FoundContainer, legacy_name
from dmr_backends_nim.diagnosis import ended, not_started, port_is_taken
from dmr_backends_nim.docker_engine import DockerError
from dmr_backends_nim.images import nim_images
from dmr_backends_nim.settings import NimSettings
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.secret import Secret
from dmr_core.errors import EngineExitedError, EngineOutOfMemoryError, EngineUnusableError

IMAGE = Digest.of(b"image")
REFERENCE = parse_reference("nvcr.io/nim/google/gemma-3-1b-it:latest", ReferencePolicy())
PLAN = ContainerPlan(
    image=IMAGE, reference=REFERENCE, prefix="nvcr.io/nim/", name_of_image=str(IMAGE), cache=Path("/cache")
)


def found(plan: ContainerPlan = PLAN, **state: Any) -> FoundContainer:
    """A container as the engine describes one that was made by ``plan``."""
    document = plan.document(8000)
    return FoundContainer(
        {
            "Id": "0123",
            "Name": "/" + plan.name,
            "Image": str(plan.image),
            "State": {"Running": True, "ExitCode": 0, **state},
            "Config": {"Env": document["Env"], "Labels": document["Labels"]},
            "HostConfig": document["HostConfig"],
            "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}},
        }
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nvcr.io/nim/google/gemma-3-1b-it:latest", "docker-model-nim-google-gemma-3-1b-it"),
        ("nvcr.io/nim/meta/llama-3.1-8b-instruct:1.0", "docker-model-nim-meta-llama-3.1-8b-instruct"),
        (f"nvcr.io/nim/model@{IMAGE}", "docker-model-nim-model"),
    ],
)
def test_the_name_the_reference_gives_is_known(text: str, name: str) -> None:
    assert legacy_name(parse_reference(text, ReferencePolicy()), "nvcr.io/nim/") == name


def test_a_container_is_published_on_loopback_alone_and_has_shared_memory_and_a_cache() -> None:
    document = PLAN.document(8000)

    assert document["Image"] == str(IMAGE)
    assert document["HostConfig"] == {
        "ShmSize": 17179869184,
        "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]},
        "Mounts": [{"Type": "bind", "Source": "/cache", "Target": "/opt/nim/.cache"}],
    }
    assert document["Env"] == []
    assert PLAN.document(0)["HostConfig"]["PortBindings"]["8000/tcp"][0]["HostPort"] == ""


def test_gpus_are_asked_for_only_where_there_are_some() -> None:
    host = attrs.evolve(PLAN, gpu=True, runtime="nvidia").document(8000)["HostConfig"]

    assert host["DeviceRequests"] == [{"Count": -1, "Capabilities": [["gpu"]]}]
    assert host["Runtime"] == "nvidia"


def test_a_key_is_in_the_environment_and_nowhere_else() -> None:
    plan = attrs.evolve(PLAN, key=Secret("k3y-of-mine"), context_size=4096)
    document = plan.document(8000)

    assert document["Env"] == ["NGC_API_KEY=k3y-of-mine", "NIM_MAX_MODEL_LEN=4096"]
    del document["Env"]
    assert "k3y-of-mine" not in json.dumps(document) + repr(plan) + plan.name
    assert plan.fingerprint == attrs.evolve(plan, key=Secret("another")).fingerprint


def test_settings_make_another_container_of_another_name() -> None:
    others = [
        attrs.evolve(PLAN, cache=Path("/other")),
        attrs.evolve(PLAN, gpu=True),
        attrs.evolve(PLAN, context_size=1),
        attrs.evolve(PLAN, image=Digest.of(b"newer")),
    ]

    assert len({plan.name for plan in (PLAN, *others)}) == 5
    assert found().suits(PLAN)
    assert not any(found().suits(plan) for plan in others)


def test_a_container_is_recognised_by_its_key_if_one_is_given() -> None:
    keyed = found(attrs.evolve(PLAN, key=Secret("mine")))

    assert keyed.has_key(Secret("mine"))
    assert keyed.has_key(None)
    assert not keyed.has_key(Secret("min"))
    assert [key.reveal() for key in keyed.keys] == ["mine"]


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.1", "::", None, 7])
def test_one_that_others_can_reach_is_not_adopted(host: object) -> None:
    document = dict(found().document)
    document["HostConfig"] = {"PortBindings": {"8000/tcp": [{"HostIp": host, "HostPort": "8000"}]}}

    assert found().adoptable
    assert not FoundContainer(document).adoptable


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"State": [], "Config": 7, "HostConfig": None, "NetworkSettings": {"Ports": {"8000/tcp": None}}},
        {"NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "99999"}]}}},
        {"NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "x"}]}}},
    ],
)
def test_nonsense_is_no_container_of_ours(document: dict[str, Any]) -> None:
    strange = FoundContainer(document)

    assert (strange.running, strange.port, strange.ours, strange.adoptable) == (False, None, False, False)
    assert (strange.exit_code, strange.keys, strange.suits(PLAN)) == (0, (), False)


def test_images_under_the_prefix_are_models_and_others_are_not() -> None:
    settings = NimSettings.read({})
    listed: list[dict[str, Any]] = [
        {"Id": str(IMAGE), "RepoTags": ["nvcr.io/nim/b:1", "mine:1"], "RepoDigests": None, "Size": 7, "Created": 1},
        {"Id": str(Digest.of(b"x")), "RepoTags": None, "RepoDigests": [f"nvcr.io/nim/a@{IMAGE}"], "Size": "much"},
        {"Id": str(Digest.of(b"y")), "RepoTags": ["nvcr.io/nvidia/c:1"]},
        {"Id": "nonsense", "RepoTags": ["nvcr.io/nim/d:1"]},
        {"Id": str(Digest.of(b"z")), "RepoTags": ["<none>:<none>", 7]},
        {},
    ]

    tagged, untagged = sorted(nim_images(listed, settings), key=lambda image: not image.model.tags)

    assert (tagged.model.tags, tagged.model.size, tagged.model.backend) == (("nvcr.io/nim/b:1",), 7, "nim")
    assert untagged.model.tags == ()
    assert untagged.answers_to(parse_reference(f"nvcr.io/nim/a@{IMAGE}", ReferencePolicy()))
    assert not tagged.answers_to(parse_reference("nvcr.io/nim/b:2", ReferencePolicy()))


@pytest.mark.parametrize(
    ("said", "kind", "cause"),
    [
        ("ERROR 401 Client Error: Unauthorized for url", EngineUnusableError, "NGC API key"),
        ("You must set NGC_API_KEY", EngineUnusableError, "NGC API key"),
        ("torch.OutOfMemoryError: CUDA out of memory.", EngineOutOfMemoryError, "free memory"),
        ("RuntimeError: Found no NVIDIA driver on your system", EngineUnusableError, "no NVIDIA GPU"),
        ("PermissionError: Permission denied: '/opt/nim/.cache/x'", EngineUnusableError, "cache"),
        ("something else", EngineExitedError, ""),
    ],
)
def test_why_a_container_ended_is_read_from_what_it_said(said: str, kind: type[EngineExitedError], cause: str) -> None:
    failure = ended(found(Running=False, ExitCode=1), said)

    assert type(failure) is kind
    assert cause in failure.cause
    assert failure.tail == said
    assert bool(failure.remedy) == bool(cause)


def test_a_signal_and_the_kernel_are_told_apart() -> None:
    assert ended(found(Running=False, ExitCode=139), "").returncode == -11
    assert isinstance(ended(found(Running=False, ExitCode=137, OOMKilled=True), ""), EngineOutOfMemoryError)
    assert "somebody else" in ended(None, "").cause


def test_a_gpu_that_docker_cannot_give_and_a_taken_port_are_recognised() -> None:
    gpu = DockerError(500, 'could not select device driver "" with capabilities: [[gpu]]', "start the container")
    port = DockerError(500, "Bind for 127.0.0.1:8000 failed: port is already allocated", "start the container")

    assert "Container Toolkit" in not_started(gpu).remedy
    assert (port_is_taken(port), port_is_taken(gpu)) == (True, False)
