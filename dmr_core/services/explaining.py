"""What a model would be loaded with: each value, where it comes from, and what the engine would be started as."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import attrs

from dmr_core.domain.acceleration import Accelerator, GpuRequirement
from dmr_core.domain.engine import EngineConfig, EngineMode, RunnerKey
from dmr_core.domain.engine_document import engine_document
from dmr_core.domain.keep_alive import DEFAULT_KEEP_ALIVE, KeepAlive
from dmr_core.domain.provenance import Claim, Setting, Source, decide
from dmr_core.domain.redaction import redact_json
from dmr_core.ports.engine import Argument, LaunchRequest
from dmr_core.services.backends import BackendService
from dmr_core.services.inference import InferenceService
from dmr_core.services.launching import LaunchingService
from dmr_core.services.scheduling.lease import RunnerView
from dmr_core.services.scheduling.scheduler import Scheduler

__all__ = ["ExplainingService", "Explanation", "RunningExplanation", "needs_restart"]

_CONTEXT: Final = "context-size"
_KEEP_ALIVE: Final = "keep_alive"
_CONCURRENCY: Final = "max-concurrency"
_REQUIRE: Final = "require"
_HIDDEN: Final = "***"


@attrs.frozen(kw_only=True)
class RunningExplanation:
    """A runner there is. ``restart_pending``: what it was started as is not what it would be started as now."""

    view: RunnerView
    argv: tuple[str, ...]
    restart_pending: bool


@attrs.frozen(kw_only=True)
class Explanation:
    """Settings of one model in one mode. ``argv`` is empty for an engine that cannot tell."""

    name: str
    key: RunnerKey
    reason: str
    settings: tuple[Setting, ...]
    argv: tuple[str, ...]
    running: tuple[RunningExplanation, ...]


@attrs.frozen(kw_only=True)
class ExplainingService:
    """Tells where every value comes from.

    ``keep_alive`` is the operator's, and ``keep_alive_set`` whether they said it.
    """

    inference: InferenceService
    launching: LaunchingService
    backends: BackendService
    scheduler: Scheduler
    keep_alive: KeepAlive
    keep_alive_set: bool = False
    accelerator: Accelerator = attrs.field(factory=Accelerator)

    async def explain(self, name: str, mode: EngineMode, backend: str | None = None) -> Explanation:
        """How a model is, or would be, loaded. Unpacks it, as loading would; starts nothing.

        Raises:
            ModelNotFoundError, BackendNotFoundError, UnsupportedFormatError, BackendNotInstalledError: as for
                :meth:`InferenceService.plan`.
            DmrError: it could not be loaded.
        """
        plan = self.inference.plan(name, mode, backend)
        key = plan.key
        configuration = self.inference.configuration
        config = configuration.effective((key.backend, key.model_id, key.mode))
        request = await self.launching.request(key, plan.alias, config)
        arguments = self.backends.get(key.backend).engine.arguments(request)
        views = [view for view in self.scheduler.runners() if _same(view.key, key)]
        settings = chain(
            _of_arguments(arguments) if arguments else _of_config(request),
            _unrendered(request, arguments),
            self._of_runners(config, next((view for view in views if view.key == key), None)),
        )
        return Explanation(
            name=name,
            key=key,
            reason=plan.reason,
            settings=tuple(sorted(map(_without_secret, settings), key=lambda setting: setting.name.lstrip("-"))),
            argv=_without_secrets([word for one in arguments for word in one.words]),
            running=tuple(
                RunningExplanation(
                    view=view,
                    argv=_without_secrets(view.argv),
                    restart_pending=view.key != key or needs_restart(arguments, view.argv),
                )
                for view in views
            ),
        )

    def _of_runners(self, config: EngineConfig, view: RunnerView | None) -> Iterator[Setting]:
        """What is no matter of the engine's: how long a runner is kept, and how much it answers at once."""
        claims = [Claim(str(DEFAULT_KEEP_ALIVE), Source.DEFAULT)]
        if self.keep_alive_set or self.keep_alive != DEFAULT_KEEP_ALIVE:
            claims.append(Claim(str(self.keep_alive), Source.ENVIRONMENT, "DMR_KEEP_ALIVE"))
        if config.keep_alive is not None:
            claims.append(Claim(str(config.keep_alive), Source.CONFIGURATION))
        configured = config.keep_alive or self.keep_alive
        if view is not None and view.keep_alive != configured:
            claims.append(Claim(str(view.keep_alive), Source.REQUEST))
        yield decide(_KEEP_ALIVE, claims)
        claims = [Claim("unlimited", Source.DEFAULT)]
        if config.concurrency is not None:
            claims.append(Claim(str(config.concurrency), Source.CONFIGURATION))
        yield decide(_CONCURRENCY, claims)
        claims = [Claim(GpuRequirement.NONE.value, Source.DEFAULT)]
        if config.require is not None:
            claims.append(Claim(config.require.value, Source.CONFIGURATION))
        yield decide(_REQUIRE, claims)
        source = Source.ENVIRONMENT if self.accelerator.forced else Source.RUNNER
        yield decide("accelerator", [Claim(self.accelerator.variant, source, self.accelerator.reason)])


