"""Which runner a request goes to."""

from __future__ import annotations

from dmr_adapters.http.inference.routes import InferenceRoute
from dmr_adapters.http.services import Services
from dmr_core.errors import BackendNotInstalledError, ModelNotFoundError, UnsupportedOperationError
from dmr_core.services.inference import Plan

__all__ = ["plan_for"]


async def plan_for(services: Services, route: InferenceRoute, name: str, *, stock: bool) -> Plan:
    """The plan for the model ``name``. To the ``stock`` CLI a backend in the path is a wish, as it is to its own service.

    Raises as :meth:`InferenceService.plan`, and:
        UnsupportedOperationError: the engine has no such route.
    """
    plan = await _chosen(services, route, name, lenient=stock and route.backend is not None)
    if route.upstream in services.backends.get(plan.key.backend).spec.lacks:
        raise UnsupportedOperationError(f"the engine of {name!r}, {plan.key.backend!r}, has no {route.upstream}")
    return plan


async def _chosen(services: Services, route: InferenceRoute, name: str, *, lenient: bool) -> Plan:
    try:
        return services.inference.plan(name, route.mode, route.backend, lenient=lenient)
    except ModelNotFoundError:
        # Another process may have put it into the store since we looked.
        await services.catalog.refresh(name)
    except BackendNotInstalledError as exc:
        await services.backends.look(exc.backend)  # it may be there by now
    return services.inference.plan(name, route.mode, route.backend, lenient=lenient)
