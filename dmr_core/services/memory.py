"""How much memory runners may have, and how much each needs."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Final

import attrs

from dmr_core.domain.engine import EngineConfig, RunnerKey
from dmr_core.domain.memory import Capacity, Footprint, Memory, MemoryBudget
from dmr_core.domain.model import Model
from dmr_core.ports.engine import Engine, MemoryRequest
from dmr_core.ports.memory import FootprintLedger, MemoryProbe
from dmr_core.services.scheduling.state import Launch

__all__ = ["HEADROOM", "MemoryService"]

_log: Final = logging.getLogger("dmr.memory")

HEADROOM: Final = 256 * 1024 * 1024
"""Bytes left to everybody else, so that a full machine still answers."""

_MOST: Final = 1000
"""Expectations kept in mind: more than anybody runs models, under different settings, with one service."""


@attrs.frozen
class MemoryService:
    """Answers the scheduler's questions about memory."""

    probe: MemoryProbe
    ledger: FootprintLedger
    budget: MemoryBudget = attrs.field(factory=MemoryBudget)
    _expected: dict[str, Memory | None] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    """What engines estimated, by the settings that were asked for."""

    async def capacity(self) -> Capacity:
        """What all runners may occupy together, now; without limits where nothing is known or nothing enforced."""
        if not self.budget.enforced:
            return Capacity()
        found = await self.probe.read()
        if found is None:
            return Capacity(self.budget.limit)
        host = max(0, found.available + found.engines - HEADROOM)
        if self.budget.limit is not None:
            host = min(host, self.budget.limit)
        if self.budget.share is not None:
            host = min(host, int(found.total * self.budget.share))
        device = found.device_available
        return Capacity(host, None if device is None else device + found.device_engines)

    def needs(self, engine: Engine, key: RunnerKey, model: Model, config: EngineConfig, draft: Model | None) -> Memory:
        """What a runner will need: as it was seen, else as its engine estimates, else the size of its files."""
        try:
            estimate = engine.estimate(MemoryRequest(model=model, mode=key.mode, config=config, draft=draft))
        except Exception:  # a plugin's code: an estimate is worth no failed request
            _log.exception("estimating the memory of %s failed", key)
            estimate = None
        settings = _settings(key, config)
        self._expect(settings, estimate)
        known = self.ledger.get(_name(settings, estimate))
        if known is not None:
            # What is held on accelerators is not measured yet, so there the estimate stands.
            return known if estimate is None else known.at_least(Memory(0, estimate.device))
        if estimate is not None:
            return estimate
        return Memory(model.size + (draft.size if draft is not None else 0))

    async def record(self, key: RunnerKey, launch: Launch, seen: Footprint) -> None:
        """Remember what a runner uses."""
        settings = _settings(key, launch.config)
        await self.ledger.record(_name(settings, self._expected.get(settings)), seen.memory)

    def _expect(self, settings: str, estimate: Memory | None) -> None:
        self._expected.pop(settings, None)
        self._expected[settings] = estimate
        while len(self._expected) > _MOST:
            del self._expected[next(iter(self._expected))]


def _name(settings: str, estimate: Memory | None) -> str:
    """What footprints are filed under: all that changes how much memory is needed.

    An estimate stands for what no setting of the model tells: the operator's arguments, the accelerator, the program. What
    was seen while the engine expected something else is no answer.
    """
    return f"{settings}/{estimate.host}+{estimate.device}" if estimate is not None else settings


def _settings(key: RunnerKey, config: EngineConfig) -> str:
    settings = {
        "context": config.context_size,
        "flags": list(config.runtime_flags),
        "sections": {name: dict(section) for name, section in config.sections.items()},
        "tokens": config.speculative.num_tokens if config.speculative else None,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return f"{key.backend}/{key.model_id}/{key.mode}/{key.draft_id or '-'}/{digest}"
