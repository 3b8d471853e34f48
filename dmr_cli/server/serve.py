"""``dmr serve``."""

from __future__ import annotations

import os

import click

__all__ = ["serve"]


@click.command()
@click.option("--port", metavar="PORT", help="Listen on this TCP port (MODEL_RUNNER_PORT; default 12434).")
@click.option("--bind", metavar="ADDRESS", help="Address for the port (DMR_BIND; default 127.0.0.1).")
@click.option("--socket", metavar="PATH", help="Listen on a unix socket instead (MODEL_RUNNER_SOCK).")
@click.option("--models-path", metavar="DIR", help="Where models are kept (MODELS_PATH; default ~/.docker/models).")
def serve(port: str | None, bind: str | None, socket: str | None, models_path: str | None) -> None:
    """Run the model service in the foreground.

    Everything can also be set in the environment; a flag wins over its variable.

    \b
    More variables:
      LLAMA_SERVER_PATH   directory of a native llama-server to use
      LLAMA_ARGS          arguments for it, instead of "-ngl 999 --metrics"
      VLLM_SERVER_PATH    the vllm program
      DMR_MAX_RUNNERS     how many models may be loaded at once
      DMR_MAX_MEMORY      memory all engines together may have (8GiB, 80%, off)
      DMR_KEEP_ALIVE      how long an idle model stays loaded (5m; -1 for ever)
      DMR_API_KEY_FILE    every request must bring this key; made by `dmr key create FILE`
      MODEL_RUNNER_TLS_ENABLED, MODEL_RUNNER_TLS_PORT, MODEL_RUNNER_TLS_CERT, MODEL_RUNNER_TLS_KEY
                          a listener for TLS beside the plain one (12444)
      DMR_ORIGINS         origins of web pages that may call the API
      DMR_HOSTS           names the service may be called by, besides this machine's
      DMR_RECORD_REQUESTS whether `dmr requests` has something to show (1; 0 beyond loopback)
      DMR_DISABLED_PLUGINS, DMR_OVERRIDE_GPU, DISABLE_METRICS, LOG_LEVEL, MODEL_RUNNER_LOG_DIR

    \b
    Examples:
      dmr serve
      dmr serve --port 13434 --models-path /srv/models
      dmr serve --socket /run/user/1000/dmr.sock
    """  # noqa: D301 - click looks for the character \b, not for a backslash
    from dmr_cli.server.program import run  # noqa: PLC0415 - keeps --help quick
    from dmr_cli.server.settings import read_settings  # noqa: PLC0415
    from dmr_core.errors import DmrError  # noqa: PLC0415

    if port is not None and socket is not None:
        raise click.UsageError("--port and --socket exclude each other")
    try:
        code = run(read_settings(os.environ, port=port, bind=bind, socket=socket, models_path=models_path))
    except DmrError as exc:
        raise click.ClickException(exc.message) from exc
    raise SystemExit(code)
