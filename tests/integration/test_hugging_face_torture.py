"""A Hub that misbehaves at random, from a seed: the right bytes or a clear error, and no token leaves its host."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from dmr_adapters.package_source.filesystem import FilesystemPackageSource
from dmr_core.domain.progress import ProgressKind
from dmr_core.errors import DmrError
from dmr_core.services.fetching import FetchingService, FetchLimits
from dmr_core.services.hugging_face import HuggingFaceSource
from tests.integration.test_hugging_face import Pulling, pulling_at
from tests.stand_ins.hugging_face_hub import EmulatedHub, emulated_hub

_TOKEN: Final = "hf_of-a-reader"
_SEEDS: Final = range(40)
_SIZE: Final = 3 * 1024 * 1024


class Mischief:
    """Answers some requests wrongly; fewer and fewer, so that there is an end."""

    def __init__(self, hub: EmulatedHub, rng: random.Random) -> None:
        self._hub = hub
        self._rng = rng
        self._share = rng.choice([0.1, 0.4, 0.8])
        self.left = rng.randrange(1, 12)

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """See :data:`tests.stand_ins.hugging_face_hub.Script`."""
        if self.left <= 0 or self._rng.random() > self._share:
            return None
        self.left -= 1
        match self._rng.randrange(10):
            case 0:
                return web.Response(status=self._rng.choice([408, 429, 500, 502, 503, 504]))
            case 1:
                return web.Response(status=429, headers={"Retry-After": self._rng.choice(["1", "400", "soon"])})
            case 2:
                return web.Response(body=b"<html>a captive portal</html>", content_type="text/html")
            case 3:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case 4:
                return web.Response(status=302, headers={"Location": request.path_qs})
            case 5:
                path = next(iter(self._hub.repositories["Org/M"].revisions["main"]))
                self._hub.cuts.setdefault(path, []).append(self._rng.randrange(_SIZE))
                return None
            case 6:
                return web.Response(status=206, headers={"Content-Range": "bytes 7-9/11"}, body=b"789")
            case 7:
                return web.Response(body=self._rng.randbytes(_SIZE))
            case 8:
                self._hub.ranges = not self._hub.ranges
                return None
            case _:
                return web.Response(status=self._rng.choice([400, 404, 410, 416, 451]))


def _impatient(pulling: Pulling) -> None:
    """Small parts, so that several are on their way at once."""
    limits = FetchLimits(at_first=4, smallest_part=256 * 1024, largest_part=256 * 1024)
    pulling.source = HuggingFaceSource(
        store=pulling.store,
        hub=pulling.hub,
        files=FilesystemPackageSource(),
        fetching=FetchingService(store=pulling.store, clock=pulling.clock, limits=limits),
        clock=pulling.clock,
    )


@pytest.mark.parametrize("seed", _SEEDS)
async def test_the_right_bytes_or_a_clear_error(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    weights = b"GGUF" + rng.randbytes(_SIZE - 4)
    async with emulated_hub() as hub:
        hub.tokens = {_TOKEN}
        hub.add("Org/M", {"m-Q4_K_M.gguf": weights, "LICENSE": b"free"}, private=True, readers={_TOKEN})
        pulling = await pulling_at(tmp_path / "models", hub)
        _impatient(pulling)
        script = hub.script = Mischief(hub, rng)
        messages: list[str] = []
        while True:
            try:
                lines = await pulling.pull("hf.co/Org/M", _TOKEN)
            except DmrError as exc:
                messages.append(exc.message)
                script.left = 0 if len(messages) > 12 else script.left
                if len(messages) > 14:
                    raise
            else:
                break
            assert pulling.store.models() == ()
        await pulling.hub.aclose()
        assert _TOKEN not in str(messages)
        assert lines[-1].kind is ProgressKind.SUCCESS
        bundle = await pulling.store.bundle(pulling.model("hf.co/Org/M").id)
        assert bundle.gguf is not None
        assert bundle.gguf.read_bytes() == weights
        assert not any(_TOKEN in str(request) for request in hub.seen if request.storage)
