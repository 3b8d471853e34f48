"""A registry in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import attrs

from dmr_core.domain.artifact import MANIFEST_MEDIA_TYPE, Artifact, Descriptor, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.errors import (
    DigestMismatchError,
    DmrError,
    MalformedArtifactError,
    RegistryError,
    RegistryUnreachableError,
    RemoteModelNotFoundError,
    UnauthorizedError,
)
from dmr_core.ports.registry import BlobReader, BlobSource, Credentials, Registry, RegistrySession, RemoteManifest

__all__ = ["InMemoryRegistry"]

_CHUNK: Final = 64 * 1024


@attrs.define
class _Repository:
    """Blobs by digest; manifests by tag and by digest."""

    blobs: dict[Digest, bytes] = attrs.field(factory=dict)
    manifests: dict[str, bytes] = attrs.field(factory=dict)


@attrs.define(eq=False)
class InMemoryRegistry(Registry):
    """Every registry there is, in a dictionary.

    Features:
        * ``seed`` an artifact, or push one; ``manifest_bytes`` and ``blob`` show what is there.
        * Resuming: granted while ``ranges`` is true.
        * Mounting from another repository: while ``mounts`` is true.
        * A blob that breaks off: ``cut(digest, after=n)``, once per call, with ``RegistryUnreachableError``.
        * A blob whose bytes are wrong: ``corrupt(digest)``; its length stays.
        * A registry nobody reaches: ``reachable = False``.
        * A repository that wants a token: ``protect(name, token)``.
        * ``requests`` lists what was asked, as ``"manifest ai/m:latest"`` or ``"blob sha256:…@offset"``.
        * ``chunk`` is the size in bytes of the pieces a blob comes in.
    """

    ranges: bool = True
    mounts: bool = True
    reachable: bool = True
    chunk: int = _CHUNK
    requests: list[str] = attrs.field(factory=list)
    _repositories: dict[str, _Repository] = attrs.field(factory=dict, init=False)
    _tokens: dict[str, str] = attrs.field(factory=dict, init=False)
    _cuts: dict[Digest, list[int]] = attrs.field(factory=dict, init=False)

    def seed(self, reference: Reference, artifact: Artifact, blobs: Iterable[bytes] = ()) -> None:
        """Put an artifact there, with the bytes of its layers; the config is the artifact's own."""
        repository = self._repositories.setdefault(reference.name, _Repository())
        for content in (*blobs, artifact.config_bytes):
            repository.blobs[Digest.of(content)] = content
        repository.manifests[reference.tag] = artifact.manifest_bytes
        repository.manifests[str(artifact.id)] = artifact.manifest_bytes

    def manifest_bytes(self, reference: Reference) -> bytes | None:
        """The manifest a reference names, if there is one."""
        repository = self._repositories.get(reference.name)
        return repository.manifests.get(reference.remote) if repository else None

    def blob(self, reference: Reference, digest: Digest) -> bytes | None:
        """A blob of a reference's repository, if it is there."""
        repository = self._repositories.get(reference.name)
        return repository.blobs.get(digest) if repository else None

    def cut(self, digest: Digest, *, after: int) -> None:
        """Break the connection once, ``after`` so many bytes of the blob."""
        self._cuts.setdefault(digest, []).append(after)

    def corrupt(self, digest: Digest) -> None:
        """Make every copy of a blob wrong in its first byte."""
        for repository in self._repositories.values():
            if content := repository.blobs.get(digest):
                repository.blobs[digest] = bytes([content[0] ^ 0xFF]) + content[1:]

    def protect(self, name: str, token: str) -> None:
        """Want ``token`` for the repository called ``name`` (with its registry)."""
        self._tokens[name] = token

    @asynccontextmanager
    async def session(
        self, reference: Reference, *, push: bool = False, credentials: Credentials | None = None
    ) -> AsyncIterator[RegistrySession]:
        """Open the repository a reference names."""
        yield _Session(self, reference, credentials)

    def _admit(self, request: str, reference: Reference, credentials: Credentials | None) -> _Repository | None:
        self.requests.append(request)
        if not self.reachable:
            raise RegistryUnreachableError(f"cannot reach {reference.registry!r}: connection refused")
        wanted = self._tokens.get(reference.name)
        if wanted is not None and (credentials is None or credentials.bearer_token != wanted):
            raise UnauthorizedError(f"access to {reference.name!r} denied")
        return self._repositories.get(reference.name)

    async def _pieces(self, digest: Digest, content: bytes, offset: int) -> AsyncGenerator[bytes, None]:
        cuts = self._cuts.get(digest)
        end = cuts.pop(0) if cuts else len(content)
        for start in range(offset, min(end, len(content)), self.chunk):
            yield content[start : min(start + self.chunk, end)]
        if end < len(content):
            raise RegistryUnreachableError("the connection broke before the answer was complete")


