"""Looking at the store without reading its blobs: does everything that is named exist, and is it what it is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from dmr_adapters.model_store.bundle_plan import BundlePlan, plan_bundle
from dmr_adapters.model_store.durability import is_damage
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.index_file import IndexFile
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.maintenance.census import Census, Found, take_census
from dmr_adapters.model_store.maintenance.marks import unlisted
from dmr_adapters.model_store.snapshot import read_document
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_core.domain.artifact import Descriptor, Manifest
from dmr_core.domain.digest import Digest
from dmr_core.domain.store_report import FindingKind
from dmr_core.errors import MalformedArtifactError, PreconditionError, UnsupportedFormatError

__all__ = ["Fault", "Survey", "SurveyedModel", "bundled_files", "survey"]


@attrs.frozen(kw_only=True)
class Fault:
    """Something that is not as it should be. ``digest`` is the blob it is about, ``models`` the IDs it touches.

    One that ``may_pass`` is no reason to change anything.
    """

    kind: FindingKind
    path: Path
    problem: str
    models: frozenset[Digest] = frozenset()
    digest: Digest | None = None
    may_pass: bool = False


@attrs.frozen(kw_only=True)
class SurveyedModel:
    """A model of the index. ``blobs`` are empty where its manifest cannot be read, ``plan`` is where it has no bundle."""

    id: Digest
    tags: tuple[str, ...]
    blobs: tuple[Descriptor, ...] = ()
    plan: BundlePlan | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.tags[0] if self.tags else str(self.id)


@attrs.define(kw_only=True)
class Survey:
    """The store as it is. ``index`` is empty where it is missing or damaged."""

    layout: StoreLayout
    census: Census
    index: Index
    models: dict[Digest, SurveyedModel] = attrs.field(factory=dict)
    faults: list[Fault] = attrs.field(factory=list)
    unlisted: tuple[Digest, ...] = ()

    def users_of(self, digest: Digest) -> frozenset[Digest]:
        """The models that need a blob."""
        return self._users.get(digest, frozenset())

    _users: dict[Digest, frozenset[Digest]] = attrs.field(factory=dict, init=False)

    def note_user(self, digest: Digest, model_id: Digest) -> None:
        """Remember who needs a blob."""
        self._users[digest] = self._users.get(digest, frozenset()) | {model_id}


def survey(layout: StoreLayout) -> Survey:
    """Look at everything. The store's lock is held, so that nothing is half done."""
    census = take_census(layout)
    index, faults = _read_index(layout, census)
    found = Survey(layout=layout, census=census, index=index, faults=faults)
    if not layout.layout_document.is_file():
        problem = "is missing: the reference runner takes the directory for something else without it"
        faults.append(Fault(kind=FindingKind.LAYOUT, path=layout.layout_document, problem=problem))
    for record in index.records:
        if not _names_model(record):
            problem = "an entry names no model"
            faults.append(Fault(kind=FindingKind.INDEX_ENTRY, path=layout.index_document, problem=problem))
    for entry in index.entries():
        found.models[entry.id] = _model(found, entry.id, entry.tags)
    for model in found.models.values():
        for blob in model.blobs:
            found.note_user(blob.digest, model.id)
    faults.extend(_blob_faults(found))
    faults.extend(_bundle_faults(found))
    found.unlisted = unlisted(layout, index, census)
    return found


def bundled_files(found: Survey) -> Iterator[tuple[Digest, Digest, Found]]:
    """Files of bundles that are copies, not links: the model, the blob each should be, and the file."""
    for model in found.models.values():
        if model.plan is None:
            continue
        directory = found.layout.bundle(model.id) / "model"
        for file in (*model.plan.files, *model.plan.extras):
            path, blob = file.path.under(directory), found.census.blobs.get(file.digest)
            try:
                status = path.stat()
            except OSError:
                continue
            if blob is None or (status.st_dev, status.st_ino) != (blob.status.st_dev, blob.status.st_ino):
                yield model.id, file.digest, Found(path, status)


