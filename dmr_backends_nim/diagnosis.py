"""Why a container could not be started, or ended: the Docker Engine's words, and those of NIMs, with what to do."""

from __future__ import annotations

import re
from typing import Final

from dmr_backends_nim.container import FoundContainer
from dmr_backends_nim.docker_engine import BACKEND, DockerError
from dmr_core.errors import EngineExitedError, EngineOutOfMemoryError, EngineUnusableError

__all__ = ["ended", "not_started", "port_is_taken", "went_away"]

_GPU: Final = (
    "could not select device driver",
    "unknown or invalid runtime name",
    "nvidia-container-cli",
    "no such device",
)
_PORT: Final = ("port is already allocated", "address already in use", "failed to bind")

_KEY: Final = re.compile(
    r"ngc_api_key|\b401\b.{0,80}unauthori[sz]ed|unauthori[sz]ed.{0,80}\b401\b|invalid (?:ngc )?api key|authentication error",
    re.IGNORECASE,
)
_NO_GPU: Final = re.compile(
    r"no nvidia driver|no cuda-capable device|cuda.{0,30}not available|no gpus? (?:were |was )?(?:found|detected)|nvml.{0,40}not found",
    re.IGNORECASE,
)
_CUDA_MEMORY: Final = re.compile(
    r"cuda out of memory|outofmemoryerror|no available memory for the cache", re.IGNORECASE
)
_CACHE: Final = re.compile(
    r"permission denied.{0,200}/opt/nim/\.cache|/opt/nim/\.cache.{0,200}permission denied", re.IGNORECASE
)


def port_is_taken(error: DockerError) -> bool:
    """Whether a container could not be started because somebody else has its port."""
    return any(words in error.reason.lower() for words in _PORT)


def not_started(error: DockerError) -> EngineExitedError:
    """The failure to create or start a container."""
    if any(words in error.reason.lower() for words in _GPU):
        return EngineUnusableError(
            BACKEND,
            None,
            cause=f"the Docker Engine cannot give the container a GPU: {error.reason}",
            remedy="Install the NVIDIA Container Toolkit and run `nvidia-ctk runtime configure --runtime=docker`, "
            "then restart the Docker Engine.",
        )
    return EngineUnusableError(
        BACKEND, None, cause=error.message, remedy="See `dmr logs` and the Docker Engine's own log."
    )


def went_away(reason: str, tail: str) -> EngineExitedError:
    """The Docker Engine is gone, and with it all that is known of the container."""
    return EngineExitedError(
        BACKEND,
        None,
        tail,
        cause=f"the Docker Engine went away: {reason.removeprefix('backend ')}",
        remedy="Start it and ask again.",
    )


def ended(container: FoundContainer | None, tail: str) -> EngineExitedError:
    """Why a container ended, as far as it can be told from its output and what the engine says of it."""
    if container is None:
        return EngineExitedError(
            BACKEND,
            None,
            tail,
            cause="the container was removed by somebody else",
            remedy="Ask again to start a new one.",
        )
    code = container.exit_code
    status = 128 - code if 128 < code < 193 else code  # as shells tell signals
    if container.out_of_memory:
        return EngineOutOfMemoryError(
            BACKEND,
            status,
            tail,
            cause="the kernel ended the container for want of memory",
            remedy="Unload other models, or use a machine with more memory.",
        )
    if _CUDA_MEMORY.search(tail):
        return EngineOutOfMemoryError(
            BACKEND,
            status,
            tail,
            cause="the GPUs have not enough free memory for this NIM",
            remedy="Unload other models, or configure a smaller context size: `dmr configure --context-size N MODEL`.",
        )
    if _KEY.search(tail):
        return EngineUnusableError(
            BACKEND,
            status,
            tail,
            cause="the NIM refused its NGC API key, or has none",
            remedy="Set NGC_API_KEY to a key that may use this model, and ask again; https://org.ngc.nvidia.com/setup makes keys.",
        )
    if _NO_GPU.search(tail):
        return EngineUnusableError(
            BACKEND,
            status,
            tail,
            cause="the NIM found no NVIDIA GPU that it can use",
            remedy="`dmr status` says what was found on this machine.",
        )
    if _CACHE.search(tail):
        return EngineUnusableError(
            BACKEND,
            status,
            tail,
            cause="the NIM may not write to its cache",
            remedy="Make the directory that LOCAL_NIM_CACHE names (by default ~/.cache/nim) writable for the container's user.",
        )
    return EngineExitedError(BACKEND, status, tail)