def needs_restart(arguments: Sequence[Argument], argv: Sequence[str]) -> bool:
    """Whether ``argv`` is not what ``arguments`` say, but for words that are others at every start.

    Never for an engine that cannot tell, or a runner that has no argument vector.
    """
    if not arguments or not argv:
        return False
    expected = [(word, one.changes and index > 0) for one in arguments for index, word in enumerate(one.words)]
    return len(expected) != len(argv) or any(
        word != actual and not changes for (word, changes), actual in zip(expected, argv, strict=True)
    )


def _same(one: RunnerKey, other: RunnerKey) -> bool:
    """Whether two runners are of one configuration; they may differ in the draft model."""
    return attrs.evolve(one, draft_id=None) == attrs.evolve(other, draft_id=None)


def _of_arguments(arguments: Sequence[Argument]) -> Iterator[Setting]:
    for one in arguments:
        if one.setting:
            yield Setting(one.setting, one.claim, one.overrode)


def _of_config(request: LaunchRequest) -> Iterator[Setting]:
    """What is known of the settings of an engine that does not tell what becomes of them."""
    for name, value in _flat(engine_document(request.config)):
        claims = [Claim(value, Source.CONFIGURATION)]
        packaged = request.model.config.context_size
        if name == _CONTEXT and packaged is not None:
            artifact = Claim(str(packaged), Source.ARTIFACT, "context_size")
            claims = [artifact] if _CONTEXT in request.packaged else [artifact, *claims]
        if name not in (_KEEP_ALIVE, _CONCURRENCY, _REQUIRE):
            yield decide(name, claims)


def _unrendered(request: LaunchRequest, arguments: Sequence[Argument]) -> Iterator[Setting]:
    """Settings of which an engine's arguments show nothing: they are left to the engine."""
    shown = {one.setting for one in arguments}
    if _CONTEXT in shown or (not arguments and request.config.context_size is not None):
        return
    claims = [Claim("the engine's own", Source.DEFAULT)]
    configured = None if _CONTEXT in request.packaged else request.config.context_size
    if configured is not None:
        packaged = request.model.config.context_size
        claims += [] if packaged is None else [Claim(str(packaged), Source.ARTIFACT, "context_size")]
        claims.append(Claim(str(configured), Source.CONFIGURATION))
    yield decide(_CONTEXT, claims)


def _flat(document: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield prefix + name, " ".join(map(str, value))
        else:
            yield prefix + name, str(value)


def _without_secrets(argv: Sequence[str]) -> tuple[str, ...]:
    """``argv`` without the values of flags that are named like secrets."""
    shown: list[str] = []
    secret = False
    for word in argv:
        name, equals, value = word.partition("=")
        if secret and not word.startswith("--"):
            shown.append(_HIDDEN)
        elif equals and word.startswith("-") and _is_secret(name):
            shown.append(f"{name}={_HIDDEN}" if value else word)
        else:
            shown.append(word)
        secret = word.startswith("-") and not equals and _is_secret(word)
    return tuple(shown)


def _without_secret(setting: Setting) -> Setting:
    """``setting`` without its values, if it is named like a secret."""
    if not _is_secret(setting.name):
        return setting
    overrode = tuple(attrs.evolve(claim, value=_HIDDEN) for claim in setting.overrode)
    return Setting(setting.name, attrs.evolve(setting.claim, value=_HIDDEN), overrode)


def _is_secret(flag: str) -> bool:
    name = flag.lstrip("-")
    return bool(redact_json({name: "value"}) != {name: "value"})
