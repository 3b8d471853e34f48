"""Checking a store, and mending it. Blobs are read while others work; what follows from that is decided under the lock."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.durability import disk_conditions
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import StoreLock
from dmr_adapters.model_store.maintenance.census import Found, files_below, take_census
from dmr_adapters.model_store.maintenance.collect import collect
from dmr_adapters.model_store.maintenance.hashing import Suspect, compare
from dmr_adapters.model_store.maintenance.links import is_linked_outside
from dmr_adapters.model_store.maintenance.repair import mend, mend_documents
from dmr_adapters.model_store.maintenance.survey import Fault, Survey, bundled_files, survey
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.digest import Digest
from dmr_core.domain.store_report import CheckProgress, CheckReport, Finding, FindingKind
from dmr_core.errors import PreconditionError
from dmr_core.ports.store_maintenance import STALE, CheckWatcher

__all__ = ["check_store"]

_DOCUMENTS: Final = frozenset({FindingKind.LAYOUT, FindingKind.INDEX_DAMAGED, FindingKind.INDEX_MISSING})
_CHANGED: Final = frozenset({FindingKind.BLOB_DAMAGED, FindingKind.BLOB_SIZE})
_SHOWN: Final = 20
_PULL: Final = "`dmr system check --repair`, then pull the model again"
_ADVICE: Final = {
    FindingKind.BLOB_DAMAGED: _PULL,
    FindingKind.BLOB_SIZE: _PULL,
    FindingKind.BLOB_UNREADABLE: f"check the disk; or {_PULL}",
    FindingKind.BLOB_MISSING: _PULL,
    FindingKind.MANIFEST_MISSING: _PULL,
    FindingKind.MANIFEST_DAMAGED: _PULL,
    FindingKind.INDEX_DAMAGED: "restore it from a backup, or `dmr system check --repair` saves what can be read of it",
    FindingKind.INDEX_MISSING: "`dmr system check --repair` lists the models that are complete",
    FindingKind.INDEX_ENTRY: "`dmr system check --repair` sets it aside",
    FindingKind.LAYOUT: "`dmr system check --repair` writes it",
    FindingKind.BUNDLE: "`dmr system check --repair` removes the bundle; it is made anew on the next use",
    FindingKind.UNSUPPORTED: "a newer dmr may understand it",
    FindingKind.UNLISTED: "`dmr system check --repair` lists it, `dmr system prune --all` removes it",
    FindingKind.GARBAGE: "`dmr system prune` removes it",
    FindingKind.QUARANTINE: "`dmr system prune --all` removes it",
}
_LINKED: Final = (
    "a file of yours that was linked into the store, as `dmr package --link` does, was changed:"
    " `dmr system check --repair`, then package the model again, without --link if the file is still written to"
)
_LINKED_NOW: Final = "package the model again, without --link if the file is still written to; your file was left alone"
_UNCERTAIN: Final = "check the file's permissions and the limit of open files, and check again; nothing was changed"
_PULL_NOW: Final = "pull the model again; what is not damaged is not fetched again"


async def check_store(
    layout: StoreLayout, lock: StoreLock, *, repair: bool, deep: bool, progress: CheckWatcher | None
) -> CheckReport:
    """Check, and with ``repair`` mend; see :class:`~dmr_core.ports.store_maintenance.StoreMaintenance`."""
    async with lock.hold():
        first = await finish_in_thread(lambda: _survey(layout))
    jobs = _jobs(first, deep=deep)
    total, done = sum(found.status.st_size for found, _ in jobs), 0

    def advance(count: int, path: Path) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(CheckProgress(done=done, total=max(total, done), doing=path.name[:12]))

    suspects, hashed = await compare(jobs, advance)
    compared = {job.path for job, _ in jobs}

    def decide() -> CheckReport:
        with disk_conditions(layout.root):
            return _decide(layout, compared, suspects, repair=repair, deep=deep, hashed=hashed)

    async with lock.hold():
        return await finish_in_thread(decide)


def _survey(layout: StoreLayout) -> Survey:
    with disk_conditions(layout.root):
        return survey(layout)


def _jobs(found: Survey, *, deep: bool) -> list[tuple[Found, Digest]]:
    """What is to be hashed: everything, or what has the wrong size, as either side may be wrong then."""
    odd = {fault.digest for fault in found.faults if fault.kind is FindingKind.BLOB_SIZE}
    jobs = [(blob, digest) for digest, blob in found.census.blobs.items() if deep or digest in odd]
    if deep:
        jobs.extend((file, digest) for _, digest, file in bundled_files(found))
    return jobs


def _decide(
    layout: StoreLayout, compared: set[Path], suspects: dict[Path, Suspect], *, repair: bool, deep: bool, hashed: int
) -> CheckReport:
    """Look again, as others may have worked meanwhile, and mend. The store's lock is held."""
    found = survey(layout)
    documents = [fault for fault in found.faults if fault.kind in _DOCUMENTS]
    done: dict[Fault, str] = {}
    if repair and documents:
        done.update(mend_documents(layout, documents))
        found = survey(layout)
    faults = [*documents, *_faults(found, compared, suspects)]
    if repair:
        done.update(mend(found, faults))
    findings = [_finding(found, fault, done.get(fault, ""), repair=repair) for fault in faults]
    return CheckReport(
        findings=(*findings, *_notes(layout)),
        models=len(found.models),
        blobs=len(found.census.blobs),
        hashed=hashed,
        deep=deep,
    )


