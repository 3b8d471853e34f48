"""What a client may ask for (OpenAI API reference, "Create a model response"), decoded once and held to its bounds."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec

from dmr_adapters.http.inference.bounds import check_shape
from dmr_core.errors import InvalidRequestError

__all__ = ["CreateRequest", "Reasoning", "TextOptions", "decode_request"]

_PARAM: Final = re.compile(r"at `\$\.(\w+)")
_Name = Annotated[str, msgspec.Meta(max_length=1024)]
_MAX_METADATA: Final = 16
_METADATA_KEY, _METADATA_VALUE = 64, 512
_MAX_TOKENS: Final = 2**31 - 1
_MAX_TOOLS: Final = 1024
_MAX_DETAIL: Final = 200
_INCLUDED: Final = frozenset(
    {
        "message.output_text.logprobs",
        # What engines never produce may be asked for: there is none of it to include.
        "reasoning.encrypted_content",
        "message.input_image.image_url",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
    }
)


class Reasoning(msgspec.Struct):
    """How a model that can think shall think."""

    effort: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextOptions(msgspec.Struct):
    """What text shall look like."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class CreateRequest(msgspec.Struct):
    """The body of ``POST /v1/responses``; fields that are not here are passed over. ``keep_alive`` is dmr's own."""

    model: _Name | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: _Name | None = None
    conversation: Any = None
    prompt: Any = None
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=_MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1, le=_MAX_TOKENS)] | None = None
    truncation: Literal["auto", "disabled", ""] | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    include: Annotated[list[str], msgspec.Meta(max_length=64)] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    background: bool | None = None
    user: _Name | None = None
    safety_identifier: _Name | None = None
    prompt_cache_key: _Name | None = None
    service_tier: _Name | None = None
    keep_alive: str | int | float | None = None

    @property
    def effort(self) -> str | None:
        """How hard a model shall think; the reference's own field counts where there is no other."""
        return (self.reasoning.effort if self.reasoning is not None else None) or self.reasoning_effort

    @property
    def wants_logprobs(self) -> bool:
        """Whether the probabilities of tokens are asked for."""
        return "message.output_text.logprobs" in (self.include or ()) or bool(self.top_logprobs)


_decode: Final = msgspec.json.Decoder(CreateRequest).decode


def decode_request(content: bytes) -> CreateRequest:
    """A request that can be answered, as far as the request itself tells.

    Raises:
        InvalidRequestError: it is not JSON, a field has the wrong type or leaves its bounds, or asks for what this
            service does not have; says which.
    """
    check_shape(content)
    try:
        request = _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        detail = str(exc)
        if len(detail) > _MAX_DETAIL:  # it quotes what it does not like
            detail = f"{detail[:_MAX_DETAIL]} … {detail[-_MAX_DETAIL:]}"
        field = _PARAM.search(detail)
        raise InvalidRequestError(f"invalid request: {detail}", param=field[1] if field else None) from exc
    if not request.model:
        raise InvalidRequestError("model is required", param="model")
    _check_metadata(request.metadata)
    if unknown := [name for name in request.include or () if name not in _INCLUDED]:
        raise InvalidRequestError(
            f"include: {unknown[0][:100]!r} is not known; use one of {', '.join(sorted(_INCLUDED))}", param="include"
        )
    if request.prompt is not None:
        raise InvalidRequestError("prompt: there are no stored prompt templates here; send input", param="prompt")
    if request.conversation is not None:
        raise InvalidRequestError(
            "conversation: there are no stored conversations here; use previous_response_id", param="conversation"
        )
    if request.background and request.store is False:
        raise InvalidRequestError("background needs store: what nobody waits for must be kept", param="background")
    if request.service_tier not in (None, "auto", "default", "flex", "priority", "scale"):
        raise InvalidRequestError("service_tier: use auto or default", param="service_tier")
    return request


def _check_metadata(metadata: dict[str, str] | None) -> None:
    if metadata is None:
        return
    if len(metadata) > _MAX_METADATA:
        raise InvalidRequestError(
            f"metadata holds {len(metadata)} pairs; {_MAX_METADATA} are allowed", param="metadata"
        )
    for key, value in metadata.items():
        if len(key) > _METADATA_KEY or len(value) > _METADATA_VALUE:
            raise InvalidRequestError(
                f"metadata: {key[:_METADATA_KEY]!r} is too long; a key may have {_METADATA_KEY} characters, "
                f"a value {_METADATA_VALUE}",
                param="metadata",
            )
