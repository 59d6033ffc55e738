"""How the caller reaches this hub, for the links in replies."""

from __future__ import annotations

import re

from sensorium.errors import BadRequest
from sensorium.exchange import Exchange

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def base_url(visit: Exchange, public: str | None) -> str:
    """`public` if the operator set one, else scheme and Host of the request; no slash at the end.

    Links follow the caller because clients send their key to whatever host a reply names. Raises BadRequest for a Host that is none.
    """
    if public:
        return public.rstrip("/")
    host = visit.header("host")
    if not _HOST.fullmatch(host):
        raise BadRequest("the Host header of this request names no host, so no link can be made", hint="set server.public_url on the hub")
    return f"{visit.scheme}://{host}"
