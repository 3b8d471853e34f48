"""How engines fail. See ``docs/errors.md`` for all of them with what to do."""

from __future__ import annotations

from dmr_core.errors.conditions import (
    DeadlineError,
    DmrError,
    ForbiddenError,
    PreconditionError,
    UnavailableError,
    UpstreamError,
)

__all__ = [
    "AcceleratorMissingError",
    "EngineBackoffError",
    "EngineCrashedError",
    "EngineExitedError",
    "EngineFlagError",
    "EngineKilledError",
    "EngineNotAcceleratedError",
    "EngineOutOfMemoryError",
    "EngineStartTimeoutError",
    "EngineUnresponsiveError",
    "EngineUnusableError",
    "EngineVersionError",
    "ModelCodeError",
    "ModelCorruptError",
]


class EngineExitedError(UpstreamError):
    """An engine process ended when it should not have, or could not be started at all.

    ``tail`` is the end of its output, already redacted; ``returncode`` is negative for a signal, ``None`` where there
    is none. ``cause`` says why in a sentence, ``remedy`` what to do next; both are empty when nobody knows.
    """

    code = "engine_exited"

    def __init__(
        self, backend: str, returncode: int | None, tail: str = "", *, cause: str = "", remedy: str = ""
    ) -> None:
        self.summary = cause or f"{backend} {_end(returncode)}"
        text = f"{self.summary}. {remedy}" if remedy else self.summary
        super().__init__(f"{text}\n\nVerbose output:\n{tail}" if tail else text)
        self.backend = backend
        self.returncode = returncode
        self.tail = tail
        self.cause = cause
        self.remedy = remedy


def _end(returncode: int | None) -> str:
    if returncode is None:
        return "exited"
    return f"was killed by signal {-returncode}" if returncode < 0 else f"exited with status {returncode}"


class EngineOutOfMemoryError(EngineExitedError):
    """An engine, or the model it loads, needs more memory than there is."""

    code = "engine_out_of_memory"


class EngineFlagError(EngineExitedError):
    """An engine refused its command line: a runtime flag it does not know, or a value it does not take."""

    code = "engine_bad_flag"


class ModelCorruptError(EngineExitedError):
    """An engine found a model's file to be cut off or damaged."""

    code = "model_corrupt"


class EngineVersionError(EngineExitedError):
    """This version of an engine does not know the model's format, architecture or quantisation."""

    code = "engine_version"


class EngineUnusableError(EngineExitedError):
    """An engine's program is there and cannot run on this machine."""

    code = "engine_unusable"


class ModelCodeError(ForbiddenError):
    """A model brings code along that the engine might run, and nobody allowed that."""

    code = "model_code_refused"

    def __init__(self, name: str, model_id: str, found: str) -> None:
        super().__init__(
            f"model {name!r} brings code along that the engine might run: {found}. Use a model without it, or read that "
            f"code and start the service with DMR_TRUST_CODE={model_id}"
        )


class AcceleratorMissingError(PreconditionError):
    """A model is required to compute on an accelerator, and there is none that could be used."""

    code = "accelerator_missing"


class EngineNotAcceleratedError(EngineExitedError):
    """An engine put a model on the CPU, or part of it, that is required to be on an accelerator. It was stopped for that."""

    code = "engine_not_accelerated"


class EngineKilledError(EngineExitedError):
    """A signal from outside ended an engine."""

    code = "engine_killed"


class EngineCrashedError(EngineExitedError):
    """An engine ended by a fault of its own: a bad memory access, a failed assertion."""

    code = "engine_crashed"


class EngineUnresponsiveError(EngineExitedError):
    """An engine was ready once, and lives, but no longer answers."""

    code = "engine_unresponsive"


class EngineBackoffError(UnavailableError):
    """An engine failed again and again; it is not started before ``retry_after`` has passed.

    ``failures`` counts them; ``last`` is the latest.
    """

    code = "engine_backoff"

    def __init__(self, message: str, *, failures: int, last: DmrError, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after)
        self.failures = failures
        self.last = last


class EngineStartTimeoutError(DeadlineError):
    """An engine did not become ready in time. ``timeout`` is in seconds."""

    code = "engine_start_timeout"

    def __init__(self, backend: str, timeout: float, tail: str = "") -> None:
        text = f"{backend} did not become ready within {timeout:g} s"
        super().__init__(f"{text}\n\nVerbose output:\n{tail}" if tail else text)
        self.backend = backend
        self.timeout = timeout
        self.tail = tail
