"""How much memory llama.cpp will need for a model, before any of its files is unpacked.

Weights and adapters as they are stored, the cache of keys and values for the whole context, the work space of one batch,
and the process itself. Contexts are counted as full, for that is what a runner grows to. The numbers in here were measured with the
bundled server; what is seen later replaces the estimate anyway. Not counted: the cache of prompts (``--cache-ram``),
which grows with use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from dmr_backends_llamacpp.allowed_flags import CLIENT_FLAGS, OPERATOR_FLAGS
from dmr_backends_llamacpp.shape import Layer, Shape, shape_of
from dmr_core.domain.artifact import LayerType
from dmr_core.domain.engine import EngineConfig
from dmr_core.domain.flags import ParsedFlag
from dmr_core.domain.memory import Memory
from dmr_core.domain.model import Model
from dmr_core.errors import InvalidConfigurationError
from dmr_core.ports.engine import MemoryRequest

__all__ = ["estimate"]

_MIB: Final = 1024 * 1024
_BASE: Final = 27 * _MIB
"""The bundled server with a model of nothing; half of it is code that several servers share."""
_BASE_WITH_DEVICE: Final = 300 * _MIB
_DEVICE_BASE: Final = 400 * _MIB
"""What a driver's context takes, by its makers' figures; it has not been measured here."""
_TOKEN_BYTES: Final = 300
"""A token of the vocabulary: its text, the ways it is looked up, and its place in the answers' probabilities."""
_USUAL_VOCABULARY: Final = 128 * 1024

_WEIGHTS: Final = frozenset({LayerType.GGUF, LayerType.PACK_WEIGHT_GGUF})
_PROJECTORS: Final = frozenset({LayerType.MMPROJ, LayerType.MMPROJ_SPEC})
_ADAPTERS: Final = frozenset({LayerType.LORA})

# Bytes of 32 elements, from the blocks of ggml-common.h.
_CACHE_TYPES: Final = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
}
# Which share of their weights a processor multiplies from a copy that it lays out anew, by general.file_type
# (llama.h, llama_ftype: Q4_0, Q4_K_S, Q4_K_M, IQ4_NL, MXFP4_MOE; ggml-cpu/repack.cpp).
_REPACKED: Final = {"2": 1.0, "14": 0.95, "15": 0.75, "25": 1.0, "38": 0.9}

# What the server does unless it is told otherwise.
_BATCH, _UBATCH = 2048, 512
_SLOTS: Final = 4
_PADDING: Final = 256
_MOST: Final = (1 << 31) - 1


def estimate(request: MemoryRequest, base: tuple[str, ...], *, on_device: bool = False) -> Memory:
    """What a server with these settings will need.

    Args:
        request: The load in question.
        base: The operator's arguments.
        on_device: Whether there is an accelerator that llama.cpp uses.
    """
    weights = _size(request.model, _WEIGHTS)
    settings = _Settings.of(request.model, request.config, base)
    shape = shape_of(request.model.config.gguf)
    needs = Memory(_BASE_WITH_DEVICE, _DEVICE_BASE) if on_device else Memory(_BASE)
    needs += _model(request.model, weights, shape, settings, layers=settings.device_layers if on_device else 0)
    if settings.projector:
        projector = _size(request.model, _PROJECTORS)
        needs += Memory(0, projector) if on_device and settings.projector_on_device else Memory(projector)
    # Each is copied to where the layers are that it changes.
    adapters = _size(request.model, _ADAPTERS)
    needs += Memory(0, adapters) if on_device and settings.device_layers else Memory(adapters)
    if request.draft is not None:
        # It follows the model word for word, so its context is as long.
        drafting = settings.for_draft(settings.tokens(shape))
        needs += _model(
            request.draft,
            _size(request.draft, _WEIGHTS),
            shape_of(request.draft.config.gguf),
            drafting,
            layers=drafting.device_layers if on_device else 0,
        )
    return needs


