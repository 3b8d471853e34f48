"""Connections to the hubs, for as long as one search takes.

The HTTP client is imported with the first search: it takes longer than the rest of the adapters together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dmr_core.domain.reference import ReferencePolicy
from dmr_core.ports.model_search import ModelSearch
from dmr_core.ports.registry import Registry

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["open_hubs"]


@asynccontextmanager
async def open_hubs(
    *, registry: Registry, policy: ReferencePolicy, docker_hub: str, hugging_face: str, tls: SSLContext | None
) -> AsyncIterator[tuple[ModelSearch, ...]]:
    """Docker Hub and Hugging Face, in this order. ``registry`` is asked what Docker Hub's models consist of."""
    from yarl import URL  # noqa: PLC0415 - see the module

    from dmr_adapters.registry.client import HttpClient, Timeouts  # noqa: PLC0415
    from dmr_adapters.search.docker_hub import DockerHubSearch  # noqa: PLC0415
    from dmr_adapters.search.hugging_face import HuggingFaceSearch  # noqa: PLC0415

    client = HttpClient(Timeouts(document=30.0), tls)
    try:
        yield (
            DockerHubSearch(client=client, registry=registry, policy=policy, url=URL(docker_hub)),
            HuggingFaceSearch(client=client, url=URL(hugging_face)),
        )
    finally:
        await client.aclose()
