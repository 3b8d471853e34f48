"""What long work tells while it runs; becomes the NDJSON stream of pull, push and load."""

from __future__ import annotations

from enum import StrEnum

import attrs

from dmr_core.domain.digest import Digest

__all__ = ["LayerProgress", "Progress", "ProgressKind", "TransferMode"]


class ProgressKind(StrEnum):
    """Type of a progress line on the wire."""

    PROGRESS = "progress"
    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"


class TransferMode(StrEnum):
    """What is on its way, on the wire; loading an archive counts as a pull. ``install`` brings an engine."""

    PULL = "pull"
    PUSH = "push"
    INSTALL = "install"


@attrs.frozen
class LayerProgress:
    """How far one layer has come; sizes in bytes."""

    id: Digest
    size: int
    current: int


@attrs.frozen(kw_only=True)
class Progress:
    """One line of progress.

    ``total`` is the sum of all layer sizes in bytes, 0 on closing lines. ``share`` (0 to 1) is how much is done where
    that is not counted in bytes.
    """

    kind: ProgressKind
    message: str
    mode: TransferMode
    total: int = 0
    layer: LayerProgress | None = None
    code: str | None = None
    share: float | None = None