@attrs.frozen(kw_only=True)
class _Settings:
    """What of a server's settings decides its memory; ``context`` 0 is the model's own."""

    context: int = 0
    keys: str = "f16"
    values: str = "f16"
    slots: int = _SLOTS
    unified: bool = True
    fit: bool = True
    ubatch: int = _UBATCH
    flash: bool = True
    full_windows: bool = False
    copies: bool = True
    device_layers: int = _MOST
    cache_on_device: bool = True
    projector: bool = True
    projector_on_device: bool = True
    draft_context: int = 0
    draft_keys: str = "f16"
    draft_values: str = "f16"
    draft_device_layers: int = _MOST

    @classmethod
    def of(cls, model: Model, config: EngineConfig, base: tuple[str, ...]) -> _Settings:
        """As :func:`~dmr_backends_llamacpp.arguments.server_arguments` would have it."""
        operators = _last(OPERATOR_FLAGS.parse(base, unknown=lambda _name: None))
        try:
            clients = _last(CLIENT_FLAGS.parse(config.runtime_flags))
        except InvalidConfigurationError:  # the load will say so
            clients = {}
        said = {**operators, **clients}
        context = _Words(clients).number("n_ctx")
        if context is None:
            chosen = model.config.context_size if config.context_size is None else config.context_size
            told = chosen is not None and (chosen == -1 or chosen > 0)
            context = max(0, chosen or 0) if told else _Words(operators).number("n_ctx")
        read = _Words(said)
        slots = read.number("n_parallel")
        per_slot = read.number("kv_unified_per_slot") or 0
        automatic = slots is None or slots < 1
        count = _SLOTS if automatic or slots is None else slots
        if not context and per_slot > 0:
            context = min(_MOST, per_slot * count)
        mapped = not read.off("@mmap") and not read.on("@direct_io")
        return cls(
            context=min(_MOST, max(0, context or 0)),
            keys=read.text("cache_type_k", "f16"),
            values=read.text("cache_type_v", "f16"),
            slots=count,
            unified=(automatic or read.on("kv_unified")) and not read.off("kv_unified"),
            fit=read.text("fit_params", "on") not in ("off", "0", "false", "disabled"),
            ubatch=max(1, min(read.number("n_ubatch") or _UBATCH, read.number("n_batch") or _BATCH, _MOST)),
            flash=read.text("flash_attn_type", "auto") not in ("off", "0", "false", "disabled"),
            full_windows=read.on("swa_full"),
            copies=mapped and not read.off("no_extra_bufts"),
            device_layers=0 if read.text("-dev", "") == "none" else _layers(read, "n_gpu_layers"),
            cache_on_device=not read.off("no_kv_offload"),
            projector=not read.off(_slot("--mmproj-auto")),
            projector_on_device=not read.off("mmproj_use_gpu"),
            draft_context=max(0, read.number(_slot("--ctx-size-draft")) or 0),
            draft_keys=read.text("speculative.draft.cache_type_k", "f16"),
            draft_values=read.text("speculative.draft.cache_type_v", "f16"),
            draft_device_layers=_layers(read, "speculative.draft.n_gpu_layers"),
        )

    def for_draft(self, context: int) -> _Settings:
        """Those of the draft model beside a model with ``context`` tokens."""
        return attrs.evolve(
            self,
            context=self.draft_context or context,
            keys=self.draft_keys,
            values=self.draft_values,
            device_layers=self.draft_device_layers,
            projector=False,
        )

    def tokens(self, shape: Shape | None) -> int:
        """How long the cache will be, all slots together."""
        count = self.context
        if not count:
            count = (shape.context if shape is not None else None) or 0
            if self.fit and not self.unified:
                count *= self.slots  # each slot then gets all that the model was trained for
        return min(_MOST, -(-count // _PADDING) * _PADDING)


def _model(model: Model, weights: int, shape: Shape | None, settings: _Settings, *, layers: int) -> Memory:
    """Weights, cache and work space of one model, of which ``layers`` are on the device."""
    work = cache = count = 0
    tokens = settings.tokens(shape)
    if shape is not None:
        count = len(shape.layers)
        cache = sum(_cached(layer, tokens, settings) for layer in shape.layers) + shape.state * settings.slots
        batch = min(settings.ubatch, max(1, tokens))
        seen = 2 if settings.flash else 2 + 4 * shape.heads  # the mask, and what each head makes of it
        work = 4 * batch * (3 * shape.widest + 4 * shape.hidden) + batch * tokens * seen
    vocabulary = shape.vocabulary if shape is not None else None
    if vocabulary is None:
        vocabulary = min(_USUAL_VOCABULARY, weights // max(1, shape.hidden if shape is not None else 1024))
    words = vocabulary * _TOKEN_BYTES
    share = min(1.0, layers / (count + 1)) if count else float(layers > 0)
    on_device = int(weights * share)
    copied = _REPACKED.get(str(model.config.gguf.get("general.file_type", "")), 0.0) if settings.copies else 0.0
    host = weights - on_device
    host += int(host * copied) + words
    if not layers:
        return Memory(host + cache + work)
    cache_share = share if settings.cache_on_device else 0.0
    there = int(cache * cache_share)
    return Memory(host + cache - there, on_device + there + work)


def _cached(layer: Layer, tokens: int, settings: _Settings) -> int:
    """Bytes of one layer's cache of keys and values."""
    kept = tokens
    if layer.window is not None and not settings.full_windows:
        slots = settings.slots if settings.unified else 1
        window = -(-(layer.window * slots + settings.ubatch) // _PADDING) * _PADDING
        kept = min(tokens, window if settings.unified else window * settings.slots)
    keys, values = (_CACHE_TYPES.get(kind, _CACHE_TYPES["f16"]) for kind in (settings.keys, settings.values))
    return kept * (layer.keys * keys + layer.values * values) // 32


def _size(model: Model, types: frozenset[LayerType]) -> int:
    return sum(max(0, layer.size) for layer in model.manifest.layers if layer.media_type in types)


@attrs.frozen
class _Words:
    """The last use of each flag, by what it sets."""

    uses: Mapping[str, ParsedFlag]

    def number(self, slot: str) -> int | None:
        """The number it was given."""
        text = self.text(slot, "")
        digits = text.removeprefix("-")
        if not digits.isascii() or not digits.isdigit() or len(digits) > len(str(_MOST)):
            return None
        return int(text)

    def text(self, slot: str, otherwise: str) -> str:
        """The word it was given."""
        use = self.uses.get(slot)
        return otherwise if use is None or use.value is None else use.value.lower()

    def on(self, slot: str) -> bool:
        """Whether a switch was turned on."""
        use = self.uses.get(slot)
        return use is not None and not use.off

    def off(self, slot: str) -> bool:
        """Whether a switch was turned off."""
        use = self.uses.get(slot)
        return use is not None and use.off


def _last(uses: tuple[ParsedFlag, ...]) -> dict[str, ParsedFlag]:
    return {use.flag.slot: use for use in uses}


def _layers(read: _Words, slot: str) -> int:
    """How many layers may be on the device; ``auto``, ``all`` and anything below 0 are all that fit."""
    count = read.number(slot)
    return _MOST if count is None or count < 0 else count


def _slot(name: str) -> str:
    return OPERATOR_FLAGS.use(name).flag.slot
