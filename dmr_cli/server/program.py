"""Running the service: logging, signals, the listening socket, and the ``model-runner`` program."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dmr_cli.server.settings import read_settings
from dmr_core.domain.settings import Settings
from dmr_core.errors import DmrError

if TYPE_CHECKING:
    from dmr_cli.server.bootstrap import Services, TlsListener

__all__ = ["main", "run"]

_log: Final = logging.getLogger("dmr")
_FINISH: Final = 1.5
_POLL: Final = 0.02


def main() -> None:
    """The ``model-runner`` program: the service, configured by the environment alone.

    ``MODEL_RUNNER_PORT`` is the port to listen on; without it the service listens on the unix socket
    ``MODEL_RUNNER_SOCK``.
    """
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        sys.stdout.write(
            "Usage: model-runner\n\nRuns the model runner's service, configured by environment variables:\n"
            "MODEL_RUNNER_PORT, MODEL_RUNNER_SOCK, MODELS_PATH, LLAMA_SERVER_PATH, LLAMA_ARGS, LOG_LEVEL …\n"
            "See `dmr serve --help` for all of them.\n"
        )
        return
    if len(sys.argv) > 1:
        sys.stderr.write(f"Error: model-runner takes no arguments, got {sys.argv[1]!r}\n")
        sys.exit(2)
    try:
        code = run(read_settings(os.environ, socket_default=True))
    except DmrError as exc:
        sys.stderr.write(f"Error: {exc.message}\n")
        code = 1
    sys.exit(code)


def run(settings: Settings) -> int:
    """Run the service until it is told to stop; its exit status.

    Raises:
        DmrError: it could not be started.
    """
    # Whoever started us may ignore it, and we would inherit that: no program we start would then have an exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for handler in logging.getLogger().handlers:
        # Engines' lines are recorded at any level (see /logs), and shown on stderr at this one.
        handler.setLevel(settings.log_level.upper())
    # Nearly all that is made while the service starts stays: looking through it for garbage finds none.
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(settings))
    finally:
        gc.enable()


async def _serve(settings: Settings) -> int:
    # Imported here: `dmr serve --help` must not wait for a web framework.
    from dmr_cli.server.bootstrap import bind, open_service, serve  # noqa: PLC0415

    listener = bind(settings.listen)
    secure = None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        if settings.tls is not None:
            secure = _bind_tls(settings)
        async with open_service(settings) as service:
            # What lives as long as the service, modules and thousands of models, is not walked by every full collection.
            gc.freeze()
            gc.enable()
            also = f" and {settings.tls}" if settings.tls else ""
            _log.info("listening on %s%s, models in %s", settings.listen, also, settings.models_path)
            winding_down = asyncio.ensure_future(_wind_down(stop, service.services))
            try:
                await serve(service.app, listener, stop, secure)
            finally:
                stop.set()
                await winding_down
    finally:
        listener.close()
        if secure is not None:
            secure.socket.close()
        if settings.listen.socket is not None:
            settings.listen.socket.unlink(missing_ok=True)
    return 0


def _bind_tls(settings: Settings) -> TlsListener:
    from dmr_cli.server.bootstrap import bind_tls  # noqa: PLC0415 - few services listen for TLS

    assert settings.tls is not None  # noqa: S101 - the caller looked
    return bind_tls(settings.tls, [host for host in settings.allowed_hosts if "*" not in host])


async def _wind_down(stop: asyncio.Event, services: Services) -> None:
    """Let answers that are nearly done be finished, then stop the engines: what still streams ends with a typed error."""
    await stop.wait()
    _log.info("stopping")
    services.health.stop()
    scheduler = services.scheduler
    services.backends.leave()
    if services.recorder is not None:
        services.recorder.close()
    await asyncio.gather(
        services.pulling.aclose(), services.pushing.aclose(), services.loading.aclose(), services.backends.aclose()
    )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _FINISH
    while loop.time() < deadline and any(view.leases for view in scheduler.runners()):  # noqa: ASYNC110 - see below
        await asyncio.sleep(
            _POLL
        )  # the hot path tells nobody when a lease ends, and should not; these are looks at the very end
    await scheduler.aclose()
    services.logs.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed; it saves a tenth of the work per request, and nothing depends on it."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop
