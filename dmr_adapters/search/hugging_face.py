"""Hugging Face: the models that llama.cpp and vLLM can serve, and what files they consist of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec
from yarl import URL

from dmr_adapters.registry.client import HttpClient
from dmr_adapters.search.hub_answer import count, each, fetch
from dmr_core.domain.search import MAX_DESCRIPTION, SearchHit, backends_of, plain
from dmr_core.ports.model_search import ModelSearch

__all__ = ["HuggingFaceSearch"]

_MAX_RESULTS: Final = 1000
_MAX_FILES: Final = 20_000
_MAX_TAGS: Final = 200
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_WEIGHTS: Final = (".gguf", ".safetensors", ".dduf")
_FALLBACK: Final = "AI model"
_FAMILIES: Final = ("llama", "mistral", "phi", "qwen", "gemma", "deepseek")
_USES: Final = ("instruct", "chat")
_TOLD: Final = 3


class _Model(msgspec.Struct, rename={"model_id": "modelId", "created_at": "createdAt", "modified": "lastModified"}):
    """An entry of ``/api/models``."""

    id: str = ""
    model_id: str = ""
    likes: int | None = None
    downloads: int | None = None
    tags: list[str] | None = None
    pipeline_tag: str | None = None
    created_at: str | None = None
    modified: str | None = None
    private: bool = False


class _File(msgspec.Struct):
    """An entry of a model's ``siblings``."""

    rfilename: str
    size: int | None = None


class _Files(msgspec.Struct):
    """``/api/models/{id}``, as far as it lists files."""

    siblings: list[msgspec.Raw] = []


@attrs.frozen(kw_only=True, eq=False)
class HuggingFaceSearch(ModelSearch):
    """``url`` is that of the hub (``HF_ENDPOINT``)."""

    client: HttpClient
    url: URL

    @property
    def key(self) -> str:
        """See :class:`ModelSearch`."""
        return "huggingface"

    @property
    def name(self) -> str:
        """See :class:`ModelSearch`; spelled as the reference's clients know it."""
        return "HuggingFace"

    async def search(self, term: str, limit: int) -> tuple[SearchHit, ...]:
        """See :class:`ModelSearch`."""
        bounded = min(limit, _MAX_RESULTS)
        query = {"apps": "vllm,llama.cpp", "sort": "downloads", "direction": "-1", "limit": str(bounded)}
        if term:
            query["search"] = term
        found = await fetch(self.client, (self.url / "api" / "models").with_query(query), list[msgspec.Raw], self.name)
        models = each(found[:_MAX_RESULTS], _Model)
        hits = [hit for model in models if (hit := self._hit(model)) is not None]
        return tuple(hits[:bounded])

    async def described(self, hit: SearchHit) -> SearchHit:
        """See :class:`ModelSearch`; the size is that of all weights together, of which a pull may choose some."""
        url = (self.url / "api" / "models" / hit.name).with_query(blobs="true")
        listed = await fetch(self.client, url, _Files, self.name)
        files = list(each(listed.siblings[:_MAX_FILES], _File))
        weights = [file for file in files if file.rfilename.lower().endswith(_WEIGHTS)]
        size = sum(count(file.size) for file in weights)
        return attrs.evolve(hit, backend=backends_of(file.rfilename for file in weights), size=count(size))

    def _hit(self, model: _Model) -> SearchHit | None:
        name = model.model_id or model.id
        if model.private or not _REPOSITORY.fullmatch(name) or ".." in name:
            return None
        return SearchHit(
            name=name,
            reference=f"hf.co/{name}",
            source=self.name,
            description=plain(_description(model.pipeline_tag or "", model.tags or ()), MAX_DESCRIPTION),
            downloads=count(model.downloads),
            stars=count(model.likes),
            updated_at=plain(model.modified or model.created_at or "", 64),
        )


def _description(pipeline: str, tags: Sequence[str]) -> str:
    """What the model is for, and the tags that tell its family or use: three things at most."""
    told = [pipeline] if pipeline else []
    for tag in tags[:_MAX_TAGS]:
        lowered = tag.lower()
        telling = lowered.startswith(_FAMILIES) or any(use in lowered for use in _USES)
        if telling and lowered not in told and len(told) < _TOLD:
            told.append(lowered)
    return ", ".join(told) or _FALLBACK
