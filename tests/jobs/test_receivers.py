"""Which receivers are called: every address that is not ordinary, written out or hidden behind a name."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from sensorium import egress
from sensorium.errors import AddressRefused
from sensorium.jobs import receivers
from tests.test_egress import PRIVATE, PUBLIC


def leads(url: str, *found: str, allow: tuple[str, ...] = ()) -> list[str]:
    """The addresses that would be connected to, when names lead to `found`."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(found)

    return asyncio.run(receivers.addresses(receivers.receiver(url, allow), allow, resolve))


def literal(text: str) -> str:
    return f"https://[{text}]/" if ":" in text else f"https://{text}/"


@pytest.mark.parametrize("text", PRIVATE)
def test_what_is_not_an_ordinary_address_is_called_in_no_way(text: str) -> None:
    with pytest.raises(AddressRefused):
        receivers.receiver(literal(text), ())
    for found in ([text], ["93.184.216.34", text]):
        with pytest.raises(AddressRefused):
            leads("https://hooks.example/", *found)


@pytest.mark.parametrize("text", PUBLIC)
def test_ordinary_addresses_are_called(text: str) -> None:
    assert leads(literal(text)) == [text]
    assert leads("https://hooks.example/", text) == [text]


def test_the_control_is_global_alone_lets_some_through() -> None:
    assert [text for text in PRIVATE if ipaddress.ip_address(text).is_global]


METADATA = ["169.254.169.254", "::ffff:169.254.169.254", "::a9fe:a9fe", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fd00:ec2::254"]


@pytest.mark.parametrize("text", METADATA)
def test_metadata_is_not_called_even_when_listed(text: str) -> None:
    name = f"[{text}]:443" if ":" in text else f"{text}:443"
    with pytest.raises(AddressRefused, match="metadata"):
        receivers.receiver(literal(text), (name,))
    with pytest.raises(AddressRefused, match="metadata"):
        leads("https://hooks.example/", text, allow=("hooks.example:443",))


def test_what_is_listed_is_called_on_its_port_alone() -> None:
    allow = ("10.0.0.1:9000", "Lan.Example:80")
    assert leads("http://10.0.0.1:9000/a?b=c", allow=allow) == ["10.0.0.1"]
    assert leads("http://lan.example/", "192.168.1.5", allow=allow) == ["192.168.1.5"]
    for url in ("http://10.0.0.1:9001/", "http://10.0.0.2:9000/", "http://lan.example:81/", "http://other.example/"):
        with pytest.raises(AddressRefused):
            leads(url, "192.168.1.5", allow=allow)


@pytest.mark.parametrize("found", [[], ["no address"]])
def test_a_name_that_leads_nowhere_is_refused(found: list[str]) -> None:
    with pytest.raises(AddressRefused, match="cannot be resolved"):
        leads("https://hooks.example/", *found)


def test_the_query_is_kept_as_it_was_written() -> None:
    url = "https://hooks.example/a%2Fb/?x=%C3%A9+1&y=a%20b&z"
    assert receivers.receiver(f"{url}#part", ()) == egress.Target("https", "hooks.example", 443, url.replace(".example/", ".example:443/"))
