"""Removals that a crash interrupted: known by a mark, and finished later.

A model goes out of the index first and its files follow. Killed in between, a complete model would be on the disk that
is in no index, which looks like one the index has lost. The mark tells the two apart.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from dmr_adapters.model_store.bundle import discard_bundle
from dmr_adapters.model_store.durability import write_durably
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.layout import StoreLayout
from dmr_core.domain.digest import Digest
from dmr_core.errors import InvalidRequestError

__all__ = ["begin_removal", "end_removal", "finish_removals"]

_log: Final = logging.getLogger(__name__)


def begin_removal(layout: StoreLayout, model_id: Digest) -> None:
    """Mark a model that is about to leave the index. The store's lock is held.

    Raises:
        OSError: the disk refused.
    """
    write_durably(layout.removals / model_id.hex, b"", temporary=layout.temporary)


def end_removal(layout: StoreLayout, model_id: Digest) -> None:
    """The files of the model are gone.

    Raises:
        OSError: the disk refused.
    """
    (layout.removals / model_id.hex).unlink(missing_ok=True)


def finish_removals(layout: StoreLayout, index: Index) -> None:
    """Delete manifest and bundle of models whose removal was interrupted after they had left ``index``.

    Their blobs are then nobody's, and go with the next collection. The store's lock is held.
    """
    with suppress(OSError):
        for mark in tuple(layout.removals.iterdir()):
            try:
                model_id = Digest(mark.name)
                if model_id not in index:
                    layout.manifest(model_id).unlink(missing_ok=True)
                    discard_bundle(layout, model_id)
                end_removal(layout, model_id)
            except (OSError, InvalidRequestError) as exc:
                _log.warning("cannot finish the removal of %s: %s", mark.name, exc)
