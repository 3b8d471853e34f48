"""Raw flags for an engine: words become flags of known arity and type, or are refused.

These words end up in the argument vector of a process on the host, and the reference was once made to write files this
way (CVE-2026-28400). So a table names every flag there is, with what it takes; a word is a flag or the value of the flag
before it, never both; and nothing that takes a path, an address, a key or code is in a table of flags for clients.
The same parse checks settings when they are made and renders them when an engine starts.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import attrs

from dmr_core.domain.flag_kinds import Kind
from dmr_core.errors import InvalidConfigurationError, PluginError

__all__ = ["Flag", "FlagTable", "ParsedFlag", "latest", "render", "split"]

MOST_WORDS: Final = 256
MOST_BYTES: Final = 256 * 1024
_LIKENESS: Final = 0.8
_SHOWN: Final = 80
_PARAM: Final = "runtime-flags"
_RAW_PARAM: Final = "raw-runtime-flags"
_DIGITS: Final = frozenset("0123456789")
_LAYOUT: Final = frozenset("\n\r\t")


@attrs.frozen(kw_only=True)
class Flag:
    """One flag of an engine.

    Attributes:
        names: Its spellings, the clearest first.
        kind: What its value is; ``None`` for a switch.
        off_names: The twins of a switch that turn it off.
        slot: What it sets. A later use of any flag with the same slot replaces an earlier one.
        collects: Uses add up instead.
        setting: The typed setting that says the same, by its name in JSON (``context-size``).
        help: One line for people.
    """

    names: tuple[str, ...]
    kind: Kind | None = None
    off_names: tuple[str, ...] = ()
    slot: str = attrs.field(default=attrs.Factory(lambda self: self.names[0], takes_self=True))
    collects: bool = False
    setting: str = ""
    help: str = ""


@attrs.frozen
class ParsedFlag:
    """One use of a flag, under the name that was used."""

    flag: Flag
    name: str
    value: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """As an engine is given it: the value is a word of its own."""
        return (self.name,) if self.value is None else (self.name, self.value)

    @property
    def off(self) -> bool:
        """Whether a switch is turned off."""
        return self.name in self.flag.off_names


@attrs.frozen
class FlagTable:
    """The flags that an engine may be given. ``withheld`` names others it has, with the reason where one helps."""

    backend: str
    flags: tuple[Flag, ...]
    withheld: Mapping[str, str] = attrs.field(factory=dict)
    _by_name: Mapping[str, Flag] = attrs.field(init=False, repr=False, eq=False)

    @_by_name.default
    def _index(self) -> Mapping[str, Flag]:
        names: dict[str, Flag] = {}
        for flag in self.flags:
            for name in (*flag.names, *flag.off_names):
                if name in names or name in self.withheld:
                    raise PluginError(f"the flag table of {self.backend!r} has {name!r} twice")
                names[name] = flag
        return MappingProxyType(names)

    @property
    def names(self) -> frozenset[str]:
        """Every spelling of every flag."""
        return frozenset(self._by_name)

    def find(self, name: str) -> Flag | None:
        """The flag of this name; both ``-`` and ``_`` are taken within a long name, as engines do."""
        return self._by_name.get(_canonical(name))

    def nearest(self, name: str) -> str | None:
        """The flag that was probably meant."""
        if _canonical(name) in self.withheld:
            return None
        found = difflib.get_close_matches(name.lower()[:64], self._by_name, 1, _LIKENESS)
        return found[0] if found else None

    def use(self, name: str, value: str | None = None) -> ParsedFlag:
        """A use of a flag by the plugin itself, whose values need no check."""
        return ParsedFlag(self._by_name[name], name, value)

    def parse(self, words: Sequence[str], *, unknown: Callable[[str], None] | None = None) -> tuple[ParsedFlag, ...]:
        """Read ``--flag value``, ``--flag=value`` and switches, in any mixture.

        ``unknown`` is told of flags that are not in the table; unless it raises they are passed on, with the next word
        as their value if that looks like one.

        Raises:
            InvalidConfigurationError: names the flag, what is wrong with it and what is allowed.
        """
        _check_size(words)
        parsed: list[ParsedFlag] = []
        position = 0
        while position < len(words):
            word = words[position]
            position += 1
            if not _is_flag(word):
                raise self._stray(word, parsed[-1] if parsed else None)
            given, equals, attached = word.partition("=")
            name = _canonical(given)
            flag = self._by_name.get(name)
            following = words[position] if position < len(words) else None
            if flag is None:
                if unknown is None:
                    raise self._not_allowed(given)
                unknown(given)
                flag = Flag(names=(name,), collects=True)
                takes = not equals and following is not None and not _is_flag(following)
            elif flag.kind is None:
                if equals:
                    raise _invalid(f"runtime flag {_quoted(name)} takes no value, and {_quoted(attached)} was given")
                takes = False
            else:
                takes = not equals
                if takes and (following is None or _is_flag(following)):
                    raise _missing(name, flag.kind, following)
            value = attached if equals else following if takes else None
            position += takes
            if value is not None:
                _check_value(name, flag.kind, value, word if equals else value)
            parsed.append(ParsedFlag(flag, name, value))
        return tuple(parsed)

    def settings_from_flags(self, words: Sequence[str]) -> Mapping[str, ParsedFlag]:
        """The typed settings that these flags decide, by the setting's name, with the flag that has the last word.

        Raises:
            InvalidConfigurationError: as :meth:`parse`.
        """
        return {use.flag.setting: use for use in self.parse(words) if use.flag.setting}

    def _not_allowed(self, given: str) -> InvalidConfigurationError:
        text = f'runtime flag {_quoted(given)} is not allowed for backend "{self.backend}"'
        reason = self.withheld.get(_canonical(given))
        if reason:
            return _invalid(f"{text}: {reason}")
        meant = self.nearest(given)
        return _invalid(f'{text}: did you mean "{meant}"?' if meant else text)

    def _stray(self, word: str, before: ParsedFlag | None) -> InvalidConfigurationError:
        if _names_place(word):
            return _escapes(word)
        if before is None:
            return _invalid(f"runtime flags begin with the value {_quoted(word)}: name the flag it belongs to first")
        if before.flag.kind is None:
            return _invalid(f"runtime flag {_quoted(before.name)} takes no value, and {_quoted(word)} follows it")
        return _invalid(
            f"runtime flag {_quoted(before.name)} takes one value, and {_quoted(word)} follows it; "
            "a value with spaces has to be quoted"
        )


def latest(uses: Iterable[ParsedFlag]) -> tuple[ParsedFlag, ...]:
    """Each slot once, as its last use has it and where that stands; flags that collect are all kept."""
    uses = tuple(uses)
    last = {use.flag.slot: index for index, use in enumerate(uses)}
    return tuple(use for index, use in enumerate(uses) if use.flag.collects or last[use.flag.slot] == index)


def render(uses: Iterable[ParsedFlag]) -> tuple[str, ...]:
    """The words for an argument vector."""
    return tuple(word for use in uses for word in use.words)


def split(text: str) -> tuple[str, ...]:
    """Words of raw flags, as a shell would split them; nothing is expanded, and no operator is known.

    Raises:
        InvalidConfigurationError: a quote is never closed, or the text is too long to be looked at.
    """
    if len(text) > MOST_BYTES:
        raise InvalidConfigurationError(
            f"raw runtime flags of {len(text)} characters are too long: give at most {MOST_BYTES}", param=_RAW_PARAM
        )
    try:
        return tuple(shlex.split(text))
    except ValueError as exc:
        raise InvalidConfigurationError(f"invalid runtime flags: {exc}", param=_RAW_PARAM) from exc


def _canonical(name: str) -> str:
    return name.replace("_", "-") if name.startswith("--") else name


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word[1:2] not in _DIGITS


def _names_place(value: str) -> bool:
    return "/" in value or "\\" in value


def _check_size(words: Sequence[str]) -> None:
    if len(words) > MOST_WORDS:
        raise _invalid(f"{len(words)} runtime flags and values are too many: give at most {MOST_WORDS}")
    try:
        total = sum(len(word.encode()) for word in words)
    except UnicodeEncodeError:
        raise _invalid("invalid runtime flags: they hold half a character (a lone surrogate)") from None
    if total > MOST_BYTES:
        raise _invalid(f"runtime flags of {total} bytes are too long: give at most {MOST_BYTES}")


def _check_value(name: str, kind: Kind | None, value: str, word: str) -> None:
    """``kind`` is ``None`` for a flag that is in no table; its value must be no flag either."""
    if _is_flag(value):
        raise _invalid(f"invalid flag {_quoted(word)}: value cannot start with '-' unless followed by a digit")
    if kind is None:
        return
    if len(value.encode()) > kind.limit:
        raise _invalid(
            f"the value of runtime flag {_quoted(name)} is longer than {kind.limit} bytes: use {kind.expected}"
        )
    allowed = _LAYOUT if kind.prose else frozenset()
    if any((character < " " or "\x7f" <= character <= "\x9f") and character not in allowed for character in value):
        raise _invalid(f"invalid runtime flag {_quoted(word)}: control characters are not allowed")
    if _names_place(value) and not kind.prose:
        raise _escapes(word)
    if not kind.accepts(value):
        raise _invalid(f"invalid value {_quoted(value)} for runtime flag {_quoted(name)}: use {kind.expected}")


def _missing(name: str, kind: Kind, following: str | None) -> InvalidConfigurationError:
    text = f"runtime flag {_quoted(name)} needs a value: {kind.expected}"
    if following is None:
        return _invalid(text)
    return _invalid(f"{text}; {_quoted(following)} is none: value cannot start with '-' unless followed by a digit")


def _escapes(word: str) -> InvalidConfigurationError:
    return _invalid(f"invalid runtime flag {_quoted(word)}: paths are not allowed (contains '/' or '\\')")


def _invalid(message: str) -> InvalidConfigurationError:
    return InvalidConfigurationError(message, param=_PARAM)


def _quoted(text: str) -> str:
    """In double quotes and one line; only what says what was meant of a long text."""
    return '"' + json.dumps(text[:_SHOWN], ensure_ascii=False)[1:-1] + ("…" if len(text) > _SHOWN else "") + '"'
