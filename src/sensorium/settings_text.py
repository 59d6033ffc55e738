"""Tables of the settings file as text, and the file replaced, whole, only by a text that loads."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final

from sensorium.errors import SettingsError
from sensorium.options import KEYS
from sensorium.settings import Settings, load_for_vault

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SHORT: Final[dict[str, dict[str, Any]]] = {
    "chat": {},
    "vision": {"vision": True},
    "embed": {"modality": "embed"},
    "image": {"modality": "image"},
    "video": {"modality": "video"},
}
# Written into the file, where the operator sees and changes them; the hub itself knows no default model.
NVIDIA_MODELS: Final = (
    "vision=meta/llama-3.2-90b-vision-instruct",
    "embed=nvidia/nv-embedqa-e5-v5",
    "image=black-forest-labs/flux.1-schnell",
    "image=black-forest-labs/flux.1-dev",
)
FAL_MODELS: Final = (
    {"id": "fal-ai/nemotron-diffusion-vlm", "vision": True},
    {"id": "black-forest-labs/flux.1-schnell", "modality": "image", "upstream": "fal-ai/flux/schnell"},
    {"id": "black-forest-labs/flux.1-dev", "modality": "image", "upstream": "fal-ai/flux/dev"},
)


def modality(name: str, url: str, models: Sequence[Mapping[str, Any]] = (), **more: str | float | None) -> str:
    """A table of `router`. Its key is spelled out, so that whoever reads the file sees which secret it needs."""
    listed = [{key: value for key, value in model.items() if key != "modality"} for model in models]
    return table(f"router.{name}", {"url": url, "key": f"secret:{KEYS[name]}", **more, "models": listed or None})


def provider(name: str, kind: str, models: Sequence[Mapping[str, Any]] = (), **more: str | float | None) -> str:
    """A table of `providers`. Raises SettingsError for a name that is none."""
    if not NAME.fullmatch(name):
        raise SettingsError([f"{name!r} is no name of a provider; use letters, digits, _ and -"])
    return table(f"providers.{name}", {"kind": kind, **more, "models": list(models) or None})


def named_models(given: Sequence[str]) -> list[dict[str, Any]]:
    """Models from `[MODALITY=]ID`, where MODALITY is chat, vision (chat with pictures), embed, image or video. Raises SettingsError."""
    found = []
    for text in given:
        kind, equals, id = text.rpartition("=")
        if equals and kind not in SHORT:
            raise SettingsError([f"{text!r}: write a model as ID or MODALITY=ID, with {', '.join(SHORT)}"])
        found.append({"id": id, **SHORT[kind or "chat"]})
    return found


def table(name: str, entries: Mapping[str, Any]) -> str:
    """A TOML table; entries of None are left out."""
    return "\n".join([f"[{name}]", *(f"{key} = {_value(value)}" for key, value in entries.items() if value is not None)]) + "\n"


def joined(before: str, *tables: str) -> str:
    """The text with the tables after it, a blank line before each."""
    return "\n".join(part for part in (before.rstrip("\n") + "\n" if before.strip() else "", *tables) if part)


def assigned(text: str, path: str, value: Any) -> str:
    """The text with the option `path` (its table, a dot, its name) set to `value`, everything else as it was, comments too.

    Raises SettingsError where a change of one line does not do it.
    """
    name, _, option = path.rpartition(".")
    lines, said = text.splitlines(), f"{option} = {_value(value)}"
    heads = [place for place, line in enumerate(lines) if line.lstrip().startswith("[")]
    head = next((place for place in heads if re.fullmatch(rf"\s*\[\s*{re.escape(name)}\s*\]\s*(#.*)?", lines[place])), None)
    if head is None:
        changed = joined(text, f"[{name}]\n{said}\n")
    else:
        end = next((place for place in heads if place > head), len(lines))
        own = rf"\s*{re.escape(option)}\s*="
        place = next((place for place in range(head + 1, end) if re.match(own, lines[place])), None)
        if place is None:
            lines.insert(head + 1, said)
        else:
            comment = re.fullmatch(own + r"""\s*(?:"[^"\\]*"|'[^']*'|[^"'#\[{]*?)(\s*#.*)?""", lines[place])
            lines[place] = said + (comment[1] or "" if comment else "")
        changed = "\n".join(lines) + "\n"
    if _parsed(changed) != _with(_parsed(text), [*name.split("."), option], value):
        raise SettingsError([f"{path}: cannot be changed from the command line as it is written there; edit the file"])
    return changed


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _with(tables: dict[str, Any] | None, keys: Sequence[str], value: Any) -> dict[str, Any]:
    whole: dict[str, Any] = tables or {}
    inner: Any = whole
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, MutableMapping):
            raise SettingsError([f"{'.'.join(keys)}: {key} is no table"])
    inner[keys[-1]] = value
    return whole


def replaced(path: Path, text: str, environ: Mapping[str, str], **flags: Any) -> Settings:
    """Write `text` to `path` in one step, if it loads. Raises SettingsError, and then the file is as it was."""
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.write_text(text, "utf-8")
        settings = load_for_vault(draft, environ, **flags)
        draft.replace(path)
    except OSError as error:
        raise SettingsError([f"{path}: cannot be written: {error.strerror}"]) from None
    except SettingsError as error:
        raise SettingsError([problem.replace(str(draft), str(path)) for problem in error.problems]) from None
    finally:
        draft.unlink(missing_ok=True)
    return settings


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[\n" + "".join(f"    {_value(one)},\n" for one in value) + "]"
    # JSON's strings, numbers and booleans are TOML's, but for one character
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
