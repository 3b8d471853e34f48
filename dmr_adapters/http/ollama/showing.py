"""``POST /api/show``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.fidelity import Fidelity
from dmr_adapters.http.ollama.errors import refusal
from dmr_adapters.http.ollama.listing import modified
from dmr_adapters.http.ollama.model_settings import ModelSettings, SettingsReader
from dmr_adapters.http.ollama.names import details_of, thinks
from dmr_adapters.http.ollama.request import NameBody, named, read
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.artifact import LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.errors import DmrError, ModelNotFoundError

__all__ = ["ShowingApi", "capabilities_of", "model_info", "modelfile_of", "parameters_text"]

_MAX_TEXT: Final = 4 * 1024 * 1024
_TEMPLATES: Final = (LayerType.CHAT_TEMPLATE,)
_PROJECTORS: Final = (LayerType.MMPROJ, LayerType.MMPROJ_SPEC)
_FIM: Final = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
_INTEGER: Final = re.compile(r"-?\d{1,19}")
_DECIMAL: Final = re.compile(r"-?\d{1,19}\.\d{1,19}")
_CHAT_TEMPLATE: Final = "tokenizer.chat_template"


class ShowingApi:
    """What a model is."""

    def __init__(self, services: Services, settings: SettingsReader) -> None:
        self._services = services
        self._settings = settings

    async def show(self, _request: Request, content: bytes) -> Response:
        """``POST /api/show``."""
        body, _ = read(content, NameBody)
        name = named(body)
        try:
            model = await self._services.catalog.find_fresh(name)
        except ModelNotFoundError as exc:
            return refusal(exc, name)
        header = await self._header(model)
        settings = await self._settings.of(model.id)
        template = settings.template or await self._text(model, _TEMPLATES) or str(header.get(_CHAT_TEMPLATE, ""))
        licence = await self._text(model, (LayerType.LICENSE,)) or str(header.get("general.license", ""))
        (time,) = await modified(self._services, (model,))
        document: dict[str, Any] = {
            "license": licence,
            "modelfile": modelfile_of(model, settings, template, licence),
            "parameters": parameters_text(settings.parameters),
            "template": template,
            "system": settings.system,
            "details": details_of(model),
            "model_info": model_info(header),
            "capabilities": capabilities_of(model, header, template),
            "modified_at": time,
        }
        if settings.messages:
            document["messages"] = [{"role": one.role, "content": one.content or ""} for one in settings.messages]
        # Vocabularies and the like are not read off the header: they are megabytes.
        fidelity = Fidelity(ignored=["verbose"] if body.verbose else [])
        headers = {key.decode(): value.decode() for key, value in fidelity.headers()}
        return json_response(
            {key: value for key, value in document.items() if value not in ("", None)}, headers=headers
        )

    async def _header(self, model: Model) -> Mapping[str, Any]:
        """The header of the weights; of a model whose weights have none that is read, what its config says."""
        try:
            return await self._services.management().headers.read(model)
        except DmrError:
            said = {**model.config.gguf, **model.config.safetensors}
            return {key: _value(text) for key, text in said.items()}

    async def _text(self, model: Model, kinds: tuple[LayerType, ...]) -> str:
        """The text of the layers of these kinds."""
        digests = [layer.digest for layer in model.manifest.layers if layer.media_type in kinds]
        return "\n".join([await self._read(digest) for digest in digests])

    async def _read(self, digest: Digest) -> str:
        data = bytearray()
        async for chunk in self._services.store.read_blob(digest):
            data += chunk[: _MAX_TEXT - len(data)]
            if len(data) >= _MAX_TEXT:
                break
        return data.decode("utf-8", "replace")


def model_info(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header as Ollama lists it: the template, which is shown by itself, left out, and long arrays too."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in header.items()
        if key != _CHAT_TEMPLATE
    }


def capabilities_of(model: Model, header: Mapping[str, Any], template: str) -> list[str]:
    """What the model can do, as far as its files say."""
    if any(key.endswith(".pooling_type") for key in header):
        return ["embedding"]
    found = ["completion"]
    if any(layer.media_type in _PROJECTORS for layer in model.manifest.layers):
        found.append("vision")
    if re.search(r"\btools\b|\.Tools\b", template):
        found.append("tools")
    if any(key in header for key in _FIM) or ".Suffix" in template:
        found.append("insert")
    if thinks(template):
        found.append("thinking")
    return found


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Options as a Modelfile has them, one to a line."""
    lines = []
    for name, value in parameters.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"{name:<30} {json.dumps(one) if isinstance(one, str) else one}" for one in values]
    return "\n".join(lines)


def modelfile_of(model: Model, settings: ModelSettings, template: str, licence: str) -> str:
    """The Modelfile (Ollama, ``docs/modelfile.md``) that would make this model of itself."""
    lines = ["# Modelfile generated by dmr", f"FROM {model.name}"]
    if template:
        lines.append(f"TEMPLATE {_quoted(template)}")
    if settings.system:
        lines.append(f"SYSTEM {_quoted(settings.system)}")
    parameters = parameters_text(settings.parameters).splitlines()
    lines += [f"PARAMETER {' '.join(line.split(None, 1))}" for line in parameters]
    lines += [f"MESSAGE {one.role} {json.dumps(one.content or '', ensure_ascii=False)}" for one in settings.messages]
    if licence:
        lines.append(f"LICENSE {_quoted(licence)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'


def _value(text: str) -> Any:
    """A value of a config, which are all texts, as what it was."""
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
