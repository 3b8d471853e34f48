"""Which backend a model gets: every row of the reference's table, and what it does differently."""

from __future__ import annotations

import pytest

from dmr_core.domain.artifact import Format
from dmr_core.domain.engine import EngineMode
from dmr_core.errors import (
    BackendNotInstalledError,
    InvalidConfigurationError,
    UnsupportedFormatError,
)
from dmr_core.ports.backend import BackendSpec
from dmr_core.services.selection import Backend, Candidate, Choice, platform_text, select, works_on
from dmr_core.testing.fakes.engine import FakeEngine
from dmr_core.testing.fakes.transport import InMemoryTransport

CHAT, EMBED, RERANK, IMAGE = (
    EngineMode.COMPLETION,
    EngineMode.EMBEDDING,
    EngineMode.RERANKING,
    EngineMode.IMAGE_GENERATION,
)
TEXT = frozenset({CHAT, EMBED, RERANK})
LINUX, MAC, INTEL_MAC, WINDOWS = "linux/x86_64", "darwin/arm64", "darwin/x86_64", "win32/AMD64"
REFUSED = InvalidConfigurationError("no such setting")


def spec(
    name: str,
    *formats: Format,
    priority: int = 0,
    modes: frozenset[EngineMode] = TEXT,
    platforms: frozenset[str] = frozenset(),
) -> BackendSpec:
    return BackendSpec(
        name=name,
        summary=name,
        factory=lambda _context: FakeEngine(InMemoryTransport()),
        formats=frozenset(formats),
        priority=priority,
        modes=modes,
        platforms=platforms,
    )


APPLE, LIN = frozenset({"darwin/arm64"}), frozenset({"linux"})
REFERENCE = (
    spec("llama.cpp", Format.GGUF),
    spec("vllm", Format.SAFETENSORS, priority=30, platforms=LIN | APPLE),
    spec("mlx", Format.SAFETENSORS, priority=20, modes=frozenset({CHAT, EMBED}), platforms=APPLE),
    spec("sglang", Format.SAFETENSORS, priority=10, platforms=LIN),
    spec("diffusers", Format.DDUF, modes=frozenset({IMAGE}), platforms=LIN | APPLE),
)
"""The backends of the reference, with the order it prefers them in."""


def candidates(
    *specs: BackendSpec,
    platform: str = LINUX,
    without: str = "",
    obtainable: str = "",
    refusing: str = "",
    claiming: str = "",
) -> list[Candidate]:
    """All of them installed, but for those named in ``without``."""
    return [
        Candidate(
            backend=Backend(one, FakeEngine(InMemoryTransport())),
            here=works_on(one, platform),
            usable=one.name not in without.split(),
            obtainable=one.name in obtainable.split(),
            refusal=REFUSED if one.name in refusing.split() else None,
            claims=one.name in claiming.split(),
        )
        for one in specs
    ]


def choose(
    pool: list[Candidate],
    weights: Format | None,
    mode: EngineMode = CHAT,
    asked: str = "",
    *,
    lenient: bool = False,
) -> Choice:
    requested = next((one for one in pool if one.name == asked), None)
    return select(pool, model="m", format=weights, mode=mode, requested=requested, lenient=lenient)


@pytest.mark.parametrize(
    ("weights", "mode", "platform", "without", "expected"),
    [
        # safetensors: vllm, then mlx on Apple Silicon, then sglang on Linux
        (Format.SAFETENSORS, CHAT, LINUX, "", ("vllm", "priority")),
        (Format.SAFETENSORS, CHAT, MAC, "", ("vllm", "priority")),
        (Format.SAFETENSORS, CHAT, MAC, "vllm", ("mlx", "only-installed")),
        (Format.SAFETENSORS, CHAT, LINUX, "vllm", ("sglang", "only-installed")),
        (Format.SAFETENSORS, RERANK, MAC, "", ("vllm", "platform")),
        # and dduf has diffusers
        (Format.DDUF, IMAGE, LINUX, "", ("diffusers", "format")),
        (Format.DDUF, IMAGE, MAC, "", ("diffusers", "format")),
        # gguf and unknown: the default
        (Format.GGUF, CHAT, LINUX, "", ("llama.cpp", "format")),
        (Format.GGUF, EMBED, WINDOWS, "vllm", ("llama.cpp", "format")),
        (None, CHAT, INTEL_MAC, "", ("llama.cpp", "default")),
    ],
)
def test_every_row_of_the_references_table(
    weights: Format | None, mode: EngineMode, platform: str, without: str, expected: tuple[str, str]
) -> None:
    choice = choose(candidates(*REFERENCE, platform=platform, without=without), weights, mode)

    assert expected == (choice.name, choice.reason)
    assert choice.why


