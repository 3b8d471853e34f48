"""A model as Ollama describes one, in ``tags``, ``ps`` and ``show``. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from dmr_core.domain.artifact import LayerType
from dmr_core.domain.model import Model

__all__ = ["ZERO_TIME", "details_of", "thinks", "thinks_not"]

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""Go's zero time: never."""


def details_of(model: Model) -> dict[str, Any]:
    """Format, family and size, as the model's config has them."""
    config = model.config
    family = config.architecture or config.gguf.get("general.architecture", "")
    return {
        "parent_model": "",
        "format": model.format.value if model.format is not None else config.format,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": config.parameters.replace(" ", ""),
        "quantization_level": config.quantization.removeprefix("MOSTLY_"),
    }


_THOUGHT: Final = re.compile(r"enable_thinking|reasoning_content|reasoning_effort|<think>|\.Think")


def thinks(template: str) -> bool:
    """Whether a chat template knows of thoughts."""
    return _THOUGHT.search(template) is not None


def thinks_not(model: Model) -> bool:
    """Whether it is known of a model that it does not think, without opening a file."""
    if any(layer.media_type == LayerType.CHAT_TEMPLATE for layer in model.manifest.layers):
        return False
    template = model.config.gguf.get("tokenizer.chat_template")
    return template is not None and not thinks(template)
