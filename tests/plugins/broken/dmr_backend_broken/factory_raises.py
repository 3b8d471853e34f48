from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec


def factory(context):
    raise ValueError("no such device")


@hookimpl
def dmr_backends():
    yield BackendSpec(name="factory", summary="cannot be built", factory=factory)
