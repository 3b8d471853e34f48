"""What of our own environment an engine may see.

Engines run models and templates written by strangers, and some print their environment when they
crash. So they get what is named here and nothing else; whatever a backend knows its engine needs
beyond that, it passes in ``ProcessSpec.environment``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["MARKER", "child_environment"]

MARKER: Final = "DMR_ENGINE_ID"
"""Set to a random token in every child, inherited by its children: how leftovers are recognised."""

_NAMES: Final = frozenset(
    {
        "PATH",  # engines call helpers (nvidia-smi, ninja)
        "HOME",  # caches of compiled kernels
        "USER",  # torch asks for the user's name
        "LOGNAME",
        "LANG",  # encodings and messages
        "LANGUAGE",
        "TZ",  # times in logs and chat templates
        "TMPDIR",
        "LD_LIBRARY_PATH",  # where GPU libraries are
        "DYLD_LIBRARY_PATH",
        "DYLD_FALLBACK_LIBRARY_PATH",
        "SSL_CERT_FILE",  # engines that fetch images named in requests
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
    }
)

_PREFIXES: Final = (
    "LC_",  # locale, like LANG
    "XDG_",  # where caches go
    "CUDA_",  # which devices, and how
    "NVIDIA_",
    "NCCL_",
    "HIP_",
    "HSA_",
    "ROCR_",
    "ROCM_",
    "MUSA_",
    "ASCEND_",
    "GGML_",
    "OMP_",  # how many threads, and where
    "KMP_",
    "MKL_",
    "OPENBLAS_",
)

# An allowed prefix is no licence to leak: NVIDIA_API_KEY is a real name of a real secret.
_SECRET: Final = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|COOKIE|AUTH", re.IGNORECASE)

_OURS: Final = {
    # vLLM renames its workers with setproctitle, which wipes /proc/PID/environ, and with it our
    # marker, unless told to leave that alone.
    "SPT_NOENV": "1",
}


def child_environment(environ: Mapping[str, str], extra: Mapping[str, str], token: str) -> dict[str, str]:
    """The allowed part of ``environ``, then ``extra``, then the marker with ``token``."""
    allowed = {name: value for name, value in environ.items() if _is_allowed(name)}
    return {**allowed, **_OURS, **extra, MARKER: token}


def _is_allowed(name: str) -> bool:
    return (name in _NAMES or name.startswith(_PREFIXES)) and not _SECRET.search(name)
