"""``POST /api/create``: a model of files that were sent, or of another model, with words of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.fidelity import Fidelity
from dmr_adapters.http.leaving import unless_gone
from dmr_adapters.http.ollama.blobs import BlobsApi
from dmr_adapters.http.ollama.errors import message_for, shaped
from dmr_adapters.http.ollama.go_syntax import is_jinja, parse_template
from dmr_adapters.http.ollama.model_settings import FILE_NAME, MAX_SETTINGS, ModelSettings, SettingsReader
from dmr_adapters.http.ollama.options import context_wanted, translate_options
from dmr_adapters.http.ollama.request import CreateBody, named, read
from dmr_adapters.http.ollama.transfer import streamed
from dmr_adapters.http.services import Services
from dmr_core.domain.artifact import LayerType
from dmr_core.domain.digest import Digest
from dmr_core.errors import InvalidRequestError, ModelNotFoundError, UnsupportedOperationError
from dmr_core.services.creating import NewLayer

__all__ = ["CreatingApi"]

_SUCCESS: Final = {"status": "success"}


class CreatingApi:
    """Models of models."""

    def __init__(self, services: Services, settings: SettingsReader, blobs: BlobsApi) -> None:
        self._services = services
        self._settings = settings
        self._blobs = blobs

    async def create(self, request: Request, content: bytes) -> Response:
        """``POST /api/create``."""
        body, unknown = read(content, CreateBody)
        name = named(body)
        _check(body)
        headers = {key.decode(): value.decode() for key, value in Fidelity(ignored=unknown).headers()}
        try:
            layers = await self._layers(body)
            files = {file: Digest.parse(text) for file, text in (body.files or {}).items()}
            adapters = {file: Digest.parse(text) for file, text in (body.adapters or {}).items()}
            await unless_gone(self._make(name, body, files, adapters, layers), request.receive)
        except ModelNotFoundError as exc:
            return shaped(404, message_for(exc, body.from_ or name))
        await self._blobs.used((*files.values(), *adapters.values()))
        if body.stream is False:
            return Response(b'{"status":"success"}\n', headers=headers, media_type="application/json")
        return streamed(_told(layers, files), headers)

    async def _make(
        self,
        name: str,
        body: CreateBody,
        files: dict[str, Digest],
        adapters: dict[str, Digest],
        layers: list[NewLayer],
    ) -> None:
        creating = self._services.management().creating
        if files:
            await creating.from_blobs(files, name, layers, adapters)
            return
        assert body.from_ is not None  # noqa: S101 - it was checked
        try:
            await creating.from_model(body.from_, name, layers)
        except ModelNotFoundError:
            async for _ in await self._services.pulling.pull(body.from_):
                pass
            await creating.from_model(body.from_, name, layers)

    async def _layers(self, body: CreateBody) -> list[NewLayer]:
        """What is new about the model."""
        layers = []
        template = body.template or ""
        if template and is_jinja(template):
            layers.append(_layer(LayerType.CHAT_TEMPLATE, "template.jinja", template))
            template = ""
        licences = [body.license] if isinstance(body.license, str) else body.license or []
        for number, licence in enumerate(filter(None, licences), start=1):
            layers.append(_layer(LayerType.LICENSE, "LICENSE" if number == 1 else f"LICENSE-{number}", licence))
        settings = await self._changed(body, template)
        if settings is not None:
            content = msgspec.json.encode(settings)
            if len(content) > MAX_SETTINGS:
                raise InvalidRequestError(
                    f"system, template, parameters and messages take more than {MAX_SETTINGS} bytes"
                )
            layers.append(NewLayer(media_type=LayerType.MODEL_FILE, name=FILE_NAME, content=content))
        return layers

    async def _changed(self, body: CreateBody, template: str) -> ModelSettings | None:
        """The settings of the model that is made of another: what is not said anew stays."""
        if not (body.system or template or body.parameters or body.messages):
            return None
        before = ModelSettings()
        if body.from_ and not body.files:
            try:
                model = await self._services.catalog.find_fresh(body.from_)
                before = await self._settings.of(model.id)
            except ModelNotFoundError:
                pass  # it is pulled later, and models of others have none
        parameters = {
            **before.parameters,
            **{key: value for key, value in (body.parameters or {}).items() if value is not None},
        }
        return ModelSettings(
            system=body.system or before.system,
            template=template or before.template,
            parameters=parameters,
            messages=body.messages or before.messages,
        )


def _check(body: CreateBody) -> None:
    if not body.files and not body.from_:
        raise InvalidRequestError("neither 'from' or 'files' was specified", param="from")
    if body.files and body.from_:
        raise InvalidRequestError("either 'from' or 'files', not both", param="files")
    if body.adapters and not body.files:
        raise UnsupportedOperationError("adapters can be given to 'files' alone: send the weights with them")
    if body.quantize:
        raise UnsupportedOperationError("models are not quantized here: send one that is, and leave out 'quantize'")
    if body.template and not is_jinja(body.template):
        parse_template(body.template)
    options = body.parameters or {}
    translate_options(options, lambda _field: True)  # for the bounds
    context_wanted(options)


def _layer(kind: LayerType, name: str, text: str) -> NewLayer:
    return NewLayer(media_type=kind, name=name, content=text.encode("utf-8", "replace"))


async def _told(layers: list[NewLayer], files: dict[str, Digest]) -> AsyncGenerator[dict[str, Any], None]:
    """What was done, in Ollama's words."""
    for digest in files.values():
        yield {"status": f"using existing layer {digest}"}
    for layer in layers:
        yield {"status": f"creating new layer {Digest.of(layer.content)}"}
    yield {"status": "writing manifest"}
    yield _SUCCESS
