"""Reports about the store as documents, for JSON; sizes in bytes."""

from __future__ import annotations

from typing import Any

from dmr_core.domain.store_report import CheckReport, Collection, StoreUsage

__all__ = ["check_document", "collection_document", "usage_document"]


def collection_document(collection: Collection) -> dict[str, Any]:
    """What a collection removed, or would."""
    return {
        "dry_run": collection.dry_run,
        "count": collection.count,
        "size": collection.size,
        "removed": [
            {"kind": entry.kind.value, "count": entry.count, "size": entry.size} for entry in collection.collected
        ],
        "models": [str(model_id) for model_id in collection.models],
        "kept": collection.kept,
        "failed": list(collection.failed),
    }


def check_document(report: CheckReport) -> dict[str, Any]:
    """What a check found. ``clean`` is whether nothing is wrong, or no longer."""
    return {
        "clean": report.is_clean,
        "deep": report.deep,
        "models": report.models,
        "blobs": report.blobs,
        "hashed": report.hashed,
        "findings": [
            {
                "kind": finding.kind.value,
                "note": finding.kind.is_note,
                "path": finding.path,
                "problem": finding.problem,
                "models": list(finding.models),
                "advice": finding.advice,
                "repaired": finding.repaired,
            }
            for finding in report.findings
        ],
    }


def usage_document(usage: StoreUsage) -> dict[str, Any]:
    """Where the bytes are."""
    return {
        "total": usage.total,
        "bundles": usage.bundles,
        "partials": usage.partials,
        "quarantine": usage.quarantine,
        "unreferenced": usage.unreferenced,
        "reclaimable": usage.reclaimable,
        "models": [
            {
                "id": str(model.id),
                "tags": list(model.tags),
                "size": model.size,
                "unique": model.unique,
                "shared": model.shared,
            }
            for model in usage.models
        ],
    }
