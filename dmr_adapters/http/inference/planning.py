"""Which runner a request goes to."""

from __future__ import annotations

from dmr_adapters.http.inference.routes import InferenceRoute
from dmr_adapters.http.services import Services
from dmr_core.errors import ModelNotFoundError, UnsupportedOperationError
from dmr_core.services.inference import Plan

__all__ = ["plan_for"]


async def plan_for(services: Services, route: InferenceRoute, name: str, *, stock: bool) -> Plan:
    """The plan for the model ``name``. To the ``stock`` CLI a backend in the path is a wish, as it is to its own service.

    Raises as :meth:`InferenceService.plan`, and:
        UnsupportedOperationError: the engine has no such route.
    """
    lenient = stock and route.backend is not None
    try:
        plan = services.inference.plan(name, route.mode, route.backend, lenient=lenient)
    except ModelNotFoundError:
        # Another process may have put it into the store since we looked.
        await services.store.refresh()
        plan = services.inference.plan(name, route.mode, route.backend, lenient=lenient)
    if route.upstream in services.backends.get(plan.key.backend).spec.lacks:
        raise UnsupportedOperationError(f"the engine of {name!r}, {plan.key.backend!r}, has no {route.upstream}")
    return plan
