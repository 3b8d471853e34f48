"""Which backend a model gets, and why. Pure: what is installed, and where we are, is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from dmr_core.domain.artifact import Format
from dmr_core.domain.engine import EngineMode
from dmr_core.errors import BackendNotInstalledError, DmrError, UnsupportedFormatError, UnsupportedOperationError
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.engine import Engine

__all__ = ["DEFAULT_BACKEND", "Backend", "Candidate", "Choice", "platform_text", "select", "works_on"]

DEFAULT_BACKEND: Final = "llama.cpp"
"""Who serves a model that no backend claims by its format."""

_DOING: Final = {
    EngineMode.COMPLETION: "complete text",
    EngineMode.EMBEDDING: "make embeddings",
    EngineMode.RERANKING: "rank documents",
    EngineMode.IMAGE_GENERATION: "generate images",
}
_PLATFORMS: Final = {"linux": "Linux", "darwin": "macOS", "darwin/arm64": "Apple Silicon", "win32": "Windows"}


@attrs.frozen
class Backend:
    """A spec, and the engine its factory made."""

    spec: BackendSpec
    engine: Engine

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.spec.name


@attrs.frozen(kw_only=True)
class Candidate:
    """A backend as the choice sees it.

    ``here``: it works on this platform; ``usable``: its engine is installed; ``obtainable``: a request may have it
    installed, or somebody is at it; ``claims``: the model is one of those it claims by name, or keeps; ``keeper``: another
    backend that keeps the model, and alone can serve it; ``refusal``: why it cannot honour the settings, if they are known
    and it cannot; ``remedy``: what to do where it is not installed.
    """

    backend: Backend
    here: bool = True
    usable: bool = True
    obtainable: bool = False
    claims: bool = False
    keeper: str = ""
    refusal: DmrError | None = None
    remedy: str = "run `dmr status` for what is missing"

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.backend.name

    def reads(self, format: Format | None) -> bool:  # noqa: A002 - the domain's word
        """Whether it can read weights of this format; those of no known format go to whom they are given."""
        if self.claims:
            return True
        return format in self.backend.spec.formats if format else self.takes_anything

    @property
    def takes_anything(self) -> bool:
        """Whether a model of no known format may be tried on it."""
        spec = self.backend.spec
        return self.name == DEFAULT_BACKEND or (not spec.formats and spec.model_source is None)


@attrs.frozen
class Choice:
    """Who serves a model. ``reason`` is a token for programs, ``why`` the same in a sentence.

    The tokens: ``requested``, ``claimed``, ``format`` (nobody else reads it), ``mode``, ``platform``, ``settings``
    and ``only-installed`` (nobody else is left for that reason), ``priority`` (the best of several), ``default`` (the
    format is not known), ``on-demand`` (it has yet to be installed).
    """

    backend: Backend
    reason: str
    why: str

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.backend.name

    @property
    def engine(self) -> Engine:
        """The backend's engine."""
        return self.backend.engine


def works_on(spec: BackendSpec, platform: str) -> bool:
    """Whether a backend works on ``platform`` (``sys.platform/machine``); one that names none works on all."""
    return not spec.platforms or not platform or not spec.platforms.isdisjoint({platform, platform.partition("/")[0]})


def platform_text(platforms: Iterable[str]) -> str:
    """Platforms in words: ``Linux or Apple Silicon``."""
    return " or ".join(_PLATFORMS.get(name, name) for name in sorted(platforms, reverse=True))


def select(
    candidates: Sequence[Candidate],
    *,
    model: str,
    format: Format | None,  # noqa: A002 - the domain's word
    mode: EngineMode,
    requested: Candidate | None = None,
    lenient: bool = False,
) -> Choice:
    """Who serves ``model``: the one asked for, else the best that reads its format and can be used here.

    Who asks for a backend gets that one, or is told why it cannot be; ``lenient`` makes the request a preference.

    Raises:
        UnsupportedFormatError: nobody, or not the one asked for, reads the format, knows the mode, works here.
        InvalidConfigurationError: all who could refuse the settings.
        BackendNotInstalledError: somebody could, were it installed.
    """
    fit = _Fit(model, format, mode)
    if requested is not None:
        misfit = fit.misfit(requested)
        if misfit is None:
            return _ordered(requested)
        if not lenient:
            raise fit.refused(requested, misfit, candidates)
    return _best(candidates, fit)


def _ordered(requested: Candidate) -> Choice:
    if requested.refusal is not None:
        raise requested.refusal
    if not requested.usable and not requested.obtainable:
        raise _not_installed(requested)
    return Choice(requested.backend, "requested", f"{requested.name!r} was asked for")


