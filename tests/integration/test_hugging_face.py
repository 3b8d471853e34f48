"""Pulling from an emulated Hub into a store on disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import attrs
import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from dmr_adapters.clock import SystemClock
from dmr_adapters.hugging_face import hub as hub_module
from dmr_adapters.hugging_face.hub import HuggingFaceHub
from dmr_adapters.hugging_face.token import TokenSource
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.package_source.filesystem import FilesystemPackageSource
from dmr_adapters.registry.client import HttpClient, Timeouts
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress, ProgressKind
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import (
    DigestMismatchError,
    InvalidReferenceError,
    MalformedArtifactError,
    RegistryError,
    RegistryUnreachableError,
    RemoteModelNotFoundError,
    UnauthorizedError,
    UnsupportedFormatError,
)
from dmr_core.ports.registry import Credentials
from dmr_core.services.fetching import FetchingService, FetchLimits
from dmr_core.services.hugging_face import HuggingFaceSource
from tests.stand_ins.hugging_face_hub import EmulatedHub, emulated_hub

_DEMO: Final = Path(__file__).parents[2] / "dmr_cli" / "demo" / "model"
_GGUF: Final = (_DEMO / "demo.gguf").read_bytes()
_SAFETENSORS: Final[Mapping[str, bytes]] = {
    path.name: path.read_bytes() for path in sorted((_DEMO / "safetensors").iterdir())
}
_SHORT: Final = Timeouts(connect=2, head=1, stall=1, document=5)
_TOKEN: Final = "hf_of-a-reader"


class ImpatientClock(SystemClock):
    """Notes every wait and hardly waits; a little for what only ticks, so that it does not spin."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0 if seconds < 10 else 0.05)


@attrs.define(eq=False)
class Pulling:
    """A source over a store, and the Hub it pulls from."""

    emulated: EmulatedHub
    store: FilesystemModelStore
    hub: HuggingFaceHub
    source: HuggingFaceSource
    clock: ImpatientClock

    async def pull(self, name: str, token: str | None = None) -> list[Progress]:
        """Every line of a pull."""
        reference = parse_reference(name, ReferencePolicy())
        lines = self.source.pull(reference, Credentials(token) if token else None)
        async with aclosing(lines) as following:
            return [line async for line in following]

    def model(self, name: str) -> Model:
        """What a name stands for in the store."""
        found = self.store.by_tag(parse_reference(name, ReferencePolicy()).canonical)
        assert found is not None
        return found


async def pulling_at(root: Path, emulated: EmulatedHub, environment: Mapping[str, str] | None = None) -> Pulling:
    """One with a store in ``root``. Whoever asks closes its hub."""
    clock = ImpatientClock()
    store = await FilesystemModelStore.open(root)
    hub = HuggingFaceHub(clock=clock, endpoint=emulated.url, tokens=TokenSource(environment or {}), timeouts=_SHORT)
    source = HuggingFaceSource(
        store=store,
        hub=hub,
        files=FilesystemPackageSource(),
        fetching=FetchingService(store=store, clock=clock, limits=FetchLimits()),
        clock=clock,
    )
    return Pulling(emulated, store, hub, source, clock)


@pytest.fixture
async def emulated() -> AsyncIterator[EmulatedHub]:
    async with emulated_hub() as running:
        yield running


@pytest.fixture
async def pulling(tmp_path: Path, emulated: EmulatedHub) -> AsyncIterator[Pulling]:
    made = await pulling_at(tmp_path / "models", emulated)
    yield made
    await made.hub.aclose()


async def test_a_gguf_comes_with_its_licence_and_template(pulling: Pulling) -> None:
    template, licence = b"{{ messages }}", b"do what you like"
    files = {".gitattributes": b"*.gguf filter=lfs", "README.md": b"# Tiny", "LICENSE": licence}
    files |= {"tiny-Q4_K_M.gguf": _GGUF, "chat_template.jinja": template, "tokenizer_config.json": b"{}"}
    pulling.emulated.add("Org/Tiny-GGUF", files)

    lines = await pulling.pull("hf.co/Org/Tiny-GGUF")

    assert [line.message for line in lines if line.layer is None] == [
        "Fetching file list...",
        "Selected Q4_K_M quantization",
        f"Found 3 files ({(len(_GGUF) + len(template) + len(licence)) / 2**20:.2f} MB total)",
        "Building model artifact...",
        "Model pulled successfully",
    ]
    assert lines[-1].kind is ProgressKind.SUCCESS
    model = pulling.model("hf.co/org/tiny-gguf")
    assert model.tags == ("huggingface.co/org/tiny-gguf:latest",)
    assert (model.config.format, model.config.architecture, model.config.created) == (
        "gguf",
        "llama",
        "2025-06-15T12:00:00Z",
    )
    bundle = await pulling.store.bundle(model.id)
    assert bundle.gguf is not None
    assert bundle.gguf.read_bytes() == _GGUF
    assert bundle.chat_template is not None
    assert bundle.chat_template.read_bytes() == template


