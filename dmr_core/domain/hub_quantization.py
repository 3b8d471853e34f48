"""Which of a repository's GGUF files a tag means. Nothing is ever put in the place of what was asked for.

Repositories hold one model many times, quantized differently; which is which, only names tell:
``m-Q4_K_M.gguf``, ``m.i1-IQ2_XXS.gguf``, ``UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00003.gguf``, ``BF16/m.gguf``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from dmr_core.domain.files import Shard
from dmr_core.domain.hub_reference import HubReference
from dmr_core.domain.hub_repository import HubFile
from dmr_core.errors import MalformedArtifactError, RemoteModelNotFoundError

__all__ = ["Quantized", "is_projector", "preferred_projector", "quantization_in", "quantized", "select_quantized"]

# What stands before a label (unsloth's "UD-", mradermacher's "i1-") makes another file of the same type.
_LABEL: Final = re.compile(
    r"(?<![A-Za-z0-9])(?P<variant>UD-|i1-)?"
    r"(?P<base>(?:I?Q|TQ)[1-9](?:_[A-Za-z0-9]{1,3})*|BF16|FP?16|FP?32|FP8|MXFP4(?:_MOE)?|NVFP4)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SAME: Final = {"FP16": "F16", "FP32": "F32"}
_SUFFIX: Final = ".gguf"
_PROJECTOR: Final = "mmproj"
_STATISTICS: Final = "imatrix"
_PROJECTOR_ORDER: Final = ("F16", "BF16", "F32", "Q8_0")
# Nearest to four bits first: that is where size and quality meet on most machines.
_BITS_ORDER: Final = ("4", "5", "6", "8", "3", "2", "16", "1", "32")
_KIND_ORDER: Final = ("K_M", "K_XL", "K_L", "K_S", "K", "NL", "XS", "0", "1")
_LISTED: Final = 30


@attrs.frozen(kw_only=True)
class Quantized:
    """One quantization: a file, or all the shards of one in order.

    ``label`` says how it is quantized, as in ``UD-Q4_K_XL``; ``""`` where no name tells. ``stem`` is the
    file's name without shard number and extension.
    """

    label: str
    stem: str
    files: tuple[HubFile, ...]

    @property
    def shown(self) -> str:
        """How to call it: by its label, else by its name."""
        return self.label or self.stem


def quantization_in(text: str) -> str:
    """The last label in a name, ``""`` where there is none."""
    every = tuple(_LABEL.finditer(text))
    if not every:
        return ""
    found = every[-1]
    variant = {"": "", "ud-": "UD-", "i1-": "i1-"}[(found["variant"] or "").lower()]
    return variant + found["base"].upper()


def is_projector(file: HubFile) -> bool:
    """Whether a GGUF holds the multimodal projector of a model instead of a model."""
    return _PROJECTOR in file.name.lower()


def quantized(files: Iterable[HubFile]) -> tuple[Quantized, ...]:
    """The models among a repository's GGUF files, shards put together, in the order of their paths.

    Raises:
        MalformedArtifactError: a shard is missing.
    """
    groups: dict[tuple[str, ...], list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        stem = file.name[: -len(_SUFFIX)]
        shard = Shard.of(file.name)
        if shard is not None and shard.is_consistent:
            groups.setdefault((*file.directories, shard.prefix, str(shard.total)), []).append(file)
        elif not is_projector(file) and (_STATISTICS not in stem.lower() or quantization_in(stem)):
            groups.setdefault((*file.directories, stem, ""), []).append(file)
    return tuple(
        Quantized(label=_label(key), stem=key[-2], files=tuple(members))
        for key, members in groups.items()
        if not is_projector(members[0])
    )


def select_quantized(choices: Sequence[Quantized], reference: HubReference) -> Quantized:
    """The one that ``reference`` means; without a selector the preferred one (see :func:`_preference`).

    Raises:
        RemoteModelNotFoundError: none is called so, or more than one is; lists those there are.
        MalformedArtifactError: the repository has not all its shards.
    """
    chosen = _named(choices, reference) if reference.selector else _default(choices, reference)
    _check_whole(chosen, reference)
    return chosen


def preferred_projector(files: Iterable[HubFile], beside: HubFile) -> HubFile | None:
    """The projector to use with the model in ``beside``: from its directory if that has one, F16 before BF16."""

    def order(file: HubFile) -> tuple[bool, int, str]:
        label = _key(quantization_in(file.name))
        precision = _PROJECTOR_ORDER.index(label) if label in _PROJECTOR_ORDER else len(_PROJECTOR_ORDER)
        return file.directories != beside.directories, precision, file.path.text

    return min(filter(is_projector, files), key=order, default=None)


def _label(key: tuple[str, ...]) -> str:
    """From the file's name, else from the nearest directory whose name has one."""
    *directories, stem, _total = key
    return next(filter(None, map(quantization_in, (stem, *reversed(directories)))), "")


