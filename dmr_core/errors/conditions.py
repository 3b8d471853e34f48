"""Conditions a caller can act on.

Raise by condition and subclass for detail. Which HTTP status, exit code or wire text a condition
becomes is decided once per shell, never here. Anything that is not a :class:`DmrError` is a bug.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AnswerViolationError",
    "BackendInstallError",
    "BackendNotFoundError",
    "BackendNotInstalledError",
    "BodyTooLargeError",
    "ConflictError",
    "DeadlineError",
    "DigestMismatchError",
    "DmrError",
    "InsufficientResourcesError",
    "InvalidConfigurationError",
    "InvalidReferenceError",
    "InvalidRequestError",
    "LoadsDisabledError",
    "MalformedArtifactError",
    "ModelInUseError",
    "ModelNotFoundError",
    "ModelTooLargeError",
    "NotFoundError",
    "PluginError",
    "PluginLoadError",
    "PreconditionError",
    "PreviousResponseError",
    "QueueFullError",
    "QueueTimeoutError",
    "RegistryError",
    "RegistryUnreachableError",
    "RemoteModelNotFoundError",
    "RequestTimeoutError",
    "ResponseNotFoundError",
    "RunnerActiveError",
    "ShuttingDownError",
    "StorageFullError",
    "StoreUnwritableError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedFieldError",
    "UnsupportedFormatError",
    "UnsupportedOperationError",
    "UpstreamError",
]


class DmrError(Exception):
    """Root of every condition dmr reports. ``code`` is stable and safe to match on by machines."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# --- the caller asked for something that cannot be right -------------------------------------------


class InvalidRequestError(DmrError):
    """The request itself is wrong; sending it again unchanged cannot help."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidReferenceError(InvalidRequestError):
    """A model reference does not follow the grammar of ``[registry/]repository[:tag|@digest]``."""

    code = "invalid_reference"

    def __init__(self, reference: str, reason: str = "invalid reference format") -> None:
        super().__init__(f"invalid reference {reference!r}: {reason}", param="model")
        self.reference = reference
        self.reason = reason


class InvalidConfigurationError(InvalidRequestError):
    """A setting, flag or environment variable has a value dmr refuses."""

    code = "invalid_configuration"


class BodyTooLargeError(InvalidRequestError):
    """A request body is longer than ``limit`` bytes."""

    code = "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"request too large: the body may hold at most {limit} bytes")
        self.limit = limit


class RequestTimeoutError(InvalidRequestError):
    """A client did not send the rest of its request."""

    code = "request_timeout"


class UnsupportedFieldError(InvalidRequestError):
    """A field of the request would be ignored or changed, and the client asked not to have that."""

    code = "unsupported_field"


class PreviousResponseError(InvalidRequestError):
    """A response cannot be gone on from: it is not kept, or did not come to an end."""

    code = "previous_response_not_found"


class UnsupportedFormatError(InvalidRequestError):
    """The artifact is well formed, but nothing here can use it."""

    code = "unsupported_format"


class UnsupportedOperationError(UnsupportedFormatError):
    """Nothing here can do with the model what is asked: no engine claims the mode, or has the route."""

    code = "unsupported_operation"


class MalformedArtifactError(InvalidRequestError):
    """A model file, manifest or config breaks its own format."""

    code = "malformed_artifact"


# --- access -----------------------------------------------------------------------------------------


class UnauthorizedError(DmrError):
    """A registry refused the credentials, or wants some."""

    code = "unauthorized"


class ApiKeyError(UnauthorizedError):
    """A client did not bring this service's key."""

    code = "invalid_api_key"


class ForbiddenError(DmrError):
    """Whoever asks may not: a page of another origin, or a host name that is not this service's."""

    code = "forbidden"


# --- things that are not there ----------------------------------------------------------------------


