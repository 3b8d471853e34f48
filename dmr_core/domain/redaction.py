"""Taking secrets and media out of what people may look at: request and answer bodies above all.

Media is replaced by how much of it there was, in the reference's notation (``...[truncated N chars]``); secrets become
``***``. Ordinary URLs stay whole: they are what a reader needs, and no media.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

__all__ = ["redact_body", "redact_json", "redact_text", "shorten"]

_HIDDEN: Final = "***"
_LONGEST_KEPT: Final = 100  # characters of media nobody minds; the reference's figure
_LONG_RUN: Final = 256  # from here on, a run of base64's letters in running text is taken for media
_RARE: Final = 12  # in base64 a sign such as "/" is one letter in 32; in paths and slugs it is more than one in twelve

_WINDOW: Final = 8 * 1024
_OVERLAP: Final = 1024  # more than any alternative of the pattern needs before its open end

_SENSITIVE: Final = (
    r"api[_-]?key|(?:access|auth|bearer|refresh|id|session|hf)[_-]?token|secret[_-]?key|client[_-]?secret|private[_-]?key"
    r"|password|passwd|secret|(?:proxy[_-]?)?authorization|(?:set[_-]?)?cookie"
)
_SECRET_KEY: Final = re.compile(rf"(?:^|[_.-])(?:{_SENSITIVE})$", re.IGNORECASE)
_MEDIA_KEYS: Final = frozenset(
    {"data", "file_data", "b64_json", "image", "images", "image_url", "url", "audio", "video", "bytes", "base64"}
    | {"image_base64", "partial_image_b64"}
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_=\r\n-]*")
# Where a word starts; in JSON that was not decoded, the letter before it may belong to an escape.
_START: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{4}))"

# One pattern, so that a text is walked once. Alternatives start with something literal or at the start of a run, and
# none can backtrack over more than a bounded stretch: the cost is linear whatever the text.
_TEXT: Final = re.compile(
    rf"""
      (?P<url>\b[A-Za-z][A-Za-z0-9+.\-]{{1,15}}://[^\s"'<>\\]+)
    | (?=[A-Za-z]){_START}(?:
        (?P<data>[Dd]ata:[\w.+\-]{{0,40}}(?:/[\w.+\-]{{0,80}})?(?:;[\w.+\-]{{1,40}}(?:=[\w.+\-]{{0,40}})?){{0,4}},)
        (?P<payload>(?:[\w+/=%.~!*'()\-]++|\\/|(?:[\r\n]|\\[rn]){{1,4}}(?=[A-Za-z0-9+/]{{40}}))*+)
      | (?P<header>[Aa]uthorization[\\"']{{0,6}}[ ]{{0,3}}[:=][ ]{{0,3}}[\\"']{{0,6}}(?:[A-Za-z]{{5,10}}[ ]{{1,3}})?)
        [^\s"',;\\]{{4,}}
      | (?P<bearer>[Bb]earer[ ]{{1,3}})[\w\-.~+/=]{{8,}}
      | (?P<field>(?i:(?:[a-z0-9]{{1,20}}[_-]){{0,2}}(?:{_SENSITIVE}))
          [\\"']{{0,6}}[ ]{{0,3}}[:=][ ]{{0,3}}[\\"']{{0,6}})[^\s"',;}}\\]{{4,}}
      | (?:sk|nvapi|xox[a-z]|glpat)-[\w\-]{{16,}}
      | (?:hf|gh[pousr]|github_pat|dckr_pat)_\w{{16,}}
      | AKIA[0-9A-Z]{{16}} | AIza[\w\-]{{30,}} | eyJ[\w\-]{{8,}}\.[\w\-]{{8,}}\.[\w\-]*
      )
    | -----BEGIN[ ][A-Z ]{{0,40}}PRIVATE[ ]KEY-----(?:[\s\S]*?-----END[ ][A-Z ]{{0,40}}KEY-----|[\s\S]*)
    | (?P<base64>(?<![A-Za-z0-9+/_\-])(?=(?:[A-Za-z0-9+/_\-]|\\/){{60}})(?:[A-Za-z0-9+/_\-]++|\\/)++={{0,2}}
        (?:(?:[\r\n]|\\[rn]){{1,4}}[A-Za-z0-9+/_\-]{{60,}}+={{0,2}})*+)
    """,
    re.VERBOSE,
)
_IN_URL: Final = re.compile(
    rf"(?P<user>(?<=://)[^\s/@:]{{0,200}}:)[^\s/@]{{1,500}}(?=@)"
    rf"|(?P<query>[?&;](?i:(?:[a-z0-9]{{1,20}}[_.-]){{0,3}}(?:{_SENSITIVE}|token|key|sig|signature|credential))=)[^&\#]+"
)
# What a JSON text that was cut off shows of its members.
_MEMBER: Final = re.compile(
    rf'(?P<secret>"(?:[^"\\]{{0,60}}[_.-])?(?i:{_SENSITIVE})"\s{{0,8}}:\s{{0,8}}")(?:[^"\\]|\\.)*'
    rf'|(?P<media>"(?:{"|".join(sorted(_MEDIA_KEYS))})"\s{{0,8}}:\s{{0,8}}")(?P<run>(?:[A-Za-z0-9+/_=\-]|\\[/rn]){{{_LONGEST_KEPT + 1},}})'
)


def redact_body(text: str) -> str:
    """A body, JSON or not, without media and secrets. JSON is written anew, compactly."""
    try:
        return json.dumps(redact_json(json.loads(text)), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return redact_text(_replace(_MEMBER, text, _member))


def redact_json(value: Any) -> Any:
    """A JSON value without media and secrets, found by what they look like and by the names of their members.

    Raises:
        RecursionError: it is nested too deeply.
    """
    return _walk(value, secret=False, media=False)


def redact_text(text: str) -> str:
    """Running text without media and secrets."""
    return _replace(_TEXT, text, _hide)


def shorten(text: str, limit: int) -> str:
    """``text`` cut to about ``limit`` characters, saying how many are missing."""
    return text if len(text) <= limit else text[:limit] + _cut(len(text) - limit)


def _walk(value: Any, *, secret: bool, media: bool) -> Any:
    if isinstance(value, str):
        if secret:
            return _HIDDEN if value else value
        if media and len(value) > _LONGEST_KEPT and _BASE64.fullmatch(value):
            return _cut(len(value))
        return redact_text(value)
    if isinstance(value, list):
        return [_walk(item, secret=secret, media=media) for item in value]
    if isinstance(value, dict):
        return {
            redact_text(name): _walk(item, secret=_SECRET_KEY.search(name) is not None, media=name in _MEDIA_KEYS)
            for name, item in value.items()
        }
    return value


def _replace(pattern: re.Pattern[str], text: str, how: Callable[[re.Match[str]], str]) -> str:
    """As ``pattern.sub``, in steps: matching holds the interpreter's lock, and requests must not wait for a megabyte."""
    parts: list[str] = []
    position, kept, length = 0, 0, len(text)
    while position < length:
        end = min(position + _WINDOW, length)
        match = pattern.search(text, position, end)
        if match is not None and match.end() == end < length:
            match = pattern.match(text, match.start())  # it was cut by the window
        if match is None:
            position = end if end == length else end - _OVERLAP
            continue
        parts += (text[kept : match.start()], how(match))
        position = kept = max(match.end(), match.start() + 1)
    parts.append(text[kept:])
    return "".join(parts)


def _hide(match: re.Match[str]) -> str:
    found = match.groupdict()
    if found["url"] is not None:
        return _IN_URL.sub(lambda part: (part["user"] or part["query"]) + _HIDDEN, match[0])
    if found["data"] is not None:
        payload = match["payload"]
        keep = not payload or (";base64" not in found["data"].lower() and len(payload) <= _LONGEST_KEPT)
        return match[0] if keep else found["data"] + _cut(len(payload))
    if found["base64"] is not None:
        return _cut(len(match[0])) if _is_media(match[0]) else match[0]
    return (found["header"] or found["bearer"] or found["field"] or "") + _HIDDEN


def _member(match: re.Match[str]) -> str:
    return match["secret"] + _HIDDEN if match["secret"] is not None else match["media"] + _cut(len(match["run"]))


def _is_media(run: str) -> bool:
    return len(run) >= _LONG_RUN and sum(run.count(sign) for sign in "/+-_") * _RARE <= len(run)


def _cut(count: int) -> str:
    return f"...[truncated {count} chars]"
