"""The fake and the real adapter keep the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from dmr_adapters.clock import SystemClock
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.registry.credentials import CredentialStore
from dmr_adapters.registry.oci import OciRegistry
from dmr_core.domain.reference import Reference
from dmr_core.errors import UnauthorizedError
from dmr_core.testing.contracts.registry import RegistryContract, RegistrySubject, Sample, sample
from dmr_core.testing.fakes.registry import InMemoryRegistry
from tests.stand_ins.oci_registry import OciRegistryProcess, docker_registry, seed_over_http


def oci_registry(credentials: CredentialStore | None = None) -> OciRegistry:
    return OciRegistry(
        clock=SystemClock(), decode_manifest=decode_manifest, decode_config=decode_config, credentials=credentials
    )


class TestInMemoryRegistry(RegistryContract):
    @pytest.fixture
    def subject(self) -> RegistrySubject:
        registry = InMemoryRegistry()

        async def seed(reference: Reference, model: Sample) -> None:
            registry.seed(reference, model.artifact, model.blobs)

        return RegistrySubject(registry, "registry.example", seed)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistryProcess]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.mark.registry
class TestOciRegistry(RegistryContract):
    @pytest.fixture
    async def subject(self, server: OciRegistryProcess) -> AsyncIterator[RegistrySubject]:
        registry = oci_registry()
        yield RegistrySubject(registry, server.host, partial(seed_over_http, server))
        await registry.aclose()


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistryProcess]:
    with docker_registry(tmp_path_factory.mktemp("closed"), login=("me", "secret")) as running:
        yield running


@pytest.mark.registry
class TestOciRegistryBehindALogin:
    """The same registry with a password file, so a Basic challenge."""

    async def test_nobody_is_refused(self, closed_server: OciRegistryProcess) -> None:
        registry = oci_registry()
        async with registry.session(Reference(closed_server.host, "ai/m")) as session:
            with pytest.raises(UnauthorizedError, match="docker login"):
                await session.manifest()
        await registry.aclose()

    async def test_a_docker_login_lets_in_to_push_and_pull(
        self, closed_server: OciRegistryProcess, tmp_path: Path
    ) -> None:
        (tmp_path / "config.json").write_text(
            '{"auths": {"http://%s/v2/": {"auth": "bWU6c2VjcmV0"}}}' % closed_server.host  # noqa: UP031 - braces of JSON
        )
        registry = oci_registry(CredentialStore(directory=tmp_path))
        model = sample(b"behind a login")
        layer = model.artifact.manifest.layers[0]

        async def source(offset: int) -> AsyncIterator[bytes]:
            yield model.layer[offset:]

        async with registry.session(Reference(closed_server.host, "ai/m"), push=True) as session:
            await session.push_blob(layer, source, lambda _count: None)
            assert await session.has_blob(layer)
        await registry.aclose()
