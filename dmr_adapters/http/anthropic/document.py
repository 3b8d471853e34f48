"""The documents of Anthropic's Messages API that dmr reads, as checked values.

What a document has beyond these is passed over; at the top of a body it is named to the client (``DMR-Ignored``).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = [
    "Base64Source",
    "Document",
    "Format",
    "Image",
    "Message",
    "MessagesRequest",
    "OutputConfig",
    "RedactedThinking",
    "Text",
    "TextSource",
    "Thinking",
    "ThinkingConfig",
    "Tool",
    "ToolChoice",
    "ToolResult",
    "ToolUse",
    "UrlSource",
    "decode_messages",
]


class Text(msgspec.Struct, tag="text"):
    """Words."""

    text: str


class Base64Source(msgspec.Struct, tag="base64"):
    """Bytes in the request itself."""

    media_type: str
    data: str


class TextSource(msgspec.Struct, tag="text"):
    """A plain-text document in the request itself."""

    data: str


class UrlSource(msgspec.Struct, tag="url"):
    """Bytes somewhere else."""

    url: str


class FileSource(msgspec.Struct, tag="file"):
    """A file of Anthropic's Files API, which nobody has here."""

    file_id: str


class Image(msgspec.Struct, tag="image"):
    """A picture."""

    source: Base64Source | UrlSource | FileSource


class Document(msgspec.Struct, tag="document"):
    """A document; only plain text can be handed to an engine."""

    source: Base64Source | TextSource | UrlSource | FileSource
    title: str | None = None
    context: str | None = None


class ToolUse(msgspec.Struct, tag="tool_use"):
    """A call of a tool by the model."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResult(msgspec.Struct, tag="tool_result"):
    """What a tool gave back."""

    tool_use_id: str
    content: str | list[Text | Image | Document] | None = None
    is_error: bool = False


class Thinking(msgspec.Struct, tag="thinking"):
    """What the model thought before it answered."""

    thinking: str
    signature: str = ""


class RedactedThinking(msgspec.Struct, tag="redacted_thinking"):
    """Thoughts only Anthropic can read."""

    data: str


Block = Text | Image | Document | ToolUse | ToolResult | Thinking | RedactedThinking


class Message(msgspec.Struct):
    """One turn."""

    role: str
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool of the client's; those with a ``type`` that is not ``custom`` run at Anthropic."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None


class ToolChoice(msgspec.Struct):
    """Whether and which tool is to be called."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingConfig(msgspec.Struct):
    """Whether the model is to think, and for how many tokens."""

    type: str
    budget_tokens: int | None = None


class Format(msgspec.Struct):
    """The form of the answer."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct):
    """The form of the answer, and the effort for it."""

    format: Format | None = None
    effort: str | None = None


class Metadata(msgspec.Struct):
    """Who asks."""

    user_id: str | None = None


class MessagesRequest(msgspec.Struct):
    """The body of ``POST /v1/messages``, and of ``count_tokens``."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    system: str | list[Text] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    metadata: Metadata | None = None


decode_messages: Final = msgspec.json.Decoder(MessagesRequest).decode
