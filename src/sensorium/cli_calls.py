"""`sensorium calls` and `sensorium explain` as text: what the hub tells of its finished calls."""

from __future__ import annotations

from typing import Any

from sensorium.client import CallFailed

HEADINGS = ("BEGAN (UTC)", "ID", "CALLER", "ASKED", "ANSWERED BY", "OUTCOME", "STATUS", "SECONDS", "TOKENS IN/OUT")


def table(told: dict[str, Any]) -> str:
    """One line per call, newest first, and how many records were lost, if any. Raises CallFailed for what is no list of calls."""
    try:
        rows = [HEADINGS, *(_row(call) for call in told["data"])]
        lost = int(told["lost"])
    except (KeyError, TypeError, ValueError):
        raise CallFailed("the hub did not send a list of calls") from None
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *([f"{lost} more could not be recorded"] if lost else [])])


def explained(call: dict[str, Any]) -> str:
    """A call, line by line: who asked for what, every route in the order in which it was tried, how it ended. Raises CallFailed."""
    try:
        return "\n".join(_lines(call))
    except (KeyError, TypeError, ValueError):
        raise CallFailed("the hub did not send the record of a call") from None


def _lines(call: dict[str, Any]) -> list[str]:
    model, stream = call["asked"], ", streamed" if call["stream"] else ""
    lines = [f"call {call['id']} of {call['caller'] or 'nobody'}, {_time(call['began'])} UTC"]
    if call["count"] > 1:
        lines.append(f"  the newest of {call['count']} calls with this id")
    lines.append(f"  {call['door']}, {call['modality']}, model {model}{stream}")
    tried = [_attempt(attempt) for attempt in call["attempts"]]
    tried += [f"{_who(call)}: answered"] if call["provider"] else []
    lines += [f"  {number}. {line}" for number, line in enumerate(tried, 1)]
    first = "" if call["first_byte_s"] is None else f", first byte after {call['first_byte_s']:.3f} s"
    came = "" if call["bytes_in"] is None else f"{call['bytes_in']} bytes in, "
    lines.append(f"  {call['outcome']} with {call['status']}{first}, {call['total_s']:.3f} s in all, {came}{call['bytes_out']} bytes out")
    used = {name: amount for name, amount in call["usage"].items() if amount is not None}
    lines.append("  used: " + (", ".join(f"{name} {amount:g}" for name, amount in used.items()) or "unknown"))
    meant = {name: text for name, text in call["attribution"].items() if text is not None}
    return [*lines, *(["  for: " + ", ".join(f"{name} {text}" for name, text in meant.items())] if meant else [])]


def _attempt(attempt: dict[str, Any]) -> str:
    who = " ".join(part for part in (attempt["provider"], attempt["model"]) if part)
    status = f" {attempt['status']}" if attempt["status"] else ""
    said = f": {attempt['message']}" if attempt["message"] else ""
    again = "" if attempt["retry_after_s"] is None else f"; again in {attempt['retry_after_s']:.1f} s"
    reaction = f"; {attempt['reaction']}" if attempt["reaction"] else ""
    return f"{who}: {'' if attempt['asked'] else 'not asked, '}{attempt['class']}{status}{said}{again}{reaction}"


def _row(call: dict[str, Any]) -> tuple[str, ...]:
    usage = call["usage"]
    tokens = tuple("-" if usage[name] is None else str(usage[name]) for name in ("tokens_in", "tokens_out"))
    told = (_time(call["began"]), call["id"], call["caller"], call["asked"], _who(call), call["outcome"], str(call["status"]))
    return (*told, f"{call['total_s']:.3f}", "/".join(tokens))


def _who(call: dict[str, Any]) -> str:
    return " ".join(part for part in (call["provider"], call["model"]) if part) or "-"


def _time(began: str) -> str:
    return began.replace("T", " ").removesuffix("Z")
