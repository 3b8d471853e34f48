"""``num_ctx``: the context a request asks for, which is a setting of the model here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmr_adapters.http.fidelity import Fidelity
from dmr_adapters.http.ollama.options import context_wanted
from dmr_adapters.http.services import Services
from dmr_core.domain.model import Model
from dmr_core.errors import RunnerActiveError
from dmr_core.services.inference import Plan

__all__ = ["context_of", "fit_context", "trained_context"]


async def fit_context(
    services: Services, name: str, plan: Plan, options: Mapping[str, Any], fidelity: Fidelity
) -> None:
    """See to it that the model is served with as much context as ``options`` ask for, and no less than it is now.

    A larger context becomes the model's setting, beside its other settings, and an idle runner is loaded anew; a smaller
    one changes nothing, so that two clients do not reload the model in turns. What cannot be had is told as clamped:
    more than the model was trained for, or anything while a runner is busy.

    Raises:
        InvalidRequestError: ``num_ctx`` is no number of tokens.
    """
    wanted = context_wanted(options)
    model = services.catalog.by_id(plan.key.model_id)
    if wanted is None or model is None:
        return
    now, most = context_of(services, plan, model), trained_context(model)
    fit = wanted if most is None else min(wanted, most)
    if now is not None and fit > now:
        try:
            await services.inference.configure(name, plan.key.mode, plan.key.backend, {"context-size": fit})
        except RunnerActiveError:
            fit = now
    if fit < wanted:
        fidelity.clamped["options.num_ctx"] = str(fit)


def context_of(services: Services, plan: Plan, model: Model) -> int | None:
    """Tokens of context the model is served with; ``None`` where that is the engine's choice."""
    key = plan.key
    config = services.inference.configuration.effective((key.backend, key.model_id, key.mode))
    size = config.context_size or model.config.context_size
    return trained_context(model) if size is not None and size < 0 else size


def trained_context(model: Model) -> int | None:
    """Tokens of context the model was trained for, as its header says."""
    header = model.config.gguf
    text = header.get(f"{header.get('general.architecture', '')}.context_length", "")
    return int(text) if text.isdigit() and len(text) < 10 and int(text) > 0 else None
