"""``dmr-llama-server``: the server inside the ``xllamacpp`` package, with llama-server's flags.

Exit status: 0 after SIGTERM or SIGINT, 1 when the model or the address cannot be used, 2 for a wrong command line.

xllamacpp keeps the interpreter's lock while it loads a model and while it shuts down, so no Python code runs then.
While it loads, the signals keep their default effect and end the process at once; nothing has been served that would
need finishing. While it shuts down, a watchdog that needs no interpreter sees to it that the process ends.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Sequence

from dmr_backends_llamacpp.server_flags import FlagError, ServerOptions, help_text, parse

__all__ = ["main"]

_SHUTDOWN_SECONDS = 5.0
_ENDING = (signal.SIGTERM, signal.SIGINT)


class _StartError(Exception):
    """The server cannot start; the message is the line to print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    began = time.monotonic()
    parent = os.getppid()
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.action != "serve":
            return _inform(options.action)
        if os.environ.get("DMR_DIE_WITH_PARENT") == "1":
            _die_with(parent)
        _check_model(options.model_path)
        _clear_sockets(options)
        return _serve(options, began)
    except FlagError as error:
        for problem in error.problems:
            _say(f"error: {problem}")
        return 2
    except _StartError as error:
        _say(f"error: {error}")
        return 1


def _serve(options: ServerOptions, began: float) -> int:
    _say(f"dmr-llama-server: starting (pid {os.getpid()}, model {options.model_path})")
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    # Imported this late because it takes longer than everything above, and says nothing about a wrong command line.
    import xllamacpp  # noqa: PLC0415

    from dmr_backends_llamacpp.server_params import common_params  # noqa: PLC0415

    params = common_params(xllamacpp, options)
    # A handler may run on any of the server's threads: only its byte in the pipe is sure to wake this one.
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    ours = _descriptors()
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, MemoryError) as error:
        _unlink(options.socket_paths)
        _await_log()
        raise _StartError(_diagnosis(options)) from error

    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    for number in _ENDING:
        signal.signal(number, _noted)
    ready = round((time.monotonic() - began) * 1000)
    _say(f"dmr-llama-server: listening on {server.listening_address} (ready in {ready} ms)")
    caught = os.read(woken, 1)[0]

    _say(f"dmr-llama-server: stopping on {signal.Signals(caught).name}")
    _unlink(options.socket_paths)
    _end_within(_SHUTDOWN_SECONDS)
    _hang_up(_descriptors() - ours)
    del server
    return 0


def _await_log() -> None:
    """Let xllamacpp's log come to rest: its own thread writes it, in pieces that another line would fall between."""
    tasks, ourselves = "/proc/self/task", str(os.getpid())
    for _ in range(100):
        time.sleep(0.01)
        try:
            if all(_sleeps(task) for task in os.listdir(tasks) if task != ourselves):  # noqa: PTH208 - pathlib is slow
                return
        except FileNotFoundError:  # a thread that has just ended, or no Linux: then the waiting must do
            continue


def _sleeps(task: str) -> bool:
    with open(f"/proc/self/task/{task}/stat", "rb") as file:  # noqa: PTH123 - importing pathlib costs milliseconds
        return file.read().rpartition(b") ")[2].startswith(b"S")


def _diagnosis(options: ServerOptions) -> str:
    """Which of two failures it was: xllamacpp raises the same error for an address as for a model."""
    import socket  # noqa: PLC0415 - slow to import, and needed only now

    port = options.values["port"]
    for host in options.hostnames:
        local = host in options.socket_paths
        family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(host if local else (host, port))
            except OSError as error:
                return f"cannot listen on {host if local else f'{host}:{port}'!r}: {error.strerror}"
        if local:
            _unlink((host,))
    return f"failed to load model {options.model_path!r}: the lines above say why"


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: the byte that Python wrote to the pipe is the message."""


def _descriptors() -> frozenset[int]:
    return frozenset(int(name) for name in os.listdir("/dev/fd"))  # noqa: PTH208 - importing pathlib costs milliseconds


def _hang_up(descriptors: frozenset[int]) -> None:
    """End what clients are still being answered.

    Left alone, the server would stop computing and then wait for its clients to leave, who wait for it. A client must
    be cut off in both directions: to one that it can still write to, the server would send an empty answer with
    status 200.
    """
    import socket  # noqa: PLC0415 - slow to import, and needed only in the end

    for descriptor in descriptors:
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # no socket, or closed by now
            continue
        try:
            if not connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            ):  # the server closes its own listeners
                connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # the client has left
            pass
        finally:
            connection.detach()


def _end_within(seconds: float) -> None:
    """End the process, with status 1 and a trace of where it hung, if it still runs after ``seconds``."""
    import faulthandler  # noqa: PLC0415 - its watchdog is the one timer that works without the interpreter's lock

    faulthandler.dump_traceback_later(seconds, exit=True)


def _inform(action: str) -> int:
    if action == "help":
        sys.stdout.write(help_text())
    elif action == "version":
        from importlib.metadata import version  # noqa: PLC0415 - slow to import, and used here alone

        sys.stdout.write(f"version: 0 (xllamacpp {version('xllamacpp')})\n")
    else:
        import xllamacpp  # noqa: PLC0415 - slow to import

        sys.stdout.write("Available devices:\n")
        cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
        for device in xllamacpp.get_device_info():
            if device["type"] != cpu:  # llama-server lists what layers can be offloaded to
                total, free = (device[key] // (1024 * 1024) for key in ("memory_total", "memory_free"))
                sys.stdout.write(f"  {device['name']}: {device['description']} ({total} MiB, {free} MiB free)\n")
    return 0


def _check_model(path: str) -> None:
    """Tell what is wrong with the file before the costly import, and better than llama.cpp's log does."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - importing pathlib costs milliseconds
            magic = file.read(4)
    except OSError as error:
        raise _StartError(f"failed to load model {path!r}: {error.strerror}") from error
    if magic != b"GGUF":
        raise _StartError(f"failed to load model {path!r}: not a GGUF file")


def _clear_sockets(options: ServerOptions) -> None:
    """Remove what a killed server left behind, but nothing that is alive or no socket at all."""
    for path in options.socket_paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _StartError(f"cannot listen on {path!r}: {error.strerror}") from error
        if not stat.S_ISSOCK(status.st_mode):
            raise _StartError(f"cannot listen on {path!r}: it exists and is not a socket")
        if _answers(path):
            raise _StartError(f"cannot listen on {path!r}: another process does")
        _unlink((path,))


def _answers(path: str) -> bool:
    import socket  # noqa: PLC0415 - needed only when a socket is in the way

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _unlink(paths: Sequence[str]) -> None:
    for path in paths:
        try:  # noqa: SIM105 - contextlib is not needed otherwise
            os.unlink(path)  # noqa: PTH108 - as above
        except OSError:  # already gone, or no longer ours to remove
            pass


def _die_with(parent: int) -> None:
    """Ask Linux for a SIGTERM when the parent dies; a supervisor that can do so asks by itself."""
    import ctypes  # noqa: PLC0415 - slow to import, and used here alone

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        raise _StartError("the parent process is gone")


def _say(line: str) -> None:
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:  # whoever read it is gone, which is no reason to stop or to fail while stopping
        pass


if __name__ == "__main__":
    sys.exit(main())
