"""Why a model is, or is not, in memory: what ``dmr why`` tells. It only looks, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.memory import Capacity, Memory, binary_size
from dmr_core.errors import DmrError, ModelNotFoundError
from dmr_core.ports.clock import Clock
from dmr_core.services.catalog import CatalogService
from dmr_core.services.scheduling.history import Decision
from dmr_core.services.scheduling.lease import RunnerView, WaitingView
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.scheduling.state import Phase, Setback

__all__ = ["DiagnosingService", "Diagnosis", "describe", "span"]

_SHOWN: Final = 10
_SCALES: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
# What the scheduler is told when somebody unloads a model, in words.
_REASONS: Final = {
    "unload": "somebody asked for that",
    "reconfigured": "its settings were changed",
    "removed": "it was removed from the store",
}
_TELLING: Final = 0.05  # less than that of anything is not worth a word
_FAILED: Final = ("failed", "crashed", "refused")
_ENDED: Final = ("evicted", "unloaded", "refused", "failed", "crashed")


@attrs.frozen(kw_only=True)
class Diagnosis:
    """How things stand with a model.

    ``state`` is one of ``loaded``, ``loading``, ``waiting``, ``failing``, ``evicted``, ``unloaded``, ``refused``,
    ``failed``, ``crashed``, ``never`` (asked for), ``unservable`` and ``absent`` (from the store). ``sentences`` say
    the same to people, with numbers. ``decisions`` are the latest, oldest first; ``now`` is seconds since the epoch.
    """

    name: str
    state: str
    sentences: tuple[str, ...]
    now: float
    monotonic: float
    model_id: Digest | None = None
    runners: tuple[RunnerView, ...] = ()
    waiting: tuple[WaitingView, ...] = ()
    decisions: tuple[Decision, ...] = ()


@attrs.frozen(kw_only=True)
class DiagnosingService:
    """Puts together what the catalog, the backends and the scheduler know.

    ``servable`` raises why a model, by its name and mode, has no backend that could serve it.
    """

    catalog: CatalogService
    scheduler: Scheduler
    clock: Clock
    servable: Callable[[str, EngineMode], object]

    async def diagnose(self, name: str, mode: EngineMode | None = None) -> Diagnosis:
        """How things stand with the model ``name`` in ``mode``, or in all modes.

        Raises:
            InvalidReferenceError: ``name`` can be no name.
        """
        try:
            model_id: Digest | None = (await self.catalog.find_fresh(name)).id
        except ModelNotFoundError:
            model_id = None

        def concerns(key: RunnerKey, alias: str) -> bool:
            named = key.model_id == model_id if model_id is not None else alias == name
            return named and mode in (None, key.mode)

        scheduler = self.scheduler
        diagnosis = Diagnosis(
            name=name,
            state="",
            sentences=(),
            now=self.clock.time(),
            monotonic=self.clock.monotonic(),
            model_id=model_id,
            runners=tuple(view for view in scheduler.runners() if concerns(view.key, view.alias)),
            waiting=tuple(view for view in scheduler.waiting() if concerns(view.key, view.alias)),
            decisions=tuple(d for d in scheduler.history.of() if concerns(d.key, d.alias))[-_SHOWN:],
        )
        failing = bool(diagnosis.decisions) and diagnosis.decisions[-1].what in _FAILED
        setbacks = {
            key: setback
            for key, setback in scheduler.setbacks.items()
            if concerns(key, "") and (failing or setback.retry_at > diagnosis.monotonic)
        }
        state, sentences = self._findings(diagnosis, setbacks, mode or EngineMode.COMPLETION)
        if model_id is not None:
            drafted = [view.alias for view in scheduler.runners() if view.key.draft_id == model_id]
            sentences += [f"It is in memory as the draft model of {alias!r}." for alias in drafted]
        sentences += _memory_sentence(scheduler.capacity, scheduler.runners())
        return attrs.evolve(diagnosis, state=state, sentences=tuple(sentences))

    def _findings(
        self, diagnosis: Diagnosis, setbacks: Mapping[RunnerKey, Setback], mode: EngineMode
    ) -> tuple[str, list[str]]:
        """The state, and the sentences from the most to the least pressing."""
        sentences: list[str] = []
        states: list[str] = []
        if diagnosis.model_id is None:
            states.append("absent")
            sentences.append(
                f"There is no model {diagnosis.name!r} in the store. Pull it with: dmr pull {diagnosis.name}"
            )
        for view in diagnosis.runners:
            states.append("loading" if view.phase is Phase.LOADING else "loaded")
            sentences += _runner_sentences(view, diagnosis.monotonic)
        if diagnosis.waiting:
            states.append("waiting")
            sentences += _waiting_sentences(diagnosis.waiting, diagnosis.monotonic)
        for setback in setbacks.values():
            states.append("failing")
            sentences.append(_setback_sentence(setback, diagnosis.monotonic, again=not diagnosis.runners))
        if not states and (reason := self._unservable(diagnosis.name, mode)):
            states.append("unservable")
            sentences.append(f"It cannot be served: {reason}")
        ended = next((decision for decision in reversed(diagnosis.decisions) if decision.what in _ENDED), None)
        if ended is not None and not diagnosis.runners and not setbacks:
            states.append(ended.what)
            sentences.append(_ended_sentence(ended, diagnosis.now))
        if not states:
            states.append("never")
            sentences.append(
                "It is not in memory, and nobody asked for it lately. The next request for it loads it; "
                f"so does: dmr run {diagnosis.name}"
            )
        return _chosen(states), sentences

    def _unservable(self, name: str, mode: EngineMode) -> str:
        try:
            self.servable(name, mode)
        except DmrError as exc:
            return exc.message
        return ""


def span(seconds: float) -> str:
    """A span of time, as short as it can be said: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    size, unit, smaller, small = next(scale for scale in _SCALES if whole >= scale[0])
    rest = whole % size // smaller
    return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")


