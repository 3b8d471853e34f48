"""Reading ``WWW-Authenticate`` (RFC 9110 §11.6.1).

One header may hold several challenges, parameters may be quoted or bare, and commas separate both
challenges and parameters, so this is a scanner and no regular expression over the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

__all__ = ["Challenge", "parse_challenges"]

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110 §5.6.2, a grammar
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:[ \t]+|$|(?=,))")
_PARAMETER: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_SEPARATORS: Final = re.compile(r"[ \t,]*")
_ESCAPE: Final = re.compile(r"\\(.)")


@attrs.frozen
class Challenge:
    """One way a server offers to be convinced. Scheme and parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge in the given header values, in order; what cannot be read is left out."""
    return tuple(challenge for header in headers for challenge in _parse(header))


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = _skip(header, 0)
    while position < len(header):
        scheme = _SCHEME.match(header, position)
        if not scheme:
            break
        position = scheme.end()
        if not _PARAMETER.match(header, position) and (blob := _TOKEN68.match(header, position)):
            position = blob.end()  # `Negotiate abc==`: a blob in place of parameters
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, _skip(header, position)):
            name, quoted, bare = parameter.groups()
            parameters.setdefault(name.lower(), _ESCAPE.sub(r"\1", quoted) if quoted is not None else bare)
            position = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
        position = _skip(header, position)
    return found


def _skip(header: str, position: int) -> int:
    separators = _SEPARATORS.match(header, position)
    return separators.end() if separators else position
