"""What a model that was made by ``/api/create`` says for every request: a system prompt, a template, options, messages.

They are in a layer of the model, a file called ``ollama.json``, so that they go wherever the model goes; engines and other
tools pass over it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import attrs
import msgspec

from dmr_adapters.http.ollama.messages import is_elsewhere, translate_messages
from dmr_adapters.http.ollama.request import Message
from dmr_core.domain.artifact import Descriptor, LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.errors import DmrError
from dmr_core.ports.model_store import ModelStore
from dmr_core.services.catalog import CatalogService

__all__ = ["FILE_NAME", "MAX_SETTINGS", "ModelSettings", "SettingsReader", "settings_layer"]

FILE_NAME: Final = "ollama.json"
MAX_SETTINGS: Final = 1024 * 1024
_MOST_REMEMBERED: Final = 256


class ModelSettings(msgspec.Struct, omit_defaults=True):
    """The document. ``template`` is in Go's template language; a Jinja one is a layer of its own."""

    system: str = ""
    template: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    messages: list[Message] = msgspec.field(default_factory=list)

    def before(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A chat with what the model was given to say before it."""
        said = [*translate_messages(self.messages), *messages]
        if self.system and not any(message.get("role") == "system" for message in said[:1]):
            return [{"role": "system", "content": self.system}, *said]
        return said


NOTHING: Final = ModelSettings()


def settings_layer(model: Model) -> Descriptor | None:
    """The layer that holds the settings, if there is one."""
    return next(
        (
            layer
            for layer in model.manifest.layers
            if layer.media_type == LayerType.MODEL_FILE and layer.filepath == FILE_NAME
        ),
        None,
    )


@attrs.define(eq=False)
class SettingsReader:
    """Reads settings, and remembers them: models do not change. Most have none, which costs a look at the manifest."""

    catalog: CatalogService
    store: ModelStore
    _known: OrderedDict[Digest, ModelSettings] = attrs.field(factory=OrderedDict)

    async def of(self, model_id: Digest) -> ModelSettings:
        """The settings of a model. A document that is none says nothing: it may be a stranger's."""
        found = self._known.get(model_id)
        if found is not None:
            return found
        model = self.catalog.by_id(model_id)
        layer = settings_layer(model) if model is not None else None
        found = NOTHING if layer is None else await self._read(layer)
        self._known[model_id] = found
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def _read(self, layer: Descriptor) -> ModelSettings:
        if layer.size > MAX_SETTINGS:
            return NOTHING
        try:
            content = b"".join([chunk async for chunk in self.store.read_blob(layer.digest)])
            return _harmless(msgspec.json.decode(content, type=ModelSettings))
        except (DmrError, OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return NOTHING


def _harmless(settings: ModelSettings) -> ModelSettings:
    """Without images that an engine would fetch: a model must not send requests to where its maker likes."""
    for message in settings.messages:
        message.images = [image for image in message.images or () if not is_elsewhere(image)] or None
    return settings