@pytest.mark.parametrize(
    ("weights", "mode", "platform", "without", "error", "said"),
    [
        (Format.SAFETENSORS, CHAT, WINDOWS, "", UnsupportedFormatError, "'vllm' works on Linux or Apple Silicon only"),
        (Format.SAFETENSORS, CHAT, LINUX, "vllm sglang", BackendNotInstalledError, "'vllm' is not installed"),
        (Format.SAFETENSORS, CHAT, MAC, "vllm mlx", BackendNotInstalledError, "'vllm' is not installed"),
        (Format.SAFETENSORS, IMAGE, LINUX, "", UnsupportedFormatError, "the mode 'image-generation'"),
        (Format.DDUF, CHAT, LINUX, "", UnsupportedFormatError, "the mode 'completion'"),
        (Format.DDUF, IMAGE, INTEL_MAC, "", UnsupportedFormatError, "'diffusers' works on Linux or Apple Silicon"),
        (Format.GGUF, IMAGE, LINUX, "", UnsupportedFormatError, "the mode 'image-generation'"),
        (Format.GGUF, CHAT, LINUX, "llama.cpp", BackendNotInstalledError, "'llama.cpp' is not installed"),
    ],
)
def test_where_the_reference_falls_back_to_an_engine_that_cannot_the_reason_is_told_instead(
    weights: Format, mode: EngineMode, platform: str, without: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        choose(candidates(*REFERENCE, platform=platform, without=without), weights, mode)


@pytest.mark.parametrize(
    ("asked", "weights", "mode", "reason"),
    [("llama.cpp", Format.GGUF, CHAT, "requested"), ("sglang", Format.SAFETENSORS, RERANK, "requested")],
)
def test_who_asks_for_a_backend_gets_it_whatever_else_there_is(
    asked: str, weights: Format, mode: EngineMode, reason: str
) -> None:
    choice = choose(candidates(*REFERENCE), weights, mode, asked)

    assert (asked, reason) == (choice.name, choice.reason)


@pytest.mark.parametrize(
    ("asked", "weights", "mode", "platform", "said"),
    [
        (
            "vllm", Format.GGUF, CHAT, LINUX,
            ("backend 'vllm' cannot serve 'm': the model's format is 'gguf', and it reads safetensors; "
             "'llama.cpp' can: leave the backend out of the request, or ask for that one"),
        ),
        (
            "llama.cpp", Format.SAFETENSORS, CHAT, LINUX,
            ("backend 'llama.cpp' cannot serve 'm': the model's format is 'safetensors', and it reads gguf; "
             "'vllm' or 'sglang' can: leave the backend out of the request, or ask for that one"),
        ),
        (
            "mlx", Format.SAFETENSORS, RERANK, MAC,
            ("backend 'mlx' cannot serve 'm': it does not know the mode 'reranking', so it cannot rank documents; "
             "'vllm' can: leave the backend out of the request, or ask for that one"),
        ),
        (
            "mlx", Format.SAFETENSORS, CHAT, LINUX,
            ("backend 'mlx' cannot serve 'm': it works on Apple Silicon only; "
             "'vllm' or 'sglang' can: leave the backend out of the request, or ask for that one"),
        ),
        (
            "llama.cpp", Format.DDUF, CHAT, LINUX,
            ("backend 'llama.cpp' cannot serve 'm': the model's format is 'dduf', and it reads gguf; "
             "no other backend here can either; install a plugin that does"),
        ),
    ],
)  # fmt: skip
def test_an_order_that_cannot_be_met_names_what_cannot_why_and_who_can(
    asked: str, weights: Format, mode: EngineMode, platform: str, said: str
) -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        choose(candidates(*REFERENCE, platform=platform), weights, mode, asked)

    assert said == caught.value.message


def test_a_preference_that_cannot_be_met_is_passed_over() -> None:
    choice = choose(candidates(*REFERENCE), Format.SAFETENSORS, CHAT, "llama.cpp", lenient=True)

    assert ("vllm", "priority") == (choice.name, choice.reason)
    assert choose(candidates(*REFERENCE), Format.SAFETENSORS, CHAT, "sglang", lenient=True).name == "sglang"


def test_an_order_for_what_is_not_installed_is_no_reason_to_take_another() -> None:
    for lenient in (False, True):
        with pytest.raises(BackendNotInstalledError, match="'vllm' is not installed"):
            choose(candidates(*REFERENCE, without="vllm"), Format.SAFETENSORS, CHAT, "vllm", lenient=lenient)


def test_what_may_be_installed_on_demand_is_so_only_when_nothing_else_will_do() -> None:
    neither = candidates(*REFERENCE, without="vllm sglang", obtainable="sglang")
    choice = choose(neither, Format.SAFETENSORS)
    assert ("sglang", "on-demand") == (choice.name, choice.reason)
    one_of_them = candidates(*REFERENCE, without="vllm", obtainable="vllm")
    assert choose(one_of_them, Format.SAFETENSORS).name == "sglang"
    assert choose(one_of_them, Format.SAFETENSORS, CHAT, "vllm").reason == "requested"


def test_settings_a_backend_cannot_honour_leave_the_model_to_another() -> None:
    choice = choose(candidates(*REFERENCE, refusing="vllm"), Format.SAFETENSORS)
    assert ("sglang", "settings") == (choice.name, choice.reason)

    for asked in ("", "vllm"):
        with pytest.raises(InvalidConfigurationError, match="no such setting"):
            choose(candidates(*REFERENCE, refusing="vllm sglang"), Format.SAFETENSORS, CHAT, asked)


def test_a_mode_only_one_of_them_knows_decides() -> None:
    chat = spec("chat", Format.GGUF, priority=9, modes=frozenset({CHAT}))
    choice = choose(candidates(chat, spec("other", Format.GGUF)), Format.GGUF, EMBED)

    assert ("other", "mode") == (choice.name, choice.reason)


def test_a_model_that_a_backend_claims_is_its_own_whatever_the_format() -> None:
    nim = spec("nim")
    choice = choose(candidates(*REFERENCE, nim, claiming="nim"), Format.GGUF)

    assert ("nim", "claimed") == (choice.name, choice.reason)
    assert choose(candidates(*REFERENCE, nim, claiming="nim"), None, CHAT, "nim").reason == "requested"


def test_a_model_of_no_known_format_goes_to_those_that_take_any_when_there_is_no_default() -> None:
    assert choose(candidates(spec("any"), spec("vllm", Format.SAFETENSORS)), None).name == "any"
    with pytest.raises(UnsupportedFormatError, match="its format is 'unknown'; install a plugin"):
        choose(candidates(spec("vllm", Format.SAFETENSORS)), None)


@pytest.mark.parametrize(
    ("platforms", "platform", "works"),
    [
        (set(), LINUX, True),
        ({"linux"}, LINUX, True),
        ({"linux"}, MAC, False),
        ({"darwin"}, INTEL_MAC, True),
        ({"darwin/arm64"}, INTEL_MAC, False),
        ({"darwin/arm64"}, MAC, True),
        ({"linux"}, "", True),
    ],
)
def test_a_platform_is_a_system_or_a_system_and_its_machine(platforms: set[str], platform: str, works: bool) -> None:
    assert works is works_on(spec("x", platforms=frozenset(platforms)), platform)


def test_platforms_in_words() -> None:
    assert "Linux or Apple Silicon" == platform_text({"darwin/arm64", "linux"})
    assert "plan9" == platform_text({"plan9"})
