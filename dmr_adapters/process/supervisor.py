"""Starting children that die with us, however we die.

Three nets, because none catches everything. A stop ends the child's group and everything that
carries its marker. The parent-death signal ends the child when we are killed. And what outlives
even that (grandchildren, or any child on macOS, which has no such signal) is ended by the next
daemon to start.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from dmr_adapters.process import process_table
from dmr_adapters.process.child import PosixProcess
from dmr_adapters.process.environment import child_environment
from dmr_adapters.process.leftovers import sweep
from dmr_adapters.process.listeners import PortSource
from dmr_adapters.process.output import LineLog, OutputPump
from dmr_adapters.process.redaction import Redactor
from dmr_adapters.process.runtime_directory import ChildRecord, RuntimeDirectory, base_locked, find_base
from dmr_core.domain.memory import Footprint
from dmr_core.errors import DmrError, EngineUnusableError, ShuttingDownError, UpstreamError
from dmr_core.ports.process import ProcessSpec, ProcessSupervisor

__all__ = ["PosixProcessSupervisor"]

_log: Final = logging.getLogger(__name__)
_PR_SET_PDEATHSIG: Final = 1
_NOT_A_LOGGER_NAME: Final = re.compile(r"[^\w-]+")

# What no second attempt changes, and what does.
_REMEDIES: Final = {
    errno.ENOENT: "Install the engine again, or correct the variable that says where it is; a script needs its "
    "interpreter (first line) too.",
    errno.EACCES: "Make it executable (chmod +x), on a file system that is not mounted noexec.",
    errno.ENOEXEC: "Install a build for this machine (`uname -m` shows which).",
    errno.ENOTDIR: "Correct the variable that says where the engine is.",
    errno.EISDIR: "Correct the variable that says where the engine is.",
    errno.ELOOP: "Correct the symbolic links on its path.",
}

# Resolved here, in the parent: between fork and exec a child must not look up libraries. PyDLL, because
# it keeps the GIL, which is one lock less to come back for.
_prctl: Final = ctypes.PyDLL(None).prctl if sys.platform == "linux" else None


_LOOKS_PATIENCE: Final = 1.0
"""Seconds that closing waits for looks to end."""


class PosixProcessSupervisor(ProcessSupervisor):
    """Supervises children of the event loop it was opened on.

    Start children from the thread that lives longest, normally the main one: to Linux the "parent"
    of the parent-death signal is the thread that forked, so children die when that thread ends.
    """

    def __init__(
        self, directory: RuntimeDirectory, *, environ: Mapping[str, str], redact: Redactor, threads: Executor
    ) -> None:
        """Use :meth:`open`."""
        self._directory = directory
        self._threads = threads
        # Looking at a process can take as long as it holds its memory's lock; nobody's end may wait for that.
        self._looks = ThreadPoolExecutor(2, thread_name_prefix="process-look")
        self._environ = environ
        self._redact = redact
        self._children: set[PosixProcess] = set()
        self._sockets: dict[str, list[Path]] = {}
        self._ports = PortSource()
        self._closed = False

    @classmethod
    async def open(
        cls, base: Path | None = None, *, environ: Mapping[str, str] | None = None, models: Path | None = None
    ) -> Self:
        """Clear up after daemons that were killed, and take a runtime directory.

        ``base`` is where runtime directories live (see :func:`find_base`), ``environ`` what children
        may inherit from, ``models`` a directory whose path is not shown in output.

        Raises:
            InvalidConfigurationError: ``base`` is not private to this user, or too deep for sockets.
        """
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited; children would be reaped behind our back
        variables = dict(os.environ if environ is None else environ)
        places = {Path(variables.get("HOME") or Path.home()): "~"}
        if models is not None:
            places[models] = "models"
        # Our own, as looking through all processes should not wait behind whatever else uses threads.
        threads = ThreadPoolExecutor(1, thread_name_prefix="process-table")
        taking = asyncio.get_running_loop().run_in_executor(threads, _take_directory, base, variables)
        try:
            directory = await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_give_up)
            threads.shutdown(wait=False)
            raise
        except BaseException:
            threads.shutdown()
            raise
        return cls(directory, environ=variables, redact=Redactor(places), threads=threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def directory(self) -> Path:
        """The runtime directory: private to this user, removed by :meth:`aclose`."""
        return self._directory.path

    async def start(self, spec: ProcessSpec) -> PosixProcess:
        """See :class:`ProcessSupervisor`. Does not wait, so it cannot be cancelled half-way.

        Raises:
            EngineUnusableError: the program does not exist or cannot be executed.
            UpstreamError: the system is out of processes or descriptors.
            ShuttingDownError: the supervisor is closed.
        """
        if self._closed:
            raise ShuttingDownError("no engine can be started: the service is stopping")
        token = secrets.token_hex(16)
        record = ChildRecord(token, boot_id=process_table.boot_id())
        try:
            # Before there is a process, so that we cannot be killed in between and leave a nameless one.
            self._directory.write(record)
            popen, pipe = _spawn(spec, child_environment(self._environ, spec.environment, token))
            child = self._adopt(popen, pipe, spec.name, token)
        except OSError as exc:
            self._directory.erase(token)
            raise UpstreamError(f"cannot start {spec.name!r}: {exc.strerror or exc}") from exc
        except BaseException:
            self._directory.erase(token)
            raise
        given = [Path(word) for word in spec.argv if Path(word).parent == self.directory]
        if given:
            self._sockets[token] = given
        with suppress(OSError):  # the token alone is enough to find it again
            self._directory.write(attrs.evolve(record, pid=child.pid, start_time=child.start_time))
        return child

    def _adopt(self, popen: subprocess.Popen[bytes], pipe: int, name: str, token: str) -> PosixProcess:
        lines = LineLog(logging.getLogger(f"dmr.engine.{_NOT_A_LOGGER_NAME.sub('_', name)}"))
        pump = None
        try:
            pump = OutputPump(pipe, lines)
            child = PosixProcess(
                popen,
                name=name,
                token=token,
                output=(pump, lines),
                redact=self._redact,
                threads=self._threads,
                looks=self._looks,
                on_gone=self._forget,
            )
        except BaseException:  # out of descriptors, say
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            if pump is None:
                os.close(pipe)
            else:
                pump.close()
            raise
        self._children.add(child)
        return child

    async def memory(self) -> Footprint | None:
        """What all its children use together; ``None`` if there are none, or it cannot be told."""
        found = await asyncio.gather(*(child.memory() for child in list(self._children)))
        known = [footprint for footprint in found if footprint is not None]
        if not known:
            return None
        return Footprint(
            resident=sum(footprint.resident for footprint in known),
            anonymous=sum(footprint.anonymous for footprint in known),
            device=sum(footprint.device for footprint in known),
        )

    def socket_path(self, name: str) -> Path:
        """See :class:`ProcessSupervisor`.

        Raises:
            InvalidConfigurationError: the path would be too long for a socket.
        """
        return self._directory.socket_path(name)

    def tcp_port(self) -> int:
        """See :class:`ProcessSupervisor`.

        Raises:
            UpstreamError: every port is in use.
        """
        try:
            return self._ports.take()
        except OSError as exc:
            raise UpstreamError(f"there is no free TCP port for an engine: {exc.strerror or exc}") from exc

    async def aclose(self, grace: float = 5.0) -> None:
        """Stop every child, then remove the runtime directory. Idempotent.

        Cancelling leaves the children ending; call it again to wait for them.
        """
        self._closed = True
        ended = await asyncio.gather(*(child.stop(grace) for child in self._children), return_exceptions=True)
        for failure in ended:
            if isinstance(failure, DmrError):
                _log.error("%s", failure)
        # What would not die keeps its record, for the next daemon to try again.
        self._directory.close(remove=not self._children)
        if not self._children:
            self._threads.shutdown()
        await _end_looks(self._looks)

    def _forget(self, child: PosixProcess) -> None:
        self._children.discard(child)
        self._directory.erase(child.token)
        for socket in self._sockets.pop(child.token, ()):
            with suppress(OSError):  # who ends in good order removes its own
                socket.unlink()


async def _end_looks(looks: ThreadPoolExecutor) -> None:
    """End the threads, unless one is stuck in a look: that one ends when the process does."""
    ending = threading.Thread(target=lambda: looks.shutdown(cancel_futures=True), name="process-look-end", daemon=True)
    ending.start()
    deadline = asyncio.get_running_loop().time() + _LOOKS_PATIENCE
    while ending.is_alive() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a thread tells nobody
        await asyncio.sleep(0.002)


def _take_directory(base: Path | None, environ: Mapping[str, str]) -> RuntimeDirectory:
    base = find_base(base, environ)
    with base_locked(base):
        sweep(base)
        return RuntimeDirectory(base)


def _give_up(taking: asyncio.Future[RuntimeDirectory]) -> None:
    if not taking.cancelled() and taking.exception() is None:
        taking.result().close()


def _spawn(spec: ProcessSpec, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """A child in a session of its own, and the reading end of its output."""
    if not spec.argv:
        raise UpstreamError(f"cannot start {spec.name!r}: no program was given")
    read, write = os.pipe()
    try:
        popen = subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            close_fds=True,
            env=environment,
            start_new_session=True,
            preexec_fn=_death_warrant(),  # noqa: PLW1509 - see there
        )
    except (OSError, ValueError) as exc:
        os.close(read)
        reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        cause = f"cannot start {spec.name!r}: {spec.argv[0]!r}: {reason}"
        remedy = _REMEDIES.get(exc.errno or 0) if isinstance(exc, OSError) else None
        if remedy is None:
            raise UpstreamError(cause) from exc
        raise EngineUnusableError(spec.name, None, cause=cause, remedy=remedy) from exc
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    return popen, read


def _death_warrant() -> Callable[[], None] | None:
    """What a child runs between fork and exec so that it dies with us.

    ``preexec_fn`` is dangerous where other threads hold locks at the time of the fork, as the child
    would wait for them for ever. This function takes none: everything it calls was looked up before
    the fork, it imports, logs and allocates nothing to speak of, and the interpreter and the C library
    make the locks it cannot avoid (the GIL, malloc) usable again after a fork. The alternative, a
    launcher that sets the signal and then executes the engine, costs a Python start per engine.
    """
    prctl = _prctl
    if prctl is None:
        return None
    parent = os.getpid()
    getpid, getppid, kill, killed = os.getpid, os.getppid, os.kill, int(signal.SIGKILL)

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, killed, 0, 0, 0)
        if getppid() != parent:  # it died before we asked: the signal will never come
            kill(getpid(), killed)

    return die_with_parent
