"""What the headers of a GGUF model amount to, worded as the reference words it.

Rules and names follow gguf-parser-go v0.24 (``file_metadata.go``, ``file_architecture.go``) and the
reference's config writer; they are observable in every model it has packaged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dmr_adapters.package_source.gguf import GgufHeader, Value, read_gguf
from dmr_adapters.package_source.quantization import quantization_name
from dmr_core.domain.files import Shard
from dmr_core.domain.quantities import gguf_parameters, gguf_size
from dmr_core.ports.package_source import WeightsMetadata

__all__ = ["gguf_metadata"]

_DIFFUSION_ARCHITECTURES: Final = ("flux", "sd", "sd2.5", "sd3", "stable-diffusion")
_WITHOUT_CONTEXT: Final = ("clip", "controlvector", "imatrix")
_MAX_CONTEXT: Final = 2**31 - 1
_GO_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def gguf_metadata(paths: Sequence[Path]) -> WeightsMetadata:
    """What the files at ``paths`` say, taken as one model when they are the shards of one, else the first alone.

    Raises:
        MalformedArtifactError: a header breaks the format, or a file is too short for its tensors.
        InvalidRequestError: a file cannot be read.
    """
    shard = Shard.of(paths[0].name)
    members = [path for path in paths if shard is not None and path.name in shard.names] or [paths[0]]
    headers = [read_gguf(path) for path in members]
    values: dict[str, Value] = {}
    for header in headers:
        values.update(header.values)
    if shard is not None:
        values.pop("split.no", None)  # says which shard this is, which is no property of the model
    diffusion = any(header.diffusion for header in headers)
    architecture = _architecture(values, diffusion=diffusion)
    return WeightsMetadata(
        parameters=gguf_parameters(sum(header.parameters for header in headers)),
        quantization=quantization_name(_number(values, "general.file_type"), _votes(headers, architecture)),
        architecture=architecture,
        size=gguf_size(sum(header.data_size for header in headers)),
        context_size=None if diffusion else _context_size(values),
        raw={key: _spelled(value) for key, value in values.items()},
    )


def _architecture(values: Mapping[str, Value], *, diffusion: bool) -> str:
    hint = _string(values, "controlvector.model_hint")
    named = _string(values, "general.architecture")
    if hint is not None:
        return hint
    if named is not None and named not in _DIFFUSION_ARCHITECTURES:
        return named
    if _string(values, "general.type") == "imatrix":
        return "imatrix"
    return "diffusion" if diffusion else "llama"


def _votes(headers: Sequence[GgufHeader], architecture: str) -> Mapping[int, int]:
    total: Counter[int] = Counter()
    for header in headers:
        total.update(header.weight_votes if architecture == "diffusion" else header.votes)
    return total


def _context_size(values: Mapping[str, Value]) -> int | None:
    architecture = _string(values, "general.architecture") or "llama"
    if architecture in _WITHOUT_CONTEXT or _string(values, "general.type") in ("adapter", "imatrix"):
        return None
    size = _number(values, f"{architecture}.context_length")
    return size if size is not None and 0 < size <= _MAX_CONTEXT else None


def _string(values: Mapping[str, Value], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else None


def _number(values: Mapping[str, Value], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _spelled(value: Value) -> str:
    """``value`` as the reference writes it into a config (Go's ``%d``, ``%f``, ``%t``, ``TrimSpace``)."""
    if isinstance(value, tuple):
        return ", ".join(map(_spelled, value))
    if isinstance(value, str):
        return value.strip(_GO_SPACE)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return f"{value:.6f}"
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"
