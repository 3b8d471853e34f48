"""What an engine is asked to do, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from dmr_core.domain.acceleration import EngineProgram, GpuRequirement
from dmr_core.domain.digest import Digest
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import InvalidConfigurationError

__all__ = ["BackendState", "BackendStatus", "EngineConfig", "EngineMode", "RunnerKey", "Speculative"]


class EngineMode(StrEnum):
    """The task an engine process is started for."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANKING = "reranking"
    IMAGE_GENERATION = "image-generation"

    @classmethod
    def parse(cls, text: str) -> EngineMode:
        """Read a mode from a request.

        Raises:
            InvalidConfigurationError: names the modes there are.
        """
        for mode in cls:
            if mode.value == text.lower():
                return mode
        known = ", ".join(repr(mode.value) for mode in cls)
        raise InvalidConfigurationError(f"unknown mode {text!r}: use one of {known}", param="mode")


@attrs.frozen(kw_only=True)
class Speculative:
    """Speculative decoding with a draft model."""

    draft_model: str
    num_tokens: int | None = None
    min_acceptance_rate: float | None = None


@attrs.frozen(kw_only=True)
class EngineConfig:
    """Settings of one model under one mode; everything unset is the engine's own choice.

    ``concurrency`` is how many requests one runner answers at once, ``require`` where it must compute. ``sections`` holds what
    only one backend understands, by the backend's JSON name (``vllm``, ``llamacpp``); that backend's plugin checks and renders it.
    """

    context_size: int | None = None
    runtime_flags: tuple[str, ...] = ()
    speculative: Speculative | None = None
    keep_alive: KeepAlive | None = None
    concurrency: int | None = None
    require: GpuRequirement | None = None
    sections: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    def launches_like(self, other: EngineConfig) -> bool:
        """Whether an engine started with ``other`` need not be restarted to have these settings."""
        # Where it computes is looked at when it starts, so only a requirement that is given up needs no new start.
        require = other.require if self.require in (None, GpuRequirement.NONE) else self.require
        mine = attrs.evolve(self, keep_alive=None, concurrency=None, require=require)
        return mine == attrs.evolve(other, keep_alive=None, concurrency=None)


@attrs.frozen
class RunnerKey:
    """Two requests with the same key can share an engine process."""

    backend: str
    model_id: Digest
    mode: EngineMode
    draft_id: Digest | None = None

    def __str__(self) -> str:
        return f"{self.backend}/{self.model_id.short}/{self.mode}"


class BackendState(StrEnum):
    """First word of a backend's status; the stock CLI knows exactly these."""

    RUNNING = "Running"
    ERROR = "Error"
    NOT_INSTALLED = "Not Installed"
    INSTALLING = "Installing"


@attrs.frozen
class BackendStatus:
    """Whether a backend can be used, and what it is. ``program`` is what would be started, if that is a program."""

    state: BackendState
    detail: str = ""
    program: EngineProgram | None = attrs.field(default=None, kw_only=True)

    def __str__(self) -> str:
        return f"{self.state}: {self.detail}" if self.detail else str(self.state)
