"""Who wrote a reply, as headers: of what a door relays, and of what an app made out of a reply."""

from __future__ import annotations

from sensorium.routing.call import Reply

SOURCE, MODEL, CHANGED = "x-sensorium-source", "x-sensorium-model", "x-sensorium-changed"
PLACE, PASSED_OVER = "x-sensorium-place", "x-sensorium-passed-over"
CHANGED_MOST = 2000  # characters


def origin(reply: Reply) -> dict[str, str]:
    """The headers that say who really answered, where, who should have, and what the one who did said about its answer."""
    said = {name: text for name, text in reply.headers.items() if name.startswith("x-sensorium-")}
    said |= {SOURCE: reply.route.provider.name, MODEL: reply.route.answers}
    said[PLACE] = "local" if reply.route.provider.local else "hosted"
    if reply.route.open:
        del said[MODEL]  # nobody named one
    if reply.route.stand_in:
        said["x-sensorium-stand-in"] = reply.route.id
    if reply.attempts:
        said[PASSED_OVER] = _line("; ".join(f"{attempt}, {attempt.failure.message}" for attempt in reply.attempts))
    if reply.changes:
        said[CHANGED] = _line("; ".join(reply.changes))
    return said


def _line(text: str) -> str:
    """A caller's words among ours as one header line."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:CHANGED_MOST])