async def test_safetensors_come_with_what_an_engine_reads(pulling: Pulling) -> None:
    pulling.emulated.add("org/tiny", {**_SAFETENSORS, "pytorch_model.bin": b"pickle", "modeling_tiny.py": b"import os"})

    lines = await pulling.pull("hf.co/org/tiny")

    assert "Left out, as duplicates or because loading them runs code: modeling_tiny.py, pytorch_model.bin" in [
        line.message for line in lines
    ]
    model = pulling.model("hf.co/org/tiny")
    bundle = await pulling.store.bundle(model.id)
    assert sorted(path.name for path in bundle.directory.iterdir()) == sorted(_SAFETENSORS)
    assert {name: (bundle.directory / name).read_bytes() for name in _SAFETENSORS} == _SAFETENSORS
    config = json.loads(_SAFETENSORS["config.json"])
    assert model.config.architecture == config["architectures"][0]


# --- what is chosen, and told ----------------------------------------------------------------------


async def test_an_absent_quantization_is_an_error_that_lists_those_there_are(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m-Q4_K_M.gguf": _GGUF, "m-Q8_0.gguf": b"x"})

    with pytest.raises(RemoteModelNotFoundError, match=r"no quantization 'Q3_K_XL'; it has Q4_K_M, Q8_0"):
        await pulling.pull("hf.co/org/m:Q3_K_XL")

    assert pulling.store.models() == ()
    assert pulling.emulated.paths(storage=True) == []


async def test_shards_in_a_directory_come_in_order_with_their_projector(pulling: Pulling) -> None:
    shards = {f"BF16/m-0000{number}-of-00003.gguf": random.Random(number).randbytes(5000) for number in (3, 1, 2)}
    files = {**shards, "m-Q4_K_M.gguf": _GGUF, "mmproj-BF16.gguf": b"bf16", "mmproj-F16.gguf": b"f16"}
    pulling.emulated.add("org/m", files)

    lines = await pulling.pull("hf.co/org/m:bf16")

    messages = [line.message for line in lines]
    assert "Selected BF16 quantization" in messages
    assert "Selected projector mmproj-F16.gguf" in messages
    assert [line.kind for line in lines if "not known" in line.message] == [ProgressKind.WARNING]  # random bytes
    bundle = await pulling.store.bundle(pulling.model("hf.co/org/m:bf16").id)
    found = [path.read_bytes() for path in sorted(bundle.directory.glob("*.gguf"))]
    assert found == [shards[name] for name in sorted(shards)]
    assert bundle.mmproj is not None
    assert bundle.mmproj.read_bytes() == b"f16"


async def test_what_shards_say_is_read_under_their_names(pulling: Pulling) -> None:
    """Blobs are called by their digests, and what a shard is, its name alone tells."""
    shards = {f"m-Q8_0-0000{number}-of-00002.gguf": _GGUF for number in (1, 2)}
    pulling.emulated.add("org/m", {**shards, "one.gguf": _GGUF})

    await pulling.pull("hf.co/org/m:Q8_0")
    await pulling.pull("hf.co/org/m:one")

    sizes = [pulling.model(f"hf.co/org/m:{tag}").config.size.removesuffix("MiB") for tag in ("one", "Q8_0")]
    assert float(sizes[1]) == pytest.approx(2 * float(sizes[0]), rel=0.02)


async def test_headers_that_cannot_be_read_now_cost_what_they_say_and_no_more(
    pulling: Pulling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    lines = await pulling.pull("hf.co/org/m")
    (warning,) = [line.message for line in lines if line.kind is ProgressKind.WARNING]
    assert warning.startswith("cannot read headers: no temporary directory can be made: No such file or directory")
    assert pulling.model("hf.co/org/m").config.format == "gguf"


async def test_only_the_shards_of_the_index_are_received(pulling: Pulling) -> None:
    content = _SAFETENSORS["model.safetensors"]
    shards = {f"model-0000{number}-of-00002.safetensors": content for number in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    small = {name: data for name, data in _SAFETENSORS.items() if name != "model.safetensors"}
    duplicate = {"consolidated.safetensors": b"the same again", "original/consolidated.00.pth": b"and again"}
    pulling.emulated.add("org/m", {**small, **shards, **duplicate, "model.safetensors.index.json": index})

    await pulling.pull("hf.co/org/m")

    bundle = await pulling.store.bundle(pulling.model("hf.co/org/m").id)
    names = {path.name for path in bundle.directory.iterdir()}
    assert names == {*small, *shards, "model.safetensors.index.json"}
    requested = pulling.emulated.paths(storage=False)
    assert not any("consolidated" in path for path in requested)
    assert len(pulling.emulated.paths(storage=True)) == 1  # both shards are the same blob
    assert sum(path.endswith("index.json") for path in requested) == 1  # read once, for its list and for itself


async def test_what_has_no_weights_says_what_there_is_instead(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"pytorch_model.bin": b"pickle", "config.json": b"{}"})
    with pytest.raises(UnsupportedFormatError, match=r"no model weight files .* PyTorch files, which run code"):
        await pulling.pull("hf.co/org/m")


async def test_names_the_hub_cannot_have_are_refused_before_it_is_asked(pulling: Pulling) -> None:
    for name in ("hf.co/a/b/c", f"hf.co/org/m@sha256:{'0' * 64}", "hf.co/a..b/c"):
        with pytest.raises(InvalidReferenceError):
            await pulling.pull(name)
    assert pulling.emulated.seen == []


# --- again, elsewhere, and other states --------------------------------------------------------------


async def test_a_model_that_did_not_change_is_not_received_again(pulling: Pulling) -> None:
    repository = pulling.emulated.add("Org/M", {"m.gguf": _GGUF})
    await pulling.pull("hf.co/Org/M")
    first = pulling.model("hf.co/org/m")
    pulling.emulated.seen.clear()

    lines = await pulling.pull("hf.co/org/m")  # spelled as the store does: the Hub would know no such repository

    assert [line.message for line in lines] == ["Fetching file list...", f"Using cached model: {first.config.size}"]
    assert [request.path.rpartition("/")[0] for request in pulling.emulated.seen] == [
        "/api/models/Org/M/revision",
        "/api/models/Org/M/tree",
    ]
    repository.revisions["main"] = {"m.gguf": _GGUF, "LICENSE": b"new"}
    pulling.emulated.seen.clear()

    lines = await pulling.pull("hf.co/org/m")

    assert lines[-1].message == "Model pulled successfully"
    assert pulling.emulated.paths(storage=True) == []  # the weights are here
    assert pulling.model("hf.co/org/m").id != first.id
    assert pulling.store.by_id(first.id) is not None


async def test_another_choice_under_a_known_name_is_not_cached(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m-Q4_0.gguf": _GGUF, "m-Q8_0.gguf": b"GGUF" + b"8" * 100})
    await pulling.pull("hf.co/org/m:Q4_0")
    model = pulling.model("hf.co/org/m:Q4_0")
    await pulling.store.tag(model.id, parse_reference("hf.co/org/m:Q8_0", ReferencePolicy()))

    lines = await pulling.pull("hf.co/org/m:Q8_0")

    assert lines[-1].message == "Model pulled successfully"
    assert pulling.model("hf.co/org/m:Q8_0").id != model.id


async def test_a_commit_has_one_identity_on_every_machine(pulling: Pulling, tmp_path: Path) -> None:
    pulling.emulated.add("org/m", dict(_SAFETENSORS))
    await pulling.pull("hf.co/org/m")
    elsewhere = await pulling_at(tmp_path / "elsewhere", pulling.emulated)

    await elsewhere.pull("hf.co/org/m")
    await elsewhere.hub.aclose()

    model = pulling.model("hf.co/org/m")
    assert elsewhere.model("hf.co/org/m").id == model.id
    commit = pulling.emulated.repositories["org/m"].commit("main")
    assert model.manifest.annotations == {
        "org.opencontainers.image.revision": commit,
        "org.opencontainers.image.source": "https://huggingface.co/org/m",
    }
    for layer in model.manifest.layers:
        described = json.loads(layer.annotations["org.cncf.model.file.metadata+json"])
        assert (described["mtime"], described["mode"]) == ("2025-06-15T12:00:00Z", 0o644)


async def test_a_revision_is_a_model_of_its_own(pulling: Pulling) -> None:
    repository = pulling.emulated.add("org/m", {"m-Q4_K_M.gguf": b"GGUF main"})
    repository.revisions["v1.0"] = {"m-Q4_K_M.gguf": b"GGUF v1.0"}
    repository.revisions["refs/pr/1"] = {"m-Q4_K_M.gguf": b"GGUF a proposal"}
    commit = repository.commit("v1.0")

    for name in ("hf.co/org/m", "hf.co/org/m:Q4_K_M@v1.0", "hf.co/org/m@refs/pr/1", f"hf.co/org/m@{commit}"):
        await pulling.pull(name)

    async def weights(name: str) -> bytes:
        bundle = await pulling.store.bundle(pulling.model(name).id)
        assert bundle.gguf is not None
        return bundle.gguf.read_bytes()

    assert await weights("hf.co/org/m") == b"GGUF main"
    assert await weights("hf.co/org/m:Q4_K_M_at_v1.0") == b"GGUF v1.0"
    assert await weights("hf.co/org/m@refs/pr/1") == b"GGUF a proposal"
    assert pulling.model(f"hf.co/org/m@{commit}").id == pulling.model("hf.co/org/m:Q4_K_M@v1.0").id


async def test_a_missing_revision_and_a_missing_repository_are_told_apart(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    with pytest.raises(RemoteModelNotFoundError, match="no branch, tag or commit 'v9'"):
        await pulling.pull("hf.co/org/m@v9")
    with pytest.raises(RemoteModelNotFoundError, match="no such repository, or it is private: then set HF_TOKEN"):
        await pulling.pull("hf.co/org/nothing")


async def test_a_renamed_repository_is_followed(pulling: Pulling) -> None:
    pulling.emulated.add("new-org/m", {"m.gguf": _GGUF})
    pulling.emulated.renamed["org/m"] = "new-org/m"

    await pulling.pull("hf.co/org/m")

    annotations = pulling.model("hf.co/org/m").manifest.annotations
    assert annotations["org.opencontainers.image.source"] == "https://huggingface.co/new-org/m"


async def test_a_listing_of_many_pages_is_read_to_its_end(pulling: Pulling) -> None:
    pulling.emulated.page = 7
    pulling.emulated.add("org/m", {**{f"{n:03}/m-Q2_K.txt": b"x" for n in range(40)}, "z-Q4_K_M.gguf": _GGUF})

    await pulling.pull("hf.co/org/m")

    listings = [path for path in pulling.emulated.paths(storage=False) if "/tree/" in path]
    assert len(listings) == -(-81 // 7)  # 40 directories, each with a file, and the model


# --- who may ---------------------------------------------------------------------------------------


async def test_a_gated_repository_tells_where_to_accept_its_terms(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF}, gated=True, readers={_TOKEN})
    pulling.emulated.tokens = {_TOKEN, "hf_somebody-else"}
    address = f"{pulling.emulated.url}/org/m"

    with pytest.raises(
        UnauthorizedError, match=f"gated: accept its terms at {address} with an account, and set HF_TOKEN"
    ):
        await pulling.pull("hf.co/org/m")
    with pytest.raises(UnauthorizedError, match=f"gated: accept its terms at {address} with the account of the token"):
        await pulling.pull("hf.co/org/m", "hf_somebody-else")
    assert (await pulling.pull("hf.co/org/m", _TOKEN))[-1].kind is ProgressKind.SUCCESS


async def test_a_private_repository_is_there_for_its_readers_only(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF}, private=True, readers={_TOKEN})
    pulling.emulated.tokens = {_TOKEN, "hf_somebody-else"}

    with pytest.raises(RemoteModelNotFoundError, match="or it is private: then set HF_TOKEN"):
        await pulling.pull("hf.co/org/m")
    with pytest.raises(RemoteModelNotFoundError, match="the token from the request may not read it"):
        await pulling.pull("hf.co/org/m", "hf_somebody-else")
    assert (await pulling.pull("hf.co/org/m", _TOKEN))[-1].kind is ProgressKind.SUCCESS


async def test_a_token_nobody_has_is_refused_by_name_and_never_shown(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    with pytest.raises(UnauthorizedError, match="refuses the token from the request") as caught:
        await pulling.pull("hf.co/org/m", "hf_old")
    assert "hf_old" not in str(caught.value)
    with pytest.raises(UnauthorizedError, match="white space") as caught:
        await pulling.pull("hf.co/org/m", "hf_x\r\nX-Evil: 1")
    assert "Evil" not in str(caught.value)


async def test_the_services_own_token_is_used_where_a_request_brings_none(
    tmp_path: Path, emulated: EmulatedHub
) -> None:
    emulated.add("org/m", {"m.gguf": _GGUF}, private=True, readers={_TOKEN})
    emulated.tokens = {_TOKEN}
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{_TOKEN}\n")
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text(_TOKEN)
    found: tuple[dict[str, str], ...] = (
        {"HF_TOKEN": _TOKEN},
        {"HUGGING_FACE_HUB_TOKEN": _TOKEN},
        {"HF_HOME": str(tmp_path / "hf")},
        {"HF_HOME": "~/hf", "HOME": str(tmp_path)},
        {"HF_TOKEN_PATH": str(tmp_path / "hf" / "token")},
        {"HOME": str(tmp_path)},
        {"XDG_CACHE_HOME": str(tmp_path / ".cache")},
    )
    not_found: tuple[dict[str, str], ...] = (
        {},
        {"HOME": str(tmp_path / "hf")},
        {"HF_TOKEN": _TOKEN, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"},
    )
    for environment in (*found, *not_found):
        hub = HuggingFaceHub(clock=SystemClock(), endpoint=emulated.url, tokens=TokenSource(environment))
        try:
            revision = await hub.revision("org/m", "main")
            assert environment in found
            assert len(revision.commit) == 40
        except RemoteModelNotFoundError:
            assert environment in not_found
        finally:
            await hub.aclose()


async def test_no_token_leaves_the_hub(pulling: Pulling) -> None:
    pulling.emulated.tokens = {_TOKEN}
    pulling.emulated.add("org/m", dict(_SAFETENSORS))

    await pulling.pull("hf.co/org/m", _TOKEN)

    own = [request.authorization for request in pulling.emulated.seen if not request.storage]
    others = [request for request in pulling.emulated.seen if request.storage]
    assert set(own) == {f"Bearer {_TOKEN}"}
    assert others
    assert not any(_TOKEN in f"{request.headers} {request.query}" for request in others)


async def test_whoever_the_hub_sends_us_to_cannot_send_us_back_with_the_token(pulling: Pulling) -> None:
    pulling.emulated.tokens = {_TOKEN}
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        if request.url.port == pulling.emulated.storage_port:
            return web.Response(status=302, headers={"Location": f"{pulling.emulated.url}/steal"})
        return web.Response(status=200, body=_GGUF) if request.path == "/steal" else None

    pulling.emulated.script = script
    await pulling.pull("hf.co/org/m", _TOKEN)

    assert [request.authorization for request in pulling.emulated.seen if request.path == "/steal"] == [None]


# --- wrong bytes, and broken lines -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
async def test_wrong_bytes_never_become_a_model(pulling: Pulling, path: str) -> None:
    pulling.emulated.add("org/m", dict(_SAFETENSORS))
    pulling.emulated.wrong.add(path)

    with pytest.raises(DigestMismatchError):
        await pulling.pull("hf.co/org/m")

    assert pulling.store.models() == ()
    assert not await pulling.store.has_blob(Digest.of(_SAFETENSORS[path]))
    pulling.emulated.wrong.clear()
    assert (await pulling.pull("hf.co/org/m"))[-1].kind is ProgressKind.SUCCESS


async def test_a_broken_connection_goes_on_where_it_broke(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    pulling.emulated.cuts["m.gguf"] = [600_000, 300_000, 0]

    lines = await pulling.pull("hf.co/org/m")

    assert lines[-1].kind is ProgressKind.SUCCESS
    ranges = [request.headers.get("Range") for request in pulling.emulated.seen if request.storage]
    assert ranges == [None, "bytes=600000-", "bytes=900000-", "bytes=900000-"]
    assert pulling.emulated.sent == len(_GGUF)


async def test_a_large_file_breaks_off_and_goes_on_in_parts(pulling: Pulling) -> None:
    """Large enough for its bytes to be read past the event loop."""
    weights = random.Random(0).randbytes(20 * 1024 * 1024)
    pulling.emulated.add("org/m", {"m.gguf": weights})
    pulling.emulated.cuts["m.gguf"] = [3_000_000, 7_500_000, 100]

    lines = await pulling.pull("hf.co/org/m")

    assert lines[-1].kind is ProgressKind.SUCCESS
    bundle = await pulling.store.bundle(pulling.model("hf.co/org/m").id)
    assert bundle.gguf is not None
    assert bundle.gguf.read_bytes() == weights
    assert pulling.emulated.sent == len(weights)


async def test_a_cancelled_pull_is_gone_on_with_by_another_process(pulling: Pulling, tmp_path: Path) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        if request.url.port != pulling.emulated.storage_port:
            return None
        response = web.StreamResponse()
        response.content_length = len(_GGUF)
        await response.prepare(request)
        await response.write(_GGUF[:1_000_000])
        await pulling.emulated.released.wait()
        return response

    pulling.emulated.script = script
    reference = parse_reference("hf.co/org/m", ReferencePolicy())
    lines = pulling.source.pull(reference, None)
    async for line in lines:
        if line.layer is not None and line.layer.current == 1_000_000:
            break
    await lines.aclose()
    pulling.emulated.released.set()
    pulling.emulated.script = None
    pulling.emulated.seen.clear()
    again = await pulling_at(tmp_path / "models", pulling.emulated)

    await again.pull("hf.co/org/m")
    await again.hub.aclose()

    assert [r.headers.get("Range") for r in pulling.emulated.seen if r.storage] == ["bytes=1000000-"]
    bundle = await again.store.bundle(again.model("hf.co/org/m").id)
    assert bundle.gguf is not None
    assert hashlib.sha256(bundle.gguf.read_bytes()).digest() == hashlib.sha256(_GGUF).digest()


async def test_storage_without_ranges_serves_too(pulling: Pulling) -> None:
    pulling.emulated.ranges = False
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    pulling.emulated.cuts["m.gguf"] = [600_000]

    await pulling.pull("hf.co/org/m")

    bundle = await pulling.store.bundle(pulling.model("hf.co/org/m").id)
    assert bundle.gguf is not None
    assert bundle.gguf.read_bytes() == _GGUF


async def test_a_model_takes_its_own_room_once(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    await pulling.pull("hf.co/org/m")
    assert await pulling.store.disk_usage() < 1.05 * len(_GGUF) + 64 * 1024


async def test_a_hub_that_says_later_is_asked_later(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    refusals = [
        web.Response(status=429, headers={"Retry-After": "7"}),
        web.Response(status=503),
        web.Response(status=429, headers={"RateLimit": '"api";r=0;t=11'}),
    ]

    async def script(_request: web.Request) -> web.StreamResponse | None:
        return refusals.pop(0) if refusals else None

    pulling.emulated.script = script
    assert (await pulling.pull("hf.co/org/m"))[-1].kind is ProgressKind.SUCCESS
    assert pulling.clock.waits[0] >= 7
    assert pulling.clock.waits[2] >= 11


async def test_a_hub_that_says_much_later_is_believed(pulling: Pulling) -> None:
    async def script(_request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=429, headers={"Retry-After": "280"})

    pulling.emulated.script = script
    with pytest.raises(RegistryError, match="too many requests were made: try again in 280 s, or set HF_TOKEN"):
        await pulling.pull("hf.co/org/m")
    assert pulling.clock.waits == []


async def test_silence_ends(pulling: Pulling) -> None:
    async def script(request: web.Request) -> web.StreamResponse | None:
        if "/resolve/" in request.path:
            await pulling.emulated.released.wait()
        return None

    pulling.emulated.script = script
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    with pytest.raises(RegistryUnreachableError, match="stopped answering"):
        await pulling.pull("hf.co/org/m")


# --- a hub that lies ---------------------------------------------------------------------------------


def _file(**changes: object) -> dict[str, object]:
    return {"type": "file", "path": "m.gguf", "size": 4, "oid": "0" * 40, **changes}


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (b"<html>", "no JSON"),
        (b'{"error": "x"}', "a way nobody knows"),
        (json.dumps([_file(size=-1)]).encode(), "without a path, a size or an object name"),
        (json.dumps([_file(size=1 << 60)]).encode(), "without a path, a size or an object name"),
        (json.dumps([_file(size=True)]).encode(), "without a path, a size or an object name"),
        (json.dumps([_file(oid="../../etc")]).encode(), "without a path, a size or an object name"),
        (json.dumps([_file(lfs={"oid": "abc", "size": 4})]).encode(), "without its digest"),
        (json.dumps([_file(lfs={"size": "4"})]).encode(), "without a path, a size or an object name"),
    ],
)
async def test_a_listing_out_of_form_is_refused(pulling: Pulling, listing: bytes, words: str) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        return web.Response(body=listing) if "/tree/" in request.path else None

    pulling.emulated.script = script
    with pytest.raises(RegistryError, match=words):
        await pulling.pull("hf.co/org/m")


@pytest.mark.parametrize("path", ["../m.gguf", "/etc/m.gguf", "a/../../m.gguf", "a\\m.gguf", "a//m.gguf", "./m.gguf"])
async def test_paths_that_climb_are_no_files(pulling: Pulling, path: str) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        return web.json_response([_file(path=path)]) if "/tree/" in request.path else None

    pulling.emulated.script = script
    with pytest.raises(UnsupportedFormatError, match="no model weight files"):
        await pulling.pull("hf.co/org/m")


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ('<http://169.254.169.254/latest>; rel="next"', "at another host"),
        ('<https://evil.example/api>; rel="next"', "at another host"),
        ('<http://[>; rel="next"', "at another host"),
        ("<?recursive=true>; rel=next", "without end"),
    ],
)
async def test_a_listing_goes_on_at_the_hub_and_has_an_end(pulling: Pulling, link: str, words: str) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        return web.json_response([], headers={"Link": link}) if "/tree/" in request.path else None

    pulling.emulated.script = script
    with pytest.raises(RegistryError, match=words):
        await pulling.pull("hf.co/org/m")


@pytest.mark.parametrize(("limit", "words"), [("_MAX_PAGES", "without end"), ("_MAX_FILES", "more than 3 files")])
async def test_a_listing_is_bounded(pulling: Pulling, monkeypatch: pytest.MonkeyPatch, limit: str, words: str) -> None:
    monkeypatch.setattr(hub_module, limit, 3)
    pulling.emulated.page = 1
    pulling.emulated.add("org/m", {f"{number}-Q4_0.gguf": b"x" for number in range(4)})
    with pytest.raises(RegistryError, match=words):
        await pulling.pull("hf.co/org/m")


async def test_an_answer_is_bounded(pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_PAGE_BYTES", 10)
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    with pytest.raises(RegistryError, match="says more than 10 bytes"):
        await pulling.pull("hf.co/org/m")


async def test_a_mirror_that_passes_on_the_hubs_links_is_meant_itself(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        if "/tree/" not in request.path or "cursor" in request.query:
            return None
        following = f"https://huggingface.co{request.path}?recursive=true&cursor=0"
        return web.json_response([], headers={"Link": f'<{following}>; rel="next"'})

    pulling.emulated.script = script
    assert (await pulling.pull("hf.co/org/m"))[-1].kind is ProgressKind.SUCCESS


@pytest.mark.parametrize(
    "headers",
    [{"X-Linked-Size": "5"}, {"X-Linked-ETag": f'"{"0" * 64}"'}, {"X-Repo-Commit": "0" * 40}],
)
async def test_what_is_not_the_file_of_the_list_is_not_received(pulling: Pulling, headers: dict[str, str]) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    storage = f"http://127.0.0.1:{pulling.emulated.storage_port}/x"

    async def script(request: web.Request) -> web.StreamResponse | None:
        moved = web.Response(status=302, headers={"Location": storage, **headers})
        return moved if "/resolve/" in request.path else None

    pulling.emulated.script = script
    with pytest.raises((RegistryError, DigestMismatchError)):
        await pulling.pull("hf.co/org/m")
    assert pulling.emulated.paths(storage=True) == []


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (206, {"Content-Range": "bytes 0-3/9"}, b"1234", "answered 206"),  # nobody asked for a range
        (200, {}, b"1234", "4 bytes of 'm.gguf'"),
        (200, {"Content-Encoding": "gzip"}, b"1234", "encoding nobody asked for"),
        (302, {}, b"", "without saying where to go on"),
        (302, {"Location": "file:///etc/passwd"}, b"", "no web address"),
        (302, {"Location": "http://user:password@127.0.0.1/"}, b"", "no web address"),
        (418, {}, b"", "answered 418"),
    ],
)
async def test_answers_that_do_not_fit_are_refused(
    pulling: Pulling, status: int, headers: dict[str, str], body: bytes, words: str
) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=status, headers=headers, body=body) if "/resolve/" in request.path else None

    pulling.emulated.script = script
    with pytest.raises(RegistryError, match=words):
        await pulling.pull("hf.co/org/m")


async def test_redirects_end(pulling: Pulling) -> None:
    async def script(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=307, headers={"Location": request.path})

    pulling.emulated.script = script
    with pytest.raises(RegistryError, match="redirects more than"):
        await pulling.pull("hf.co/org/m")


async def test_a_hub_out_in_the_world_cannot_send_us_inside_and_gets_no_token_in_plain(
    emulated: EmulatedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulated Hub plays the proxy through which the one out there is reached."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", emulated.url)

    async def resolver(_host: str, _port: int) -> list[str]:
        return ["8.8.8.8"]

    async def script(_request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=302, headers={"Location": "http://10.0.0.1/latest/meta-data"})

    emulated.script = script
    hub = HuggingFaceHub(clock=SystemClock(), endpoint="http://hub.example", resolver=resolver)
    with pytest.raises(RegistryError, match="inside this network"):
        await hub.revision("org/m", "main")
    assert len(emulated.seen) == 1
    with pytest.raises(UnauthorizedError, match="not sent over plain HTTP"):
        await hub.revision("org/m", "main", Credentials(_TOKEN))
    assert len(emulated.seen) == 1
    await hub.aclose()


async def test_what_a_hub_out_in_the_world_names_is_connected_to_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may resolve to an address inside between the look at it and the connection."""
    sent: list[tuple[str, bool]] = []

    async def send(_self: HttpClient, _method: str, url: URL, **options: bool) -> object:
        sent.append((url.host or "", options["outward"]))
        if len(sent) == 2:
            raise RegistryError("far enough")
        location = CIMultiDict({"Location": "https://storage.example/x"})
        return SimpleNamespace(status=302, headers=location, url=url, close=lambda: None)

    async def resolver(_host: str, _port: int) -> list[str]:
        return ["8.8.8.8"]

    monkeypatch.setattr(HttpClient, "send", send)
    hub = HuggingFaceHub(clock=SystemClock(), endpoint="https://hub.example", resolver=resolver)
    with pytest.raises(RegistryError, match="far enough"):
        await hub.revision("org/m", "main")
    assert sent == [("hub.example", False), ("storage.example", True)]


@pytest.mark.parametrize("content_range", ["bytes 5-8/9", "bytes 1-3/5", "bytes 0-3/4", "", "bytes 1-3/*"])
async def test_another_range_than_was_asked_for_is_refused(pulling: Pulling, content_range: str) -> None:
    pulling.emulated.add("org/m", {"m.gguf": b"0123"})
    revision = await pulling.hub.revision("org/m", "main")
    (file,) = await pulling.hub.files(revision)

    async def script(_request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=206, headers={"Content-Range": content_range}, body=b"123")

    pulling.emulated.script = script
    if content_range == "bytes 1-3/*":
        async with pulling.hub.open_file(revision, file, 1) as reader:
            assert (reader.offset, [chunk async for chunk in reader.chunks]) == (1, [b"123"])
        return
    with pytest.raises(RegistryError, match="another range"):
        async with pulling.hub.open_file(revision, file, 1):
            pass


async def test_storage_that_has_less_than_we_do_starts_over(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF})
    revision = await pulling.hub.revision("org/m", "main")
    (file,) = await pulling.hub.files(revision)

    async def script(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=416) if "Range" in request.headers and "/resolve/" not in request.path else None

    pulling.emulated.script = script
    async with pulling.hub.open_file(revision, file, 1000) as reader:
        assert reader.offset == 0
        assert b"".join([chunk async for chunk in reader.chunks]) == _GGUF


async def test_bytes_without_a_length_are_counted(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": b"0123"})
    revision = await pulling.hub.revision("org/m", "main")
    (file,) = await pulling.hub.files(revision)

    for sent, words in ((b"012", "ended .* after 3 of 4"), (b"01234", "more than the 4 bytes")):

        async def script(request: web.Request, sent: bytes = sent) -> web.StreamResponse | None:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(sent)
            return response

        pulling.emulated.script = script
        async with pulling.hub.open_file(revision, file) as reader:
            with pytest.raises(RegistryError, match=words):
                _ = [chunk async for chunk in reader.chunks]


async def test_a_small_file_that_is_not_small_is_refused(pulling: Pulling) -> None:
    pulling.emulated.add("org/m", {"m.gguf": _GGUF, "LICENSE": b""})

    async def script(request: web.Request) -> web.StreamResponse | None:
        files = [_file(path="LICENSE", size=17 << 20), _file(lfs={"oid": "0" * 64, "size": 4})]
        return web.json_response(files) if "/tree/" in request.path else None

    pulling.emulated.script = script
    with pytest.raises(MalformedArtifactError, match="17825792 bytes, 16777216 are allowed"):
        await pulling.pull("hf.co/org/m")


async def test_a_mirror_below_a_path_is_a_hub(tmp_path: Path, emulated: EmulatedHub) -> None:
    emulated.add("org/m", {"m.gguf": _GGUF})

    async def script(request: web.Request) -> web.StreamResponse | None:
        if request.path.startswith("/api/huggingfaceml/remote/"):
            raise web.HTTPTemporaryRedirect(request.path_qs.removeprefix("/api/huggingfaceml/remote"))
        return None

    emulated.script = script
    hub = HuggingFaceHub(clock=SystemClock(), endpoint=f"{emulated.url}/api/huggingfaceml/remote/")
    revision = await hub.revision("org/m", "main")
    assert [file.path.text for file in await hub.files(revision)] == ["m.gguf"]
    await hub.aclose()