def _best(candidates: Sequence[Candidate], fit: _Fit) -> Choice:
    pool = [candidate for candidate in candidates if candidate.claims]
    reason, why = "claimed", "it claims models of that name"
    if not pool:
        pool = fit.readers(candidates)
        reason, why = (
            ("format", f"nobody else reads {fit.format_text}")
            if fit.format
            else ("default", "the format of the model is not known")
        )
    if not pool:
        raise UnsupportedFormatError(
            f"no backend can serve {fit.model!r}: its format is {fit.format_text!r}; install a plugin that reads it"
        )
    for token, sentence, keep, failure in _filters(fit):
        kept = [candidate for candidate in pool if keep(candidate)]
        if not kept:
            raise failure(_ranked(pool))
        if len(kept) == 1 < len(pool):
            reason, why = token, sentence
        pool = kept
    usable = [candidate for candidate in pool if candidate.usable]
    if not usable:
        first = _ranked(pool)[0]
        return Choice(first.backend, "on-demand", f"{first.name!r} is installed for the first request")
    if len(usable) == 1 < len(pool):
        reason, why = "only-installed", "of those that could serve it, no other is installed"
    if len(usable) > 1:
        reason, why = "priority", f"it comes first of {', '.join(repr(one.name) for one in _ranked(usable))}"
    return Choice(_ranked(usable)[0].backend, reason, why)


_Filter = tuple[str, str, Callable[[Candidate], bool], Callable[[Sequence[Candidate]], DmrError]]


def _filters(fit: _Fit) -> tuple[_Filter, ...]:
    """What a backend must have besides reading the format: token, sentence, test, and the error if none passes it."""

    def no_mode(_pool: Sequence[Candidate]) -> DmrError:
        names = ", ".join(repr(one.name) for one in _ranked(_pool))
        return UnsupportedOperationError(
            f"no engine here can {_DOING[fit.mode]} with {fit.model!r}: of those that read its format ({names}) none claims "
            f"the mode {fit.mode.value!r}; install a plugin of an engine that does"
        )

    def elsewhere(pool: Sequence[Candidate]) -> DmrError:
        where = "; ".join(f"{one.name!r} works on {platform_text(one.backend.spec.platforms)} only" for one in pool)
        return UnsupportedFormatError(f"no backend can serve {fit.model!r} on this machine: {where}")

    def refused(pool: Sequence[Candidate]) -> DmrError:
        return next(one.refusal for one in pool if one.refusal is not None)

    def absent(pool: Sequence[Candidate]) -> DmrError:
        return _not_installed(pool[0])

    return (
        ("mode", f"nobody else knows the mode {fit.mode.value!r}", lambda one: fit.mode in fit.modes(one), no_mode),
        ("platform", "nobody else works on this machine", lambda one: one.here, elsewhere),
        ("settings", "nobody else can honour the settings", lambda one: one.refusal is None, refused),
        (
            "only-installed",
            "of those that could serve it, no other is installed",
            lambda one: one.usable or one.obtainable,
            absent,
        ),
    )


@attrs.frozen
class _Fit:
    """What is to be served."""

    model: str
    format: Format | None
    mode: EngineMode

    @property
    def format_text(self) -> str:
        return self.format.value if self.format else "unknown"

    def modes(self, candidate: Candidate) -> frozenset[EngineMode]:
        return candidate.backend.spec.modes

    def readers(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Who reads the format; a model of no known one goes to the default backend, or to those that take any."""
        found = [candidate for candidate in candidates if candidate.reads(self.format)]
        if self.format is None:
            return [one for one in found if one.name == DEFAULT_BACKEND] or found
        return found

    def misfit(self, candidate: Candidate) -> str | None:
        """What keeps a backend from serving it, whatever is installed."""
        spec = candidate.backend.spec
        if candidate.keeper and not candidate.claims:
            return f"the model is not in the store, {candidate.keeper!r} keeps it"
        if not candidate.reads(self.format):
            reads = ", ".join(sorted(known.value for known in spec.formats)) or "no format of files"
            return f"the model's format is {self.format_text!r}, and it reads {reads}"
        if self.mode not in spec.modes:
            return f"it does not know the mode {self.mode.value!r}, so it cannot {_DOING[self.mode]}"
        if not candidate.here:
            return f"it works on {platform_text(spec.platforms)} only"
        return None

    def refused(self, candidate: Candidate, misfit: str, candidates: Sequence[Candidate]) -> UnsupportedFormatError:
        others = [one for one in _ranked(candidates) if self.misfit(one) is None]
        if others:
            names = " or ".join(repr(one.name) for one in others)
            remedy = f"{names} can: leave the backend out of the request, or ask for that one"
        else:
            remedy = "no other backend here can either; install a plugin that does"
        reads = candidate.reads(self.format)
        kind = UnsupportedOperationError if reads and self.mode not in self.modes(candidate) else UnsupportedFormatError
        return kind(f"backend {candidate.name!r} cannot serve {self.model!r}: {misfit}; {remedy}")


def _ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda one: (-one.backend.spec.priority, one.name))


def _not_installed(candidate: Candidate) -> BackendNotInstalledError:
    return BackendNotInstalledError(candidate.name, candidate.remedy)