def _faults(found: Survey, compared: set[Path], suspects: dict[Path, Suspect]) -> list[Fault]:
    """What is wrong with the store as it is now."""
    real = {path: suspect for path, suspect in suspects.items() if suspect.found.is_unchanged()}
    faults: dict[tuple[FindingKind, Path, Digest | None], Fault] = {}
    bad: set[Path] = set()
    for fault in found.faults:
        if fault.kind in _DOCUMENTS:
            continue
        kept = fault
        if fault.kind is FindingKind.BLOB_SIZE and fault.path in compared and fault.path not in real:
            # The blob is what its digest says, so it is the manifest that is wrong.
            path = found.layout.manifest(next(iter(fault.models)))
            problem = f"gives the wrong size for {fault.digest}"
            kept = attrs.evolve(fault, kind=FindingKind.MANIFEST_DAMAGED, path=path, problem=problem, digest=None)
        elif fault.digest is not None:
            bad.add(fault.path)
        key = kept.kind, kept.path, kept.digest
        same = faults.get(key)
        faults[key] = attrs.evolve(kept, models=kept.models | same.models) if same else kept
    copies = {file.path: model_id for model_id, _, file in bundled_files(found)}
    for path, suspect in real.items():
        if path in copies:
            fault = Fault(
                kind=FindingKind.BUNDLE,
                path=path,
                problem="is not its blob",
                models=frozenset({copies[path]}),
                may_pass=suspect.may_pass,
            )
        elif path in bad or path.parent != found.layout.blobs:
            continue
        else:
            digest = Digest(path.name)
            fault = Fault(
                kind=suspect.kind,
                path=path,
                problem=suspect.problem,
                models=found.users_of(digest),
                digest=digest,
                may_pass=suspect.may_pass,
            )
        faults[fault.kind, path, fault.digest] = fault
    broken = {path.name for path in real if path.parent == found.layout.blobs}
    for model_id in found.unlisted:
        path = found.layout.manifest(model_id)
        if not any(name in path.read_text("utf-8", "replace") for name in broken):
            problem = "is a complete model that is not in the index"
            faults[FindingKind.UNLISTED, path, None] = Fault(
                kind=FindingKind.UNLISTED, path=path, problem=problem, models=frozenset({model_id})
            )
    return list(faults.values())


def _finding(found: Survey, fault: Fault, repaired: str, *, repair: bool) -> Finding:
    models = [found.models[model_id] for model_id in sorted(fault.models) if model_id in found.models]
    names = [name for model in models for name in (model.tags or (str(model.id),))]
    if fault.kind is FindingKind.UNLISTED:
        names = [str(model_id) for model_id in fault.models]
    advice = _ADVICE.get(fault.kind, "")
    blob = found.census.blobs.get(fault.digest) if fault.kind in _CHANGED and fault.digest is not None else None
    if blob is not None and is_linked_outside(found.layout, blob):
        advice = _LINKED_NOW if repaired else _LINKED
    elif fault.may_pass:
        advice = _UNCERTAIN
    elif repaired:
        advice = _PULL_NOW if advice.endswith(_PULL) and names else ""
    elif repair and not fault.kind.is_note:
        advice = "it is being used: unload the model, or wait for the pull, and repair again"
    return Finding(
        kind=fault.kind,
        path=str(fault.path.relative_to(found.layout.root)),
        problem=fault.problem,
        models=tuple(names),
        advice=advice,
        repaired=repaired,
    )


def _notes(layout: StoreLayout) -> list[Finding]:
    """What is only worth to be known, as it is after a repair."""
    found = take_census(layout)
    notes = []
    try:
        garbage = collect(layout, partials_older_than=STALE, everything=False, dry_run=True)
    except PreconditionError:
        garbage = None  # the index is damaged: nobody can say
    for entry in garbage.collected if garbage else ():
        problem = f"{entry.count} of kind {entry.kind} that nothing needs, {entry.size} bytes"
        notes.append(Finding(kind=FindingKind.GARBAGE, path="", problem=problem, advice=_ADVICE[FindingKind.GARBAGE]))
    if found.quarantine:
        size = sum(file.status.st_size for file in files_below(layout.quarantine))
        problem = f"{len(found.quarantine)} things that a repair set aside, {size} bytes"
        path = str(layout.quarantine.relative_to(layout.root))
        advice = _ADVICE[FindingKind.QUARANTINE]
        notes.append(Finding(kind=FindingKind.QUARANTINE, path=path, problem=problem, advice=advice))
    for foreign in found.foreign[:_SHOWN]:
        path = str(foreign.path.relative_to(layout.root))
        notes.append(Finding(kind=FindingKind.FOREIGN, path=path, problem="is not the store's; it is left alone"))
    if len(found.foreign) > _SHOWN:
        problem = f"and {len(found.foreign) - _SHOWN} more that are not the store's"
        notes.append(Finding(kind=FindingKind.FOREIGN, path="", problem=problem))
    return notes
