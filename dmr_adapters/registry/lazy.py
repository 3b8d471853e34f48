"""The registry adapter, made for the first pull or push.

The HTTP client it imports takes longer than the rest of the adapters together, and a service that has its models
never needs it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_core.domain.reference import Reference
from dmr_core.domain.settings import Settings
from dmr_core.ports.clock import Clock
from dmr_core.ports.registry import Credentials, Registry, RegistrySession

if TYPE_CHECKING:
    from ssl import SSLContext

    from dmr_adapters.registry.oci import OciRegistry

__all__ = ["LazyOciRegistry"]


class LazyOciRegistry(Registry):
    """Stands for :class:`OciRegistry` with these settings."""

    def __init__(self, settings: Settings, clock: Clock, tls: SSLContext | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._tls = tls
        self._registry: OciRegistry | None = None

    def session(
        self, reference: Reference, *, push: bool = False, credentials: Credentials | None = None
    ) -> AbstractAsyncContextManager[RegistrySession]:
        """See :class:`Registry`."""
        if self._registry is None:
            self._registry = self._make()
        return self._registry.session(reference, push=push, credentials=credentials)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._registry is not None:
            await self._registry.aclose()

    def _make(self) -> OciRegistry:
        from dmr_adapters.registry.credentials import CredentialStore  # noqa: PLC0415 - see the module
        from dmr_adapters.registry.endpoint import EndpointPolicy  # noqa: PLC0415
        from dmr_adapters.registry.mirrored import parse_mirrors  # noqa: PLC0415
        from dmr_adapters.registry.oci import OciRegistry  # noqa: PLC0415

        settings = self._settings
        return OciRegistry(
            decode_manifest=decode_manifest,
            decode_config=decode_config,
            clock=self._clock,
            endpoints=EndpointPolicy(
                insecure=settings.insecure_registries, everything_insecure=settings.all_registries_insecure
            ),
            credentials=CredentialStore(environment=settings.environment, directory=settings.docker_config),
            tls=self._tls,
            mirrors=parse_mirrors(settings.registry_mirrors),
        )