def _key(label: str) -> str:
    upper = label.upper()
    return _SAME.get(upper, upper)


def _base(label: str) -> str:
    return _key(label.upper().removeprefix("UD-").removeprefix("I1-"))


def _named(choices: Sequence[Quantized], reference: HubReference) -> Quantized:
    selector = reference.selector
    wanted = _key(selector)
    token = re.compile(rf"(?<![A-Za-z0-9]){re.escape(selector)}(?![A-Za-z0-9_])", re.IGNORECASE)
    is_label = bool(_LABEL.fullmatch(selector))
    ways: tuple[Callable[[Quantized], bool], ...] = (
        lambda choice: choice.stem.lower() == selector.lower(),
        lambda choice: _key(choice.label) == wanted,
        lambda choice: bool(choice.label) and _base(choice.label) == wanted,
        lambda choice: not is_label and bool(token.search(_LABEL.sub(" ", choice.files[0].path.text))),
    )
    for fits in ways:
        found = [choice for choice in choices if fits(choice)]
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(found, reference, f"{selector!r} names {len(found)} models there")
    begun = [choice for choice in choices if _base(choice.label).startswith(wanted + "_")]
    if begun:
        raise RemoteModelNotFoundError(
            str(reference), f"{selector!r} is not the whole name of a quantization: give one of {_list(begun)}"
        )
    raise RemoteModelNotFoundError(
        str(reference), f"the repository has no quantization {selector!r}; it has {_list(choices)}"
    )


def _default(choices: Sequence[Quantized], reference: HubReference) -> Quantized:
    ranked = sorted(choices, key=_preference)
    best = [choice for choice in ranked if _key(choice.label) == _key(ranked[0].label)]
    if len(best) > 1:
        raise _ambiguous(best, reference, f"the repository holds {len(best)} models")
    return best[0]


def _preference(choice: Quantized) -> tuple[int, int, bool, str]:
    """Bits, then kind, then plain labels before variants; what has no label comes last."""
    base = _base(choice.label)
    digits = re.search(r"[0-9]+", base)
    bits = digits[0] if digits else ""
    kind = base.partition("_")[2]
    return (
        _BITS_ORDER.index(bits) if bits in _BITS_ORDER else len(_BITS_ORDER),
        _KIND_ORDER.index(kind) if kind in _KIND_ORDER else len(_KIND_ORDER),
        _key(choice.label) != base,
        choice.files[0].path.text,
    )


def _check_whole(chosen: Quantized, reference: HubReference) -> None:
    shard = Shard.of(chosen.files[0].name)
    if shard is None or not shard.is_consistent:
        return
    present = {file.name for file in chosen.files}
    missing = next((name for name in shard.names if name not in present), None)
    if missing is not None:
        raise MalformedArtifactError(
            f"{str(reference)!r} is not complete: the repository has {len(present)} of {shard.total} shards,"
            f" {missing!r} is missing"
        )


def _ambiguous(found: Sequence[Quantized], reference: HubReference, problem: str) -> RemoteModelNotFoundError:
    stems = [choice.stem for choice in found]
    names = stems if len(set(stems)) == len(stems) else [choice.files[0].path.text for choice in found]
    shown = ", ".join(names[:_LISTED])
    return RemoteModelNotFoundError(
        str(reference), f"{problem}: give the name of one as the tag, hf.co/{reference.repository}:NAME, of {shown}"
    )


def _list(choices: Iterable[Quantized]) -> str:
    names = list(dict.fromkeys(choice.shown for choice in sorted(choices, key=_preference)))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
