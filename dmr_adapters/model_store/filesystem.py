"""The model store on a file system."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Final, Self

import attrs

from dmr_adapters.model_store.blobs import BLOB_MODE, BlobIngest, is_complete, read_blob
from dmr_adapters.model_store.bundle import BundleDraft, bundle_at, discard_bundle, is_whole
from dmr_adapters.model_store.bundle_plan import plan_bundle
from dmr_adapters.model_store.durability import disk_conditions, write_durably
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.index_file import IndexFile
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import DigestLocks, StoreLock
from dmr_adapters.model_store.snapshot import Snapshot, SnapshotReader
from dmr_adapters.model_store.startup import prepare, prepare_directories
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.artifact import Artifact, Descriptor
