"""Which URL a registry means, who counts as inside, and where a registry may send us."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from yarl import URL

from dmr_adapters.registry.client import proxy_for
from dmr_adapters.registry.endpoint import EndpointPolicy, is_inward, is_loopback, origin
from dmr_adapters.registry.guard import check_realm, check_target
from dmr_core.errors import RegistryError, RegistryUnreachableError

_POLICY = EndpointPolicy(insecure=frozenset({"Old.Example", "half.example:5000"}))


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("index.docker.io", "https://registry-1.docker.io"),
        ("registry-1.docker.io", "https://registry-1.docker.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("registry.example:5000", "https://registry.example:5000"),
        ("localhost", "http://localhost"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.9.9.9", "http://127.9.9.9"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("mybox.local:5000", "http://mybox.local:5000"),
        ("old.example", "http://old.example"),
        ("old.example:8080", "http://old.example:8080"),
        ("half.example:5000", "http://half.example:5000"),
        ("half.example", "https://half.example"),
        ("10.0.0.1", "https://10.0.0.1"),
        ("localhost.example", "https://localhost.example"),
        ("127.0.0.1.example", "https://127.0.0.1.example"),
    ],
)
def test_a_registry_means_one_url(registry: str, url: str) -> None:
    assert _POLICY.endpoint(registry).url == URL(url)


def test_everything_can_be_plain_http() -> None:
    policy = EndpointPolicy(everything_insecure=True)
    assert policy.endpoint("docker.io").url == URL("http://registry-1.docker.io")


def test_a_port_out_of_range_is_no_address() -> None:
    with pytest.raises(RegistryError, match="not an address"):
        _POLICY.endpoint("registry.example:99999")


def test_paths_are_built_below_v2() -> None:
    endpoint = _POLICY.endpoint("localhost:5000")
    assert str(endpoint.path("ai/m", "manifests", "v1")) == "http://localhost:5000/v2/ai/m/manifests/v1"
    digest = "sha256:" + "a" * 64
    assert str(endpoint.path("ai/m", "blobs", digest)) == f"http://localhost:5000/v2/ai/m/blobs/{digest}"


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("https://a.example", "https://A.example:443/x", True),
        ("https://a.example", "https://a.example.", True),
        ("https://a.example", "http://a.example:443", False),
        ("https://a.example", "https://a.example:444", False),
        ("https://a.example", "https://b.example", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(left: str, right: str, same: bool) -> None:
    assert (origin(URL(left)) == origin(URL(right))) is same


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "x.localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example", "128.0.0.1", "10.0.0.1", "::2", "", "127.0.0.1.example"])
def test_others_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "224.0.0.1",
        "localhost",
    ],
)
def test_addresses_of_inner_networks_are_inward(host: str) -> None:
    assert is_inward(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "registry.example"])
def test_addresses_of_the_world_are_not_inward(host: str) -> None:
    assert not is_inward(host)


_ADDRESSES = {
    "inner.example": ["10.0.0.5"],
    "both.example": ["8.8.8.8", "127.0.0.1"],
    "house.example": ["192.168.0.2"],
    "auth.example": ["8.8.4.4"],
    "registry.example": ["8.8.8.8"],
}


async def _resolver(host: str, _port: int) -> Sequence[str]:
    return _ADDRESSES.get(host, [])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("registry.example", "https://auth.example/token?x=%2F"),
        ("registry.example", "https://registry.example:8443/token"),
        ("registry.example", "https://does-not-resolve.example/token"),
        ("house.example", "https://house.example/token"),
        ("old.example", "http://auth.example/token"),
        ("localhost:5000", "http://127.0.0.1:5001/token"),
        ("localhost:5000", "https://inner.example/token"),
        ("10.0.0.1", "https://10.0.0.1:8443/token"),
    ],
)
async def test_a_realm_that_may_be_asked(registry: str, realm: str) -> None:
    assert str(await check_realm(_POLICY.endpoint(registry), realm, _resolver)) == realm


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("registry.example", "http://auth.example/token"),
        ("registry.example", "http://registry.example/token"),
        ("registry.example", "https://127.0.0.1/token"),
        ("registry.example", "https://localhost/token"),
        ("registry.example", "https://169.254.169.254/latest/meta-data"),
        ("registry.example", "https://[::ffff:10.0.0.1]/token"),
        ("registry.example", "https://inner.example/token"),
        ("registry.example", "https://both.example/token"),
        ("old.example", "http://inner.example/token"),
        ("registry.example", "https://user:pass@auth.example/token"),
        ("registry.example", "file:///etc/passwd"),
        ("registry.example", "Registry Realm"),
        ("registry.example", "https://auth.example/a b"),
        ("registry.example", "https://auth.example:0/"),
        ("registry.example", ""),
        ("registry.example", "//auth.example/token"),
    ],
)
async def test_a_realm_that_is_refused(registry: str, realm: str) -> None:
    with pytest.raises(RegistryError, match="token server"):
        await check_realm(_POLICY.endpoint(registry), realm, _resolver)


@pytest.mark.parametrize(
    ("registry", "location", "target"),
    [
        ("registry.example", "/v2/x", "https://registry.example/v2/x"),
        ("registry.example", "https://auth.example/x?sig=a%2Bb#part", "https://auth.example/x?sig=a%2Bb"),
        ("house.example", "https://inner.example/x", "https://inner.example/x"),
        ("localhost:5000", "http://10.0.0.1/x", "http://10.0.0.1/x"),
        ("old.example", "https://auth.example/x", "https://auth.example/x"),
    ],
)
async def test_a_redirect_that_may_be_followed(registry: str, location: str, target: str) -> None:
    endpoint = _POLICY.endpoint(registry)
    assert str(await check_target(endpoint, endpoint.url / "v2" / "y", location, _resolver)) == target


@pytest.mark.parametrize(
    "location",
    [
        "http://registry.example/x",
        "http://auth.example/x",
        "https://inner.example/x",
        "https://10.0.0.1/x",
        "https://both.example/x",
        "javascript:x",
        "https://u@auth.example/",
        "https://auth.example/\x7f",
    ],
)
async def test_a_redirect_that_is_refused(location: str) -> None:
    endpoint = _POLICY.endpoint("registry.example")
    with pytest.raises(RegistryError, match="redirects"):
        await check_target(endpoint, endpoint.url / "v2" / "y", location, _resolver)


def test_proxies_come_from_the_environment_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3129")
    monkeypatch.setenv("no_proxy", "near.example")
    assert proxy_for(URL("https://far.example/x")) == URL("http://proxy.example:3128")
    assert proxy_for(URL("http://far.example/x")) == URL("http://proxy.example:3129")
    assert proxy_for(URL("https://near.example/x")) is None
    assert proxy_for(URL("http://localhost:5000/x")) is None
    assert proxy_for(URL("http://127.0.0.2/x")) is None
    assert proxy_for(URL("http://[::1]/x")) is None


@pytest.mark.parametrize("proxy", ["socks5://u:hidden@proxy.example:1080", "http://", "http://u:hidden@[x"])
def test_a_proxy_of_another_kind_is_said_so_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(RegistryUnreachableError, match="no HTTP proxy") as raised:
        proxy_for(URL("https://far.example/x"))
    assert "hidden" not in str(raised.value)