class NotFoundError(DmrError):
    """What was named does not exist."""

    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No model in the local store answers to ``reference``."""

    code = "model_not_found"

    def __init__(self, reference: str) -> None:
        super().__init__(f"model {reference!r} not found")
        self.reference = reference


class RemoteModelNotFoundError(NotFoundError):
    """The registry has no such repository, tag or digest."""

    code = "model_not_found"

    def __init__(self, reference: str, detail: str = "") -> None:
        super().__init__(f"model {reference!r} not found in its registry" + (f": {detail}" if detail else ""))
        self.reference = reference


class ResponseNotFoundError(NotFoundError):
    """No response of this name is kept: it never was, was deleted, or is too old."""

    code = "response_not_found"
    param = "response_id"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"response {response_id[:100]!r} not found: it was not stored, was deleted, or is too old")
        self.response_id = response_id


class BackendNotFoundError(NotFoundError):
    """No installed plugin registers a backend of this name."""

    code = "backend_not_found"

    def __init__(self, backend: str) -> None:
        super().__init__(f"backend {backend!r} not found")
        self.backend = backend


# --- the state of the world is in the way -----------------------------------------------------------


class ConflictError(DmrError):
    """The request contradicts what exists; changing that first would make it possible."""

    code = "conflict"


class ModelInUseError(ConflictError):
    """A runner is serving the model that was to be removed."""

    code = "model_in_use"


class RunnerActiveError(ConflictError):
    """A runner is busy and cannot be reconfigured now."""

    code = "runner_active"


class PreconditionError(DmrError):
    """Something has to be installed or allowed first; the message says what."""

    code = "precondition_failed"


class BackendNotInstalledError(PreconditionError):
    """The plugin is there, the engine it drives is not."""

    code = "backend_not_installed"

    def __init__(self, backend: str, remedy: str) -> None:
        super().__init__(f"backend {backend!r} is not installed: {remedy}")
        self.backend = backend
        self.remedy = remedy


# --- somebody downstream failed ---------------------------------------------------------------------


class UpstreamError(DmrError):
    """An engine or a registry failed while working for us."""

    code = "upstream_error"


class AnswerViolationError(UpstreamError):
    """An engine's answer is not what the request demanded of it; ``where`` is the place in the answer."""

    code = "answer_violation"

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class RegistryError(UpstreamError):
    """A registry answered with something other than what the protocol allows."""

    code = "registry_error"


class RegistryUnreachableError(RegistryError):
    """No answer from the registry: refused, reset, timed out or not resolvable."""

    code = "registry_unreachable"


class DigestMismatchError(UpstreamError):
    """Bytes received do not hash to the digest they were asked for by."""

    code = "digest_mismatch"

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"blob digest mismatch for {expected!r}: expected {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


# --- not now ----------------------------------------------------------------------------------------


class UnavailableError(DmrError):
    """The service cannot do this now; later it may. ``retry_after`` is in seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendInstallError(UnavailableError):
    """Installing an engine failed."""

    code = "backend_install_failed"


class LoadsDisabledError(UnavailableError):
    """The scheduler takes no new loads."""

    code = "loads_disabled"


class QueueFullError(UnavailableError):
    """As many requests wait for engines as may."""

    code = "queue_full"


class QueueTimeoutError(UnavailableError):
    """A request waited for an engine as long as it may."""

    code = "queue_timeout"


class ShuttingDownError(LoadsDisabledError):
    """The service is stopping."""

    code = "shutting_down"


class DeadlineError(DmrError):
    """Something took longer than it was allowed to."""

    code = "deadline_exceeded"


class InsufficientResourcesError(DmrError):
    """Something needs more of a resource than there is. ``needs`` and ``has`` are in bytes."""

    code = "insufficient_resources"

    def __init__(self, message: str, *, needs: int | None = None, has: int | None = None) -> None:
        super().__init__(message)
        self.needs = needs
        self.has = has


class StorageFullError(InsufficientResourcesError):
    """The disk of the model store is full."""

    code = "storage_full"


class ModelTooLargeError(InsufficientResourcesError):
    """A runner needs more memory than all runners together may have."""

    code = "model_too_large"


class StoreUnwritableError(DmrError):
    """The model store cannot be written (permissions, read-only file system)."""

    code = "store_unwritable"


# --- plugins ----------------------------------------------------------------------------------------


class PluginError(DmrError):
    """A plugin misbehaved."""

    code = "plugin_error"


class PluginLoadError(PluginError):
    """A plugin could not be loaded; recorded by the plugin registry, never fatal."""

    code = "plugin_load_failed"
