"""Media that an engine would fetch from elsewhere.

An engine that follows ``image_url`` asks whatever the client names: the cloud's metadata service, another machine of the
network, a file of this one (CVE-2026-22778 came in that way). Data within the request is always fine; addresses are
refused unless the operator allows them, files always.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from dmr_core.errors import InvalidRequestError

__all__ = ["check_media"]

# Keys under which the dialects name media: OpenAI's parts, Anthropic's and Responses' sources, vLLM's extensions.
_KEYS: Final = ("image_url", "audio_url", "video_url", "file_url", "url")
_MARK: Final = b'url"'
_MANY: Final = 1000
_ELSEWHERE: Final = re.compile(rb'\s*:\s*"(?!data:)')
# An encoder escapes letters only to hide them: such a text is looked at closely, too.
_HIDDEN: Final = re.compile(rb"\\u00[2-7]", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[\s\x00-\x20]*([a-zA-Z][a-zA-Z0-9+.-]*):")
# Parts of a request that describe what the model may say, not what it is shown.
_SCHEMAS: Final = frozenset({"tools", "functions", "response_format", "metadata", "json_schema", "text_format"})
_WEB: Final = frozenset({"http", "https"})


def check_media(content: bytes, *, allow_remote: bool) -> None:
    """Refuse a request that names media elsewhere. ``content`` is JSON.

    Raises:
        InvalidRequestError: it does; says where, and what to do instead.
    """
    if _is_plain(content):
        return
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequestError(f"invalid request: {exc}") from exc
    if not isinstance(document, dict):
        return
    for name, value in document.items():
        if name in _SCHEMAS:
            continue
        for address in _addresses(value):
            _check(address, name, allow_remote=allow_remote)


def _is_plain(content: bytes) -> bool:
    """Whether it surely names nothing elsewhere; an image is not decoded for that."""
    # The search for a single byte is many times faster, and images have no backslash.
    if b"\\" in content and b"\\u00" in content and _HIDDEN.search(content):
        return False
    at = content.find(_MARK)
    for _ in range(_MANY):
        if at < 0:
            return True
        at += len(_MARK)
        if _ELSEWHERE.match(content, at):
            return False
        at = content.find(_MARK, at)
    return False


def _addresses(value: Any) -> Iterator[str]:
    """Every text that stands where an address may; without recursion, though the depth is bounded."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(item for item in value if isinstance(item, (dict, list)))
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, str):
                    if key in _KEYS:
                        yield item
                elif isinstance(item, (dict, list)):
                    waiting.append(item)


def _check(address: str, param: str, *, allow_remote: bool) -> None:
    scheme = _SCHEME.match(address)
    if scheme is None:  # bare base64, as some engines take it
        return
    name = scheme[1].lower()
    if name == "data" or (allow_remote and name in _WEB):
        return
    if name in _WEB:
        raise InvalidRequestError(
            f"media at other addresses is not fetched ({name}: in {param!r}): send it as a data: URL, or have the operator "
            "set DMR_ALLOW_REMOTE_MEDIA=1",
            param=param,
        )
    raise InvalidRequestError(
        f"media cannot be read from {name}: addresses (in {param!r}): send it as a data: URL", param=param
    )
