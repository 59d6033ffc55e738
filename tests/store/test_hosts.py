"""What an operator may bind a secret to, and what those entries let through."""

from __future__ import annotations

import pytest

from sensorium.errors import AddressRefused
from sensorium.store import hosts
from sensorium.store.secret import InvalidSecret

NVIDIA = "ai.api.nvidia.com"


@pytest.mark.parametrize(
    ("entry", "spelling"),
    [
        (NVIDIA, NVIDIA),
        ("AI.api.NVIDIA.com.", NVIDIA),
        (f" https://{NVIDIA}:443 ", NVIDIA),
        (f"{NVIDIA}:8443", f"{NVIDIA}:8443"),
        ("*.api.nvidia.com", "*.api.nvidia.com"),
        ("*.api.nvidia.com:8443", "*.api.nvidia.com:8443"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://gpu-box:80", "http://gpu-box"),
        ("[::1]:9000", "[::1]:9000"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_an_entry_has_one_spelling_and_reads_back(entry: str, spelling: str) -> None:
    assert str(hosts.binding(entry)) == spelling
    assert hosts.binding(spelling) == hosts.binding(entry)


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.", "*.com", "*.127.0.0.1", "a.*.com", "ftp://a.com", f"https://{NVIDIA}/v1", f"{NVIDIA}/", "a b", "u:p@a.com"),
        *("a.com:0", "a.com:99999", "a.com?x", "a.com#x", "https://", "a,b"),
    ],
)
def test_what_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(InvalidSecret, match=r"is no host|is too wide"):
        hosts.binding(entry)


def test_entries_are_sorted_and_none_stands_twice() -> None:
    assert hosts.bindings(["b.com", "a.com", "https://B.com"]) == ("a.com", "b.com")


@pytest.mark.parametrize(
    ("entry", "asked", "admitted"),
    [
        (NVIDIA, NVIDIA, True),
        (NVIDIA, f"https://{NVIDIA}/v1/genai/x?y=z", True),
        (NVIDIA, f"https://{NVIDIA.upper()}.:443/", True),
        (NVIDIA, f"http://{NVIDIA}", False),
        (NVIDIA, f"http://{NVIDIA}:443", False),
        (NVIDIA, f"{NVIDIA}:8443", False),
        (NVIDIA, f"x.{NVIDIA}", False),
        (NVIDIA, f"{NVIDIA}.evil.com", False),
        (NVIDIA, "evil.com", False),
        (NVIDIA, f"https://evil.com/{NVIDIA}", False),
        (NVIDIA, f"https://evil.com#{NVIDIA}", False),
        ("*.nvidia.com", NVIDIA, True),
        ("*.nvidia.com", "nvidia.com", False),
        ("*.nvidia.com", "evilnvidia.com", False),
        ("*.nvidia.com", "http://ai.api.nvidia.com", False),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/v1", True),
        ("http://127.0.0.1:9000", "https://127.0.0.1:9000/v1", False),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9001/v1", False),
        ("http://127.0.0.1:9000", "http://localhost:9000/v1", False),
    ],
)
def test_an_entry_admits_its_own_addresses_only(entry: str, asked: str, admitted: bool) -> None:
    assert hosts.admit([entry], hosts.address(asked)) is admitted
    assert hosts.admit(["other.org", entry], hosts.address(asked)) is admitted
    assert not hosts.admit([], hosts.address(asked))


@pytest.mark.parametrize("asked", [f"https://{NVIDIA}@evil.com/", f"https://{NVIDIA}\\@evil.com", f"https:// {NVIDIA}", "https://"])
def test_an_address_that_could_be_read_in_two_ways_is_none(asked: str) -> None:
    with pytest.raises(AddressRefused):
        hosts.address(asked)


@pytest.mark.parametrize("entry", ["nvapi-0123456789", "https://NVAPI-0123456789/v1", "nvapi-0123456789.test"])
def test_a_value_among_the_hosts_is_refused_without_repeating_it(entry: str) -> None:
    with pytest.raises(InvalidSecret, match="the value itself") as refused:
        hosts.bindings(["ai.api.nvidia.com", entry], "nvapi-0123456789")
    assert "0123456789" not in refused.value.message
