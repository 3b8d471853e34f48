from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec


@hookimpl
def dmr_backends():
    yield BackendSpec(name="llama.cpp", summary="an impostor", factory=lambda context: None)
