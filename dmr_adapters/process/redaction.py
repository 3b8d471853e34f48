"""Keeping secrets and home directories out of what people paste into bug reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["Redactor", "redact_secrets"]

_HIDDEN: Final = "***"

# One pattern, so that a line is walked once. Every alternative starts with something literal or is
# bounded, and none can backtrack over more than one run of characters.
_SECRET: Final = re.compile(
    r"""
      (?P<bearer>\b[Bb]earer[ ]+)[\w\-.~+/=]+
    | (?P<flag>(?<![\w-])--?(?:[a-z]{1,20}[-_]){0,3}(?:api[-_]key|token|password|secret)(?![\w-])['"]?(?:=|,?[ ]+)['"]?)[^\s'"]+
    | (?P<variable>\b[A-Z0-9_]{0,40}(?:API_KEY|TOKEN|SECRET|PASSWORD)=)\S+
    | (?P<field>\b["']?(?:api_key|access_token|password)["']?[ ]?[:=][ ]?["']?)[^\s"',}]+
    | (?P<url>://)[^\s/@:]{0,200}:[^\s/@]{1,500}(?=@)
    | \b(?:sk|nvapi)-[\w\-]{8,}
    | \b(?:hf|gh[pousr]|github_pat)_\w{8,}
    """,
    re.VERBOSE,
)


def redact_secrets(text: str) -> str:
    """``text`` with everything that looks like a token, key or password hidden."""
    return _SECRET.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    return (match[match.lastgroup] if match.lastgroup else "") + _HIDDEN


class Redactor:
    """Hides secrets, and shows paths below well-known places by the names of those places."""

    def __init__(self, places: Mapping[Path, str]) -> None:
        # The longest first: a model directory inside the home directory is named for the models.
        known = {str(path): label for path, label in places.items() if len(path.parts) > 1}
        self._labels = known
        names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
        self._path = re.compile(rf"(?<![\w.\-/])(?:{names})(?![\w.\-])") if known else None

    def __call__(self, text: str) -> str:
        """``text`` with neither secrets nor the places known to this redactor."""
        text = redact_secrets(text)
        if self._path is None:
            return text
        return self._path.sub(lambda match: self._labels[match[0]], text)
