"""Which token a request to the Hub carries (huggingface_hub, "Environment variables")."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_core.errors import UnauthorizedError
from dmr_core.ports.registry import Credentials

__all__ = ["Token", "TokenSource"]

_VARIABLES: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_OFF: Final = "HF_HUB_DISABLE_IMPLICIT_TOKEN"
_TRUE: Final = frozenset({"1", "on", "yes", "true"})
_LARGEST: Final = 4096
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,4096}")


@attrs.frozen
class Token:
    """A token; ``origin`` says where it was found, for messages."""

    value: str = attrs.field(repr=False)
    origin: str

    @property
    def header(self) -> str:
        """The value of ``Authorization``."""
        return f"Bearer {self.value}"


@attrs.frozen
class TokenSource:
    """The service's own token, for requests that bring none: of the environment, else of ``hf auth login``."""

    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    async def find(self, credentials: Credentials | None) -> Token | None:
        """The token to use, ``None`` where there is none.

        Raises:
            UnauthorizedError: what was given cannot be a token.
        """
        if credentials is not None:
            return _checked(credentials.bearer_token, "the request")
        if self.environment.get(_OFF, "").strip().lower() in _TRUE:
            return None
        for name in _VARIABLES:
            if value := self.environment.get(name, "").strip().strip("\"'"):
                return _checked(value, name)
        path = self._file()
        value = await asyncio.to_thread(_read, path) if path is not None else ""
        return _checked(value, f"the file {path}") if value else None

    def _file(self) -> Path | None:
        given = self.environment.get
        home = given("HOME", "")
        if path := given("HF_TOKEN_PATH", ""):
            found = path
        elif directory := given("HF_HOME", ""):
            found = f"{directory}/token"
        elif cache := given("XDG_CACHE_HOME", "") or (home and f"{home}/.cache"):
            found = f"{cache}/huggingface/token"
        else:
            return None
        return Path(home + found[1:] if found.startswith("~/") and home else found)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _checked(value: str, origin: str) -> Token:
    if not _VISIBLE.fullmatch(value.strip()):
        raise UnauthorizedError(
            f"the Hugging Face token of {origin} is none: it holds white space or strange characters"
        )
    return Token(value.strip(), origin)