def _read_index(layout: StoreLayout, census: Census) -> tuple[Index, list[Fault]]:
    path = layout.index_document
    if not path.exists():
        if not census.manifests:
            return Index(), []
        return Index(), [Fault(kind=FindingKind.INDEX_MISSING, path=path, problem="is missing")]
    try:
        return IndexFile(layout).read(), []
    except PreconditionError as exc:
        reason = str(exc.__cause__ or exc.message)
        return Index(), [Fault(kind=FindingKind.INDEX_DAMAGED, path=path, problem=f"cannot be read: {reason}")]


def _names_model(record: Any) -> bool:
    return next(Index(records=(record,)).entries(), None) is not None


def _model(found: Survey, model_id: Digest, tags: tuple[str, ...]) -> SurveyedModel:
    path, here = found.layout.manifest(model_id), frozenset({model_id})

    def fault(kind: FindingKind, problem: str, *, may_pass: bool = False) -> SurveyedModel:
        found.faults.append(Fault(kind=kind, path=path, problem=problem, models=here, may_pass=may_pass))
        return SurveyedModel(id=model_id, tags=tags)

    try:
        data = read_document(path)
    except FileNotFoundError:
        return fault(FindingKind.MANIFEST_MISSING, "is missing")
    except OSError as exc:
        problem = f"cannot be read: {exc.strerror or exc}"
        return fault(FindingKind.MANIFEST_DAMAGED, problem, may_pass=not is_damage(exc))
    if Digest.of(data) != model_id:
        return fault(FindingKind.MANIFEST_DAMAGED, "is not what its digest says")
    try:
        manifest = decode_manifest(data)
    except (MalformedArtifactError, UnsupportedFormatError) as exc:
        return fault(FindingKind.UNSUPPORTED, f"cannot be understood by this version: {exc.message}")
    return SurveyedModel(id=model_id, tags=tags, blobs=manifest.blobs, plan=_plan(found, model_id, manifest))


def _plan(found: Survey, model_id: Digest, manifest: Manifest) -> BundlePlan | None:
    """How the bundle of a model should look, if it has one; a config that is understood is asked for on the way."""
    path = found.layout.blob(manifest.config.digest)
    try:
        data = read_document(path)
    except OSError:
        return None  # the blob is missing or unreadable, which is told about blobs
    if Digest.of(data) != manifest.config.digest:
        problem = "is not what its digest says"
        found.faults.append(
            Fault(
                kind=FindingKind.BLOB_DAMAGED,
                path=path,
                problem=problem,
                models=frozenset({model_id}),
                digest=manifest.config.digest,
            )
        )
        return None
    try:
        config = decode_config(data)
        return plan_bundle(manifest, config) if model_id in found.census.bundles else None
    except (MalformedArtifactError, UnsupportedFormatError) as exc:
        problem = f"cannot be understood by this version: {exc.message}"
        found.faults.append(
            Fault(kind=FindingKind.UNSUPPORTED, path=path, problem=problem, models=frozenset({model_id}))
        )
        return None


def _blob_faults(found: Survey) -> Iterator[Fault]:
    told = {fault.digest for fault in found.faults}
    for model in found.models.values():
        for blob in {blob.digest: blob for blob in model.blobs}.values():
            here, path = found.census.blobs.get(blob.digest), found.layout.blob(blob.digest)
            if here is None:
                problem, kind = "is missing", FindingKind.BLOB_MISSING
            elif here.status.st_size != blob.size and blob.digest not in told:
                size, kind = _size_of(path), FindingKind.BLOB_SIZE
                if size == blob.size:
                    continue  # a link to a blob elsewhere
                problem = f"has {size} bytes, and the manifest says {blob.size}"
            else:
                continue
            yield Fault(kind=kind, path=path, problem=problem, models=frozenset({model.id}), digest=blob.digest)


def _bundle_faults(found: Survey) -> Iterator[Fault]:
    """Links that lead elsewhere. A bundle that is not whole is none: it is made anew when it is needed."""
    for model in found.models.values():
        if model.plan is None:
            continue
        directory = found.layout.bundle(model.id) / "model"
        for file in (*model.plan.files, *model.plan.extras):
            path = file.path.under(directory)
            if path.is_symlink() and path.resolve() != found.layout.blob(file.digest).resolve():
                problem = f"is a link to {str(path.readlink())!r} instead of its blob"
                yield Fault(kind=FindingKind.BUNDLE, path=path, problem=problem, models=frozenset({model.id}))
                break


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
