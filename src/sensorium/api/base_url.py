"""How a caller reaches the hub: the beginning of every absolute link in a reply."""

from __future__ import annotations

from sensorium.api.visit import Visit


def base_url(visit: Visit, public: str | None) -> str:
    """`public` when it is configured, else the scheme and Host of the call; no slash at the end."""
    return public.rstrip("/") if public else f"{visit.scheme}://{visit.header('host')}"
