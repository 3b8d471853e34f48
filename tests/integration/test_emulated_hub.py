"""Hugging Face's own client takes the emulated Hub for the Hub: what our tests are run against is faithful."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.conftest import require
from tests.stand_ins.hugging_face_hub import emulated_hub, git_oid

_TOKEN: Final = "hf_of-a-reader"
_WEIGHTS: Final = bytes(range(256)) * 1000
_CLIENT: Final = """
import json, sys
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError

api, token = HfApi(), sys.argv[1]

def error(call):
    try:
        call()
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as exc:
        return type(exc).__name__

info = api.model_info("Org/M", revision="refs/pr/1")
tree = [(f.path, f.size, f.blob_id, f.lfs and f.lfs.sha256)
        for f in api.list_repo_tree("Org/M", recursive=True) if hasattr(f, "size")]
path = hf_hub_download("Org/M", "dir/m.gguf", token=token)
print(json.dumps({
    "sha": info.sha,
    "tree": tree,
    "bytes": open(path, "rb").read().hex(),
    "small": open(hf_hub_download("Org/M", "config.json")).read(),
    "renamed": api.model_info("Old/M").id,
    "errors": [
        error(lambda: hf_hub_download("Org/Gated", "config.json", token=False)),
        error(lambda: api.model_info("Org/Missing", token=False)),
        error(lambda: api.model_info("Org/M", revision="missing")),
        error(lambda: hf_hub_download("Org/M", "missing.json")),
    ],
}))
"""


async def _client(endpoint: str, home: Path) -> dict[str, Any]:
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HOME": str(home)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENT, _TOKEN, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    answer: dict[str, Any] = json.loads(output)
    return answer


async def test_the_hubs_own_client_lists_and_downloads_from_it(tmp_path: Path) -> None:
    require(
        "huggingface_hub",
        available=find_spec("huggingface_hub") is not None,
        reason="huggingface_hub is not installed",
    )
    files = {"config.json": b"{}", "dir/m.gguf": _WEIGHTS, "README.md": b"# M"}
    async with emulated_hub() as hub:
        hub.page, hub.tokens = 2, {_TOKEN}
        repository = hub.add("Org/M", files)
        repository.revisions["refs/pr/1"] = {"config.json": b"[]"}
        hub.add("Org/Gated", files, gated=True)
        hub.renamed["Old/M"] = "Org/M"

        said = await _client(hub.url, tmp_path)

        digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        listed = {path: (size, digest) for path, size, _, digest in said["tree"]}
        assert listed == {
            path: (len(content), digests[path] if path.endswith(".gguf") else None) for path, content in files.items()
        }
        assert {path: oid for path, _, oid, _ in said["tree"]}["config.json"] == git_oid(b"{}")
        assert said["sha"] == repository.commit("refs/pr/1")
        assert bytes.fromhex(said["bytes"]) == _WEIGHTS
        assert (said["small"], said["renamed"]) == ("{}", "Org/M")
        assert said["errors"] == [
            "GatedRepoError",
            "RepositoryNotFoundError",
            "RevisionNotFoundError",
            "RemoteEntryNotFoundError",
        ]
        storage = [request.authorization for request in hub.seen if request.storage]
        assert set(storage) == {None}