def describe(decision: Decision) -> str:
    """Why something was decided, and by which figures."""
    why = _REASONS.get(decision.why, decision.why) if decision.what == "unloaded" else decision.why
    figures = ", ".join(
        f"{_words(name)} {_figure(name, value)}" for name, value in decision.numbers.items() if value >= _TELLING
    )
    return f"{why} ({figures})" if why and figures else why or figures


def _words(name: str) -> str:
    return name.removesuffix("_bytes").removesuffix("_seconds").replace("_", " ")


def _figure(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return binary_size(int(value))
    return span(value) if name.endswith("_seconds") else f"{value:g}"


def _chosen(states: list[str]) -> str:
    """The state that says most: what is so now comes before what was."""
    order = ("loaded", "loading", "failing", "waiting", "absent", "unservable", *_ENDED, "never")
    return min(states, key=order.index)


def _runner_sentences(view: RunnerView, now: float) -> list[str]:
    where = f"on {view.key.backend}, for {view.key.mode.value}"
    if view.phase is Phase.LOADING:
        needs = f"; {_amount(view.needs)} are set aside for it" if view.needs else ""
        return [f"It is being loaded {where}, as {view.alias!r}, for {span(now - view.since)} so far{needs}."]
    took = f" Loading took {span(view.load_seconds)}." if view.load_seconds is not None else ""
    said = [f"It is in memory {where}, since {span(now - view.since)}, loaded as {view.alias!r}.{took}"]
    if view.footprint is not None:
        said.append(f"It uses {_amount(view.footprint.memory)}; {_amount(view.needs)} are set aside for it.")
    elif view.needs:
        said.append(f"{_amount(view.needs)} are set aside for it.")
    if view.phase is Phase.RETIRING:
        said.append(f"It makes room once it has finished the {_count(view.leases, 'answer')} it is giving.")
    elif view.idle_since is None:
        said.append(f"It is answering {_count(view.leases, 'request')}.")
    else:
        idle = now - view.idle_since
        left = view.keep_alive.seconds - idle
        until = (
            "It stays until somebody unloads it" if view.keep_alive.is_forever else f"It is unloaded in {span(left)}"
        )
        said.append(f"Nobody has used it for {span(idle)}. {until} (keep-alive {view.keep_alive}).")
    return said


def _waiting_sentences(waiting: tuple[WaitingView, ...], now: float) -> list[str]:
    first = waiting[0]
    many = f"{_count(len(waiting), 'request')} for it {'waits' if len(waiting) == 1 else 'wait'}"
    place = f"the first is number {first.position} in the queue and has waited {span(now - first.since)}"
    return [f"{many}; {place}. It waits for {first.waits_for}."]


def _setback_sentence(setback: Setback, now: float, *, again: bool) -> str:
    reason = setback.error.message.partition("\n")[0]
    left = setback.retry_at - now
    when = f"It is not started again for {span(left)}." if left > 0 else "The next request starts it again."
    times = "once" if setback.failures == 1 else f"{setback.failures} times in a row"
    said = f"It failed {times}, last {span(now - setback.at)} ago: {reason.rstrip('.')}."
    return f"{said} {when}" if again else said


def _ended_sentence(decision: Decision, now: float) -> str:
    ago = span(now - decision.at)
    why = describe(decision)
    match decision.what:
        case "evicted" | "unloaded":
            return f"It was {decision.what} {ago} ago" + (f": {why}." if why else ".")
        case "refused":
            return f"A request for it was refused {ago} ago: {why}"
        case what:
            return f"It {what} {ago} ago: {why}"


def _memory_sentence(capacity: Capacity, runners: tuple[RunnerView, ...]) -> list[str]:
    reserved = Memory()
    for view in runners:
        reserved += view.needs
    limits = [
        f"{binary_size(limit)} of {kind} ({binary_size(used)} are set aside)"
        for kind, limit, used in (
            ("memory", capacity.host, reserved.host),
            ("accelerator memory", capacity.device, reserved.device),
        )
        if limit is not None
    ]
    return [f"All models together may have {' and '.join(limits)}."] if limits else []


def _amount(memory: Memory) -> str:
    if not memory.device:
        return binary_size(memory.host)
    return f"{binary_size(memory.host)} and {binary_size(memory.device)} of accelerator memory"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
