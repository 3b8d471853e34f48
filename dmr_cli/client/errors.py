"""Why a command failed, and the exit code that says so to scripts."""

from __future__ import annotations

from typing import ClassVar, Final

__all__ = [
    "EXIT_INTERRUPTED",
    "BadGatewayError",
    "ClientError",
    "ConflictError",
    "ConnectionLostError",
    "InvalidInputError",
    "NotFoundError",
    "NotRunningError",
    "TransferError",
    "abridged",
]

EXIT_INTERRUPTED: Final = 130
_OUTPUT: Final = "\n\nVerbose output:\n"
_SHOWN: Final = 12
_MESSAGE_LIMIT: Final = 4096


class ClientError(Exception):
    """A command cannot do what it was asked; ``message`` is for people and printed once."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInputError(ClientError):
    """Something typed, or set in the environment, cannot be right."""

    exit_code = 2


class NotFoundError(ClientError):
    """The service, or its registry, does not have what was named."""

    exit_code = 3


class NotRunningError(ClientError):
    """No service answers at the endpoint. Trying again at once cannot help."""

    exit_code = 4


class ConflictError(ClientError):
    """What exists contradicts the request."""

    exit_code = 5


class ConnectionLostError(ClientError):
    """The connection broke under an exchange that had begun; a transfer may be tried again."""


class BadGatewayError(ClientError):
    """The service, or a proxy before it, answered 502, 503 or 504; a transfer may be tried again."""


class TransferError(ClientError):
    """The service gave up in the middle of a transfer and said why."""


def abridged(message: str, lines: int = _SHOWN) -> str:
    """A message for people: what went wrong in full, the engine's output indented and cut to its last ``lines``."""
    said, _, output = message.partition(_OUTPUT)
    if len(said) > _MESSAGE_LIMIT:
        said = said[:_MESSAGE_LIMIT] + " …[truncated]"
    printed = [line.rstrip() for line in output.splitlines() if line.strip()]
    if not printed:
        return said
    shown = [f"  | {line}" for line in printed[-lines:]]
    left = len(printed) - len(shown)
    title = f"The last {len(shown)} lines of the engine's output ({left} more with --debug):" if left else "Its output:"
    return "\n".join([said, "", title, *shown])
