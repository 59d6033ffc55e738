"""Which addresses may be called: the policy on addresses, the taking apart of URLs, and names that point where they should not."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium import egress
from sensorium.errors import AddressRefused

PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3"),
    *("169.254.169.254", "169.254.1.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("192.0.0.9", "192.88.99.1", "168.63.129.16", "100.100.100.200", "192.0.0.192", "169.254.170.2", "169.254.170.23"),
    *("198.51.100.1", "203.0.113.1", "198.19.255.255", "100.127.255.255", "192.0.0.255", "192.88.99.255", "239.0.0.1", "248.0.0.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1"),
    *("fd00:ec2::23", "fd20:ce::254", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b::a9fe:a9fe", "2001:20::1", "3fff:fff::1", "5f00::1"),
    *("::ffff:169.254.169.254", "febf::1", "feff::1", "ff0e::1", "2002:7f00:1::", "2001:1ff:ffff::1", "fdff:ffff::1", "64:ff9b:1:ffff::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1", "2002:808:808::1", "2001:0:1::1", "4000::1"),
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "93.184.216.34", "2606:4700::1111", "2001:4860:4860::8888"]


def knows(**names: list[str]) -> egress.Resolve:
    async def resolve(host: str, port: int) -> list[str]:
        if host not in names:
            raise OSError("no such name")
        return names[host]

    return resolve


def checked(host: str, port: int = 80, allow: tuple[str, ...] = (), **names: list[str]) -> list[str]:
    return asyncio.run(egress.check(host, port, allow, knows(**names)))


@pytest.mark.parametrize("text", PRIVATE)
def test_refused_addresses(text: str) -> None:
    assert egress.refusal(ipaddress.ip_address(text))
    with pytest.raises(AddressRefused):
        checked(text)


@pytest.mark.parametrize("text", PUBLIC)
def test_ordinary_public_addresses_are_fine(text: str) -> None:
    assert egress.refusal(ipaddress.ip_address(text)) is None
    assert checked(text) == [text]


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_never_a_way_around(address: ipaddress.IPv4Address) -> None:
    for carrier in (f"::ffff:{address}", f"64:ff9b::{address}", f"::{address}"):
        assert egress.refusal(ipaddress.ip_address(carrier))


def test_a_public_name_gives_its_addresses() -> None:
    assert checked("name", 443, name=["1.1.1.1", "2606:4700::1111"]) == ["1.1.1.1", "2606:4700::1111"]


def test_one_private_address_among_several_refuses_the_name() -> None:
    with pytest.raises(AddressRefused, match="name:443 is not called: it is an address of a private network"):
        checked("name", 443, name=["1.1.1.1", "10.0.0.1"])


@pytest.mark.parametrize("names", [{}, {"name": []}, {"name": ["rubbish"]}])
def test_a_name_without_an_address_is_refused(names: dict[str, list[str]]) -> None:
    with pytest.raises(AddressRefused, match="cannot be resolved"):
        checked("name", **names)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "localhost"])
def test_other_spellings_of_this_machine_are_resolved_by_the_system_and_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        asyncio.run(egress.check(host, 80, ()))


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254"])
def test_a_permitted_name_still_never_leads_to_a_clouds_metadata(address: str) -> None:
    with pytest.raises(AddressRefused, match="leads to a cloud metadata address"):
        checked("node", 80, ("node:80",), node=["10.0.0.5", address])
    shown = f"[{address}]" if ":" in address else address
    assert checked(address, 80, (f"{shown}:80",)) == [address], "an operator who writes the address itself means it"


def test_a_name_is_looked_up_once_and_its_checked_addresses_are_what_is_called() -> None:
    asked = []

    async def turns(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["1.1.1.1"] if len(asked) == 1 else ["127.0.0.1"]

    assert asyncio.run(egress.check("name", 80, (), turns)) == ["1.1.1.1"]
    assert asked == ["name"]


def test_the_operator_can_permit_one_private_port_and_no_other() -> None:
    allow = ("Gpu-Node:8000", "127.0.0.1:9000", "[::1]:9000")
    assert checked("gpu-node", 8000, allow, **{"gpu-node": ["10.0.0.5"]}) == ["10.0.0.5"]
    assert checked("127.0.0.1", 9000, allow) == ["127.0.0.1"]
    assert checked("::1", 9000, allow) == ["::1"]
    for host, port in (("gpu-node", 8001), ("127.0.0.1", 9001), ("10.0.0.5", 8000)):
        with pytest.raises(AddressRefused) as caught:
            checked(host, port, allow, **{"gpu-node": ["10.0.0.5"]})
        assert "--allow-egress" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("url", "host", "port", "rebuilt"),
    [
        ("http://example.org", "example.org", 80, "http://example.org:80/"),
        ("HTTPS://Example.ORG./a/b?c=d#e", "example.org", 443, "https://example.org:443/a/b?c=d"),
        ("http://[2606:4700::1111]:8080/x", "2606:4700::1111", 8080, "http://[2606:4700::1111]:8080/x"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, "http://xn--bcher-kva.example:80/"),
    ],
)
def test_urls_are_taken_apart(url: str, host: str, port: int, rebuilt: str) -> None:
    found = egress.target(url)
    assert (found.host, found.port, found.url) == (host, port, rebuilt)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.org/a", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("//example.org/a", "only http and https"),
        ("http://user:word@example.org/", "user name or password"),
        ("http://user@example.org/", "user name or password"),
        ("http://example.org\\@127.0.0.1/", "backslashes"),
        ("http://example.org/\r\nX: y", "control characters"),
        ("http://exa mple.org/", "blanks"),
        ("http:///a", "not a proper URL"),
        ("http://example.org:99999/", "not a proper URL"),
        ("http://example.org:0/", "not a proper URL"),
        ("http://[::1/", "not a proper URL"),
        ("http://127.0.0.1%2f@example.org/", "user name or password"),
        ("http://exa%6dple.org/", "not a proper URL"),
    ],
)
def test_urls_that_are_not_called(url: str, says: str) -> None:
    with pytest.raises(AddressRefused, match=says):
        egress.target(url)
