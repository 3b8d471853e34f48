"""NIM containers as an engine: each model is an image, each runner a container of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs

from dmr_backends_nim.container import (
    IMAGE_LABEL,
    REFERENCE_LABEL,
    ROLE,
    ROLE_LABEL,
    USUAL_PORT,
    ContainerPlan,
    FoundContainer,
    legacy_name,
)
from dmr_backends_nim.diagnosis import ended, not_started, port_is_taken
from dmr_backends_nim.docker_engine import BACKEND, DockerEngine, DockerError, DockerUnreachableError
from dmr_backends_nim.http_client import NoAnswerError
from dmr_backends_nim.model_source import NO_GPU, NO_KEY
from dmr_backends_nim.output import ContainerOutput
from dmr_backends_nim.running import RunningContainer
from dmr_backends_nim.settings import NimSettings
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig
from dmr_core.domain.memory import Memory
from dmr_core.domain.reference import Reference, ReferencePolicy, parse_reference
from dmr_core.domain.secret import Secret
from dmr_core.errors import (
    EngineExitedError,
    EngineUnusableError,
    InvalidConfigurationError,
    InvalidReferenceError,
    ModelNotFoundError,
    UnsupportedFormatError,
)
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import Engine, LaunchRequest, MemoryRequest, RunningEngine

__all__ = ["NimEngine"]

_log: Final = logging.getLogger("dmr.nim")
_NVIDIA: Final = "nvidia"
_GRACE: Final = 5.0
_LAST_WORDS: Final = 2.0
_LINES: Final = 200


@attrs.define(eq=False)
class NimEngine(Engine):
    """Makes containers of images under the prefix, or takes those that are there, and of no others."""

    settings: NimSettings
    context: EngineContext
    docker: DockerEngine
    health_path: str = "/v1/health/ready"
    start_timeout: float | None = None
    _users: Counter[str] = attrs.field(factory=Counter)
    _leaving: bool = False
    _starting: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    def __attrs_post_init__(self) -> None:
        self.start_timeout = self.settings.start_timeout

    async def status(self) -> BackendStatus:
        """See :class:`Engine`."""
        try:
            version = await self.docker.ping()
        except DockerUnreachableError as exc:
            return BackendStatus(BackendState.NOT_INSTALLED, exc.remedy)
        except DockerError as exc:
            return BackendStatus(BackendState.ERROR, exc.message)
        gpus = "" if self._gpu else ", no NVIDIA GPU"
        return BackendStatus(BackendState.RUNNING, f"Docker Engine {version} at {self.settings.docker}{gpus}")

    def check(self, config: EngineConfig) -> None:
        """See :class:`Engine`."""
        if config.runtime_flags:
            raise InvalidConfigurationError(
                "a NIM takes no raw flags: it is a container with a command line of its own"
            )
        if config.speculative is not None:
            raise InvalidConfigurationError("a NIM chooses its own draft model; unset speculative")

    def estimate(self, request: MemoryRequest) -> Memory | None:
        """See :class:`Engine`. Its weights are not in the image, and only the container knows what it will need."""
        return Memory()

    async def left_running(self) -> tuple[str, ...]:
        """See :class:`Engine`."""
        try:
            listed = await self.docker.containers({"label": [f"{ROLE_LABEL}={ROLE}"], "status": ["running"]})
        except (DockerError, DockerUnreachableError):
            return ()
        names = (FoundContainer.label_of(entry, REFERENCE_LABEL) for entry in listed)
        return tuple(dict.fromkeys(name for name in names if self.settings.has(name)))

    def leave(self) -> None:
        """See :class:`Engine`."""
        self._leaving = self.settings.keep

    async def start(self, request: LaunchRequest) -> RunningEngine:
        """See :class:`Engine`.

        Raises:
            DockerUnreachableError: there is no Docker Engine.
            ModelNotFoundError: the image is gone.
            UnsupportedFormatError: the model is no image under the prefix.
            EngineUnusableError: the Docker Engine cannot run it; says why.
        """
        self.check(request.config)
        key = request.key or self.settings.key
        try:
            plan = await self._plan(request, key)
            if not plan.gpu:
                _log.warning("%s: %s", request.alias, NO_GPU)
            async with self._starting:  # else two starts would both find no container, and make two
                found, made = await self._container(plan)
                self._users[found.id] += 1
        except DockerError as exc:
            raise not_started(exc) from exc
        port = found.port
        assert port is not None  # noqa: S101 - _container looked
        return RunningContainer(
            docker=self.docker,
            container=found,
            port=port,
            made=made,
            expected=plan.reference.name.removeprefix(self.settings.prefix),
            let_go=self._let_go(found.id),
            secrets=(key,) if key else (),
        )

    # --- which container

    async def _container(self, plan: ContainerPlan) -> tuple[FoundContainer, bool]:
        """A container that runs, and whether it was started for this."""
        for found in await self._candidates(plan):
            if found.running and found.port is not None:
                _log.info("using the container %s, which runs", found.name)
                return found, False
            with suppress(DockerError):  # it may have been left with a port that somebody else has now
                await self.docker.start(found.id)
                again = await self.docker.container(found.id)
                if again is not None and FoundContainer(again).port is not None:
                    _log.info("started the container %s, which was there", found.name)
                    return FoundContainer(again), True
            if found.ours:
                await self.docker.remove(found.id)
        if not plan.key:
            _log.warning("%s: %s", plan.reference, NO_KEY)
        return await self._make(plan), True

    async def _candidates(self, plan: ContainerPlan) -> list[FoundContainer]:
        """Containers that would do, those of ours first.

        Ours that would not, for their settings or because their image has lost its name to this one, and that nobody uses,
        are removed.
        """
        suitable = []
        for entry in await self.docker.containers({"label": [f"{ROLE_LABEL}={ROLE}"]}):
            same_image = FoundContainer.label_of(entry, IMAGE_LABEL) == str(plan.image)
            same_name = FoundContainer.label_of(entry, REFERENCE_LABEL) == str(plan.reference)
            found = await self._look(str(entry.get("Id"))) if same_image or same_name else None
            if found is None or not found.ours:
                continue
            used = self._users[found.id] > 0
            if found.suits(plan) and (used or found.has_key(plan.key)):
                suitable.append(found)
            elif not used:
                _log.info("the container %s is of another image or other settings, and is removed", found.name)
                await self.docker.stop(found.id, _GRACE)
                await self.docker.remove(found.id)
        suitable.sort(key=lambda found: not found.running)
        adopted = await self._look(legacy_name(plan.reference, plan.prefix))
        if adopted is not None and not adopted.ours and adopted.image == str(plan.image) and adopted.adoptable:
            suitable += [adopted] if adopted.running or adopted.has_key(plan.key) else []
        return suitable

    async def _look(self, container_id: str) -> FoundContainer | None:
        document = await self.docker.container(container_id)
        return None if document is None else FoundContainer(document)

    async def _make(self, plan: ContainerPlan) -> FoundContainer:
        """A new container of the image, running; leaves none behind when it fails or is cancelled."""
        await asyncio.to_thread(plan.cache.mkdir, mode=0o755, parents=True, exist_ok=True)
        for port in (USUAL_PORT, 0):
            # In a task of its own: were we cancelled between the engine's making it and our learning its ID, nobody would
            # ever remove it.
            creating = asyncio.ensure_future(self.docker.create(plan.name, plan.document(port)))
            container_id = ""
            try:
                container_id = await asyncio.shield(creating)
                await self.docker.start(container_id)
                found = await self._look(container_id)
                if found is None or found.image != str(plan.image):
                    raise EngineUnusableError(
                        BACKEND, None, cause=f"{plan.name_of_image} became another image meanwhile; ask again"
                    )
                if found.port is None:
                    raise await self._died_at_once(found, plan.key)
            except DockerError as exc:
                await self._discard(container_id)
                if not (port and port_is_taken(exc)):
                    raise
                _log.info("port %d is taken; the container gets another one", port)
            except BaseException:
                with suppress(Exception):
                    container_id = container_id or await creating
                await self._discard(container_id)
                raise
            else:
                _log.info("started the container %s on 127.0.0.1:%d", plan.name, found.port)
                return found
        raise AssertionError("a port that the engine chooses is never taken")

    async def _died_at_once(self, found: FoundContainer, key: Secret | None) -> EngineExitedError:
        if found.running:
            return EngineUnusableError(
                BACKEND,
                None,
                cause=f"the container {found.name} runs, and its port is published nowhere",
                remedy="See whether the Docker Engine may publish ports: `docker run -p 127.0.0.1:8000:8000 …`.",
            )
        output = ContainerOutput(logging.getLogger("dmr.engine.nim"), (key, *found.keys))
        with suppress(DockerError, DockerUnreachableError, NoAnswerError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS), self.docker.logs(found.id, since="0", tail=_LINES) as chunks:
                async for chunk in chunks:
                    output.feed(chunk)
        output.end()
        return ended(found, output.tail())

    async def _discard(self, container_id: str) -> None:
        if container_id:
            with suppress(DockerError, DockerUnreachableError):
                await self.docker.remove(container_id)

    # --- what it is made of

    async def _plan(self, request: LaunchRequest, key: Secret | None) -> ContainerPlan:
        model = request.model
        if model.backend != BACKEND:
            raise UnsupportedFormatError(
                f"{model.name!r} is no NIM: only images under {self.settings.prefix} are started"
            )
        image = await self.docker.image(str(model.id))
        if image is None:
            raise ModelNotFoundError(request.alias)
        # As the engine knows it now: what was listed may have lost its name since.
        names = [
            name for field in ("RepoTags", "RepoDigests") for name in image.get(field) or () if isinstance(name, str)
        ]
        mine = [name for name in names if self.settings.has(name)]
        if str(image.get("Id")) != str(model.id) or not mine:
            raise UnsupportedFormatError(
                f"{request.alias!r} is no NIM: only images under {self.settings.prefix} are started"
            )
        reference = self._reference(request.alias, model.tags, mine)
        runtime = _NVIDIA if self._gpu and _NVIDIA in await self.docker.runtimes() else ""
        return ContainerPlan(
            image=model.id,
            reference=reference,
            prefix=self.settings.prefix,
            name_of_image=str(model.id),
            cache=self.settings.cache,
            gpu=self._gpu,
            runtime=runtime,
            context_size=request.config.context_size,
            key=key,
        )

    def _reference(self, alias: str, tags: tuple[str, ...], names: list[str]) -> Reference:
        for text in (alias, *tags, *names):
            with suppress(InvalidReferenceError):
                reference = parse_reference(text, ReferencePolicy())
                if self.settings.claims(reference):
                    return reference
        raise UnsupportedFormatError(f"{alias!r} is no NIM: only images under {self.settings.prefix} are started")

    @property
    def _gpu(self) -> bool:
        return self.context.variant == "cuda"

    def _let_go(self, container_id: str) -> Callable[[], bool]:
        def let_go() -> bool:
            self._users[container_id] -= 1
            return self._users[container_id] <= 0 and not self._leaving

        return let_go
