"""The installed ``dmr serve`` with real and stand-in engines, in a directory that holds everything it may touch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Final

import attrs

from tests.bench.processes import Unavailable, free_port, wait_for
from tests.bench.service import dmr_program, environment, listening
from tests.soak.targets import DEMO, FAILING, REAL_MODELS, STUBBORN, WILLING, chat_template
from tests.stand_ins.standin_install import install_standin

__all__ = ["GRACE", "QUEUE", "SLOTS", "Service"]

SLOTS: Final = 2
QUEUE: Final = 16
GRACE: Final = 2.0
_QUEUE_TIMEOUT: Final = 90.0
_PLUGIN: Final = Path(__file__).parents[1] / "plugins" / "standin"


@attrs.define
class Service:
    """One daemon. ``root`` holds its store, home, runtime directory, temporary files and log."""

    root: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        if self.process is None:
            raise RuntimeError("the service was not started")
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self.root / "serve.log"

    @property
    def temporary(self) -> Path:
        """Its ``TMPDIR``."""
        return self.root / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        """What it and its clients see: nothing of the settings of whoever runs the soak, but for where modules are."""
        search = [str(self.root / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return environment(
            self.root,
            {
                "TMPDIR": str(self.temporary),
                "PYTHONPATH": os.pathsep.join(search),
                "PYTHONWARNINGS": "error",  # a leaked socket or file is a line in the log, and lines in the log count
                "LOG_LEVEL": "warning",
                "STANDIN_ENGINES": str(self.root / "engines"),
                "DMR_MAX_RUNNERS": str(SLOTS),
                "DMR_MAX_QUEUE": str(QUEUE),
                "DMR_QUEUE_TIMEOUT": str(_QUEUE_TIMEOUT),
                "DMR_KEEP_ALIVE": "10s",
                "DMR_STOP_GRACE": str(GRACE),
                "MODEL_RUNNER_HOST": self.url,
            },
        )

    def start(self) -> None:
        """Lay everything out, start, and package the models.

        Raises:
            Unavailable: it does not start, or cannot package.
        """
        self.temporary.mkdir()
        _install_plugin(self.root / "site")
        self._install_engines()
        self.port = free_port()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(dmr_program()), "serve", "--port", str(self.port)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_for(lambda: listening(self.port), self.process, self.log)
        for shift, model in enumerate(REAL_MODELS):
            template = self.root / f"template-{shift}.jinja"
            template.write_text(chat_template(shift), encoding="utf-8")
            weights = DEMO / "model" / "demo.gguf"
            self._cli("package", model, "--gguf", str(weights), "--chat-template", str(template))

    def _install_engines(self) -> None:
        engines = self.root / "engines"
        install_standin(engines / WILLING, event_delay=0.005)
        install_standin(engines / STUBBORN, event_delay=0.01, load_delay=0.2, ignore_sigterm=True, grandchild=True)
        install_standin(engines / FAILING, message="this stand-in never starts", exit_code=3)

    def _cli(self, *arguments: str) -> None:
        done = subprocess.run(
            [str(dmr_program()), *arguments], env=self.environment, capture_output=True, timeout=120, check=False
        )
        if done.returncode:
            raise Unavailable(f"dmr {' '.join(arguments)} exited with {done.returncode}:\n{done.stderr.decode()}")

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, limit: float) -> int | None:
        """Its exit status; ``None`` when it had to be killed after ``limit`` seconds."""
        if self.process is None:
            return None
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def kill(self) -> None:
        """End it, whatever it is doing."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            time.sleep(0.5)  # its engines follow


def _install_plugin(site: Path) -> None:
    """Lay the stand-ins' distribution out as an installer does: package, metadata, entry points."""
    project = tomllib.loads((_PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = project["name"].replace("-", "_")
    shutil.copytree(_PLUGIN / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{package}-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    points = [f"{name} = {module}" for name, module in project["entry-points"]["dmr"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[dmr]", *points, ""]), encoding="utf-8")
