"""Sending manifests (OCI distribution-spec, "Pushing manifests")."""

from __future__ import annotations

from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.resumable_upload import check_stored
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_adapters.registry.upload_place import told_digest
from dmr_core.domain.digest import Digest

__all__ = ["send_manifest"]


async def send_manifest(repository: Repository, content: bytes, media_type: str, policy: RetryPolicy) -> None:
    """Put a manifest under the tag of the repository's reference; nothing is sent where the tag names it already.

    Raises:
        DigestMismatchError: the registry says that it stored other bytes.
        UnauthorizedError, RegistryUnreachableError, RegistryError: as for :meth:`Repository.ask`.
    """
    url = repository.url("manifests", repository.reference.tag)
    digest = Digest.of(content)

    async def is_there() -> bool:
        # Any refusal but that of credentials: whether it may be put is for the registry to say when it is.
        accept = frozenset({200, 400, 404, 405, 406, 415})
        what = "whether it has the manifest"
        async with repository.ask("HEAD", url, what, accept=accept, headers={"Accept": media_type}) as answer:
            return answer.status == 200 and told_digest(answer) == digest

    async def put() -> None:
        headers = {"Content-Type": media_type}
        accept = frozenset({200, 201, 202, 204})
        async with repository.ask(
            "PUT", url, "the upload of the manifest", accept=accept, headers=headers, body=content
        ) as answer:
            check_stored(answer, digest)

    if not await retrying(repository.clock, policy, is_there):
        await retrying(repository.clock, policy, put)
