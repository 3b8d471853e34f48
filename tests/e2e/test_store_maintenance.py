"""Looking after the store with the installed program, a real engine, and two daemons on one store."""

from __future__ import annotations

import json
import signal
from importlib import resources
from pathlib import Path

from tests.e2e.conftest import Daemon, gone

DEMO = Path(str(resources.files("dmr_cli.demo"))) / "model" / "demo.gguf"


def usage(daemon: Daemon) -> dict[str, object]:
    document: dict[str, object] = json.loads(daemon.cli("system", "df", "--json").stdout)
    return document


def test_a_model_that_one_daemon_runs_cannot_be_removed_by_another_until_that_one_is_killed(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start()
    daemon.cli("package", "tiny:v1", "--gguf", str(DEMO))
    assert daemon.cli("run", "tiny:v1", "Hello").stdout
    other = Daemon(tmp_path / "b", {**daemon.environment, "DMR_RUNTIME_DIR": str(tmp_path / "b" / "run")})
    other.root.mkdir()
    try:
        other.start()
        for command in (["rm", "tiny:v1"], ["purge", "--force"]):
            refused = other.cli(*command, check=False)
            assert refused.returncode == 5
            assert b"is being used by process" in refused.stderr or b"are being used by process" in refused.stderr
        kept = json.loads(other.cli("system", "prune", "--all", "--force", "--json").stdout)
        assert kept["models"] == []
        assert daemon.cli("run", "tiny:v1", "Hello").stdout
        engines = daemon.engines()
        daemon.stop(signal.SIGKILL)
        assert gone(engines)
        other.cli("rm", "tiny:v1")
        assert json.loads(other.cli("list", "--json").stdout) == []
    finally:
        other.stop()


def test_a_damaged_model_is_found_set_aside_and_whole_again_once_it_is_back(daemon: Daemon) -> None:
    daemon.environment["SOURCE_DATE_EPOCH"] = "1750000000"  # the same model when it is packaged again
    daemon.start()
    daemon.cli("package", "tiny:v1", "--gguf", str(DEMO))
    assert daemon.cli("system", "check").stdout.endswith(b"no problems.\n")
    assert daemon.cli("run", "tiny:v1", "Hello").stdout
    daemon.cli("unload", "--all")
    blobs = daemon.root / "models" / "blobs" / "sha256"
    weights = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(100_000)
        file.write(b"damage")
    quick = daemon.cli("system", "check", "--quick", check=False)
    assert quick.returncode == 0, "sizes alone do not tell"
    found = daemon.cli("system", "check", check=False)
    assert found.returncode == 1
    assert b"tiny:v1" in found.stdout

    # The service that is gone, as after a crash.
    daemon.stop()
    environment = dict(daemon.environment)
    report = json.loads(
        daemon.cli("system", "check", "--path", environment["MODELS_PATH"], "--repair", "--json").stdout
    )
    assert report["clean"]
    daemon.start()
    assert json.loads(daemon.cli("list", "--json").stdout) == []
    daemon.cli("package", "tiny:v1", "--gguf", str(DEMO))
    assert daemon.cli("run", "tiny:v1", "Hello").stdout
    daemon.cli("unload", "--all")
    daemon.cli("system", "check")
    before = usage(daemon)
    daemon.cli("system", "prune", "--force")
    after = usage(daemon)
    assert int(str(after["total"])) < int(str(before["total"]))
    assert after["quarantine"] == 0


def test_purge_leaves_nothing_and_the_service_goes_on(daemon: Daemon) -> None:
    daemon.start()
    daemon.cli("package", "tiny:v1", "--gguf", str(DEMO))
    assert daemon.cli("run", "tiny:v1", "Hello").stdout
    done = daemon.cli("purge", stdin=b"y\n")
    assert done.stdout == b""
    assert json.loads(daemon.cli("list", "--json").stdout) == []
    assert json.loads(daemon.cli("ps", "--json").stdout) == []
    assert list((daemon.root / "models" / "blobs" / "sha256").iterdir()) == []
    daemon.cli("package", "tiny:v1", "--gguf", str(DEMO))
    assert daemon.cli("run", "tiny:v1", "Hello").stdout