@attrs.frozen(eq=False)
class _Session(RegistrySession):
    registry: InMemoryRegistry
    reference: Reference
    credentials: Credentials | None

    async def manifest(self) -> RemoteManifest:
        """The manifest the reference names."""
        name = f"{self.reference.repository}{'@' if self.reference.digest else ':'}{self.reference.remote}"
        repository = self._admitted(f"manifest {name}")
        content = repository.manifests.get(self.reference.remote) if repository else None
        if content is None:
            raise RemoteModelNotFoundError(str(self.reference))
        return RemoteManifest(_manifest(content), content, Digest.of(content))

    async def config(self, descriptor: Descriptor) -> tuple[ModelConfig, bytes]:
        """The config blob, verified and decoded."""
        async with self.read_blob(descriptor) as reader:
            content = b"".join([chunk async for chunk in reader.chunks])
        actual = Digest.of(content)
        if actual != descriptor.digest:
            raise DigestMismatchError(str(descriptor.digest), str(actual))
        return _config(content), content

    @asynccontextmanager
    async def read_blob(
        self, descriptor: Descriptor, offset: int = 0, end: int | None = None
    ) -> AsyncIterator[BlobReader]:
        """Receive a blob, from ``offset`` on while the registry grants ranges."""
        repository = self._admitted(f"blob {descriptor.digest}@{offset}{'' if end is None else f'-{end}'}")
        content = repository.blobs.get(descriptor.digest) if repository else None
        if content is None:
            raise RegistryError(f"{self.reference.registry!r} has no blob {descriptor.digest}")
        granted = offset if self.registry.ranges and offset <= len(content) else 0
        if end is not None and (granted == offset and self.registry.ranges):
            content = content[:end]
        async with aclosing(self.registry._pieces(descriptor.digest, content, granted)) as chunks:  # noqa: SLF001
            yield BlobReader(granted, chunks, None, len(content))

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob already."""
        repository = self._admitted(f"has {descriptor.digest}")
        return repository is not None and descriptor.digest in repository.blobs

    async def mount_blob(self, descriptor: Descriptor, source: str) -> bool:
        """Take the blob from another repository, where that has it and ``mounts`` is true."""
        self._admitted(f"mount {descriptor.digest} from {source}")
        theirs = self.registry._repositories.get(f"{self.reference.registry}/{source}")  # noqa: SLF001
        content = theirs.blobs.get(descriptor.digest) if theirs and self.registry.mounts else None
        if content is None:
            return False
        self._own().blobs[descriptor.digest] = content
        return True

    async def push_blob(self, descriptor: Descriptor, source: BlobSource, sent: Callable[[int], None]) -> None:
        """Upload a blob."""
        self._admitted(f"push {descriptor.digest}")
        content = bytearray()
        async for chunk in source(0):
            content += chunk
            sent(len(content))
        if Digest.of(bytes(content)) != descriptor.digest:
            raise RegistryError(f"{self.reference.registry!r} refuses blob {descriptor.digest}: DIGEST_INVALID")
        self._own().blobs[descriptor.digest] = bytes(content)

    async def push_manifest(self, content: bytes, media_type: str) -> None:
        """Upload the manifest under the reference's tag."""
        self._admitted(f"push {self.reference.repository}:{self.reference.tag}")
        missing = [blob for blob in _manifest(content).blobs if blob.digest not in self._own().blobs]
        if missing:
            raise RegistryError(f"{self.reference.registry!r} refuses the manifest: MANIFEST_BLOB_UNKNOWN")
        self._own().manifests[self.reference.tag] = content
        self._own().manifests[str(Digest.of(content))] = content

    def _admitted(self, request: str) -> _Repository | None:
        return self.registry._admit(request, self.reference, self.credentials)  # noqa: SLF001

    def _own(self) -> _Repository:
        return self.registry._repositories.setdefault(self.reference.name, _Repository())  # noqa: SLF001


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError as exc:
        raise MalformedArtifactError("not a JSON document") from exc
    if not isinstance(document, dict):
        raise MalformedArtifactError("not a JSON object")
    return document


def _manifest(content: bytes) -> Manifest:
    """Enough of the decoding an adapter does to read back what was seeded or pushed."""
    document = _document(content)
    try:
        return Manifest(
            config=_descriptor(document["config"]),
            layers=tuple(map(_descriptor, document["layers"])),
            media_type=document.get("mediaType", MANIFEST_MEDIA_TYPE),
            artifact_type=document.get("artifactType"),
            annotations=document.get("annotations", {}),
        )
    except (KeyError, TypeError, AttributeError, DmrError) as exc:
        raise MalformedArtifactError("not an image manifest") from exc


def _descriptor(document: Mapping[str, Any]) -> Descriptor:
    return Descriptor(
        media_type=document["mediaType"],
        digest=Digest.parse(document["digest"]),
        size=document["size"],
        annotations=document.get("annotations", {}),
    )


def _config(content: bytes) -> ModelConfig:
    """A Docker-format config; one of another schema reads as empty."""
    document = _document(content)
    inner = document.get("config", {})
    known = {field.name for field in attrs.fields(ModelConfig)} - {"created", "diff_ids"}
    return ModelConfig(
        **{key: value for key, value in inner.items() if key in known},
        created=document.get("descriptor", {}).get("created", ""),
        diff_ids=tuple(document.get("rootfs", {}).get("diff_ids", ())),
    )
