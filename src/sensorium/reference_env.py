"""The reference router's environment variables as settings of this hub, and what that router would have ignored without a word.

No value of a key is ever in the result: a key is named, and the line that stores it reads the variable itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sensorium.options import ANTHROPIC, KEYS, NVIDIA_AI, NVIDIA_CHAT
from sensorium.settings import problems_of
from sensorium.settings_text import NAME, modality, provider

MEDIA: Final = ("image", "audio", "video")
IMAGE_UPSTREAM: Final = f"{NVIDIA_AI}/genai"  # the only modality for which that router has an address of its own
KNOWN: Final = {"MAC_ROUTER_PROVIDERS", "MAC_ROUTER_WILDCARD_MODELS", "MAC_ROUTER_DEFAULT_MODEL", "MAC_ROUTER_MEDIA_JSON"} | {
    f"MAC_ROUTER_{name.upper()}_{part}" for name in MEDIA for part in ("UPSTREAM", "KEY", "TIMEOUT")
}
VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]{2,63}")
LIKE_A_KEY: Final = re.compile(r"nvapi-|\bsk-|Bearer ")
URL, KEY, TIMEOUT = ("base_url", "url", "upstream"), ("key_env", "key", "api_key", "secret"), ("timeout_s", "timeout")
TAKEN: Final = {"name", "models", "model", *URL, *KEY, *TIMEOUT}
PRESETS: Final = {"nvidia": NVIDIA_CHAT, "openai": "https://api.openai.com/v1"}


class Import:
    """One reading of the variables. `tables` are the settings, `warnings` sentences, `stores` the commands that store the keys."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.tables: list[str] = []
        self.warnings: list[str] = []
        self.stores: list[str] = []
        self._environ = environ
        self._modalities: set[str] = set()
        self._ladder = self._models()
        self._chat()
        for name in MEDIA:
            self._medium(name)
        self._media_json()
        self._others()

    @property
    def text(self) -> str:
        """The settings file."""
        return "\n".join(self.tables)

    def _get(self, name: str) -> str:
        return self._environ.get(name, "").strip()

    def _warn(self, variable: str, sentence: str) -> None:
        self.warnings.append(f"{variable}: {sentence}")

    def _models(self) -> list[str]:
        """The models of `*`, the default one first."""
        variable = "MAC_ROUTER_WILDCARD_MODELS"
        listed = self._listed(variable, self._get(variable))
        names = [name for name in (self._get("MAC_ROUTER_DEFAULT_MODEL"), *listed) if name]
        kept = [name for name in dict.fromkeys(names) if not LIKE_A_KEY.search(name) and not self._bad_model(name)]
        if len(kept) < len(set(names)):
            self._warn(variable, "a name that no model can have is left out")
        if kept:
            self._warn(variable, "that router sent pictures to any of these; mark the models that see with vision = true")
        return kept

    def _bad_model(self, name: str) -> bool:
        return bool(problems_of(modality("chat", NVIDIA_CHAT, [{"id": name}])))

    def _listed(self, variable: str, text: str) -> list[str]:
        if not text.startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        found = self._json(variable, text)
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []

    def _json(self, variable: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            self._warn(variable, "is not valid JSON; that router would have ignored it silently")
            return None

    def _chat(self) -> None:
        variable = "MAC_ROUTER_PROVIDERS"
        text = self._get(variable)
        if text[:1] in ("[", "{"):
            entries = list(self._entries(variable, self._json(variable, text)))
        else:
            entries = [{"name": part.strip()} for part in text.split(",") if part.strip()]
        for entry in entries:
            self._provider(variable, entry)
        if self._ladder:
            self._warn("MAC_ROUTER_DEFAULT_MODEL", f"no provider is left to serve it; {NVIDIA_CHAT} is assumed")
            self._keep("MAC_ROUTER_DEFAULT_MODEL", modality("chat", NVIDIA_CHAT, [{"id": id} for id in self._ladder]))

    def _entries(self, variable: str, found: Any) -> Iterator[dict[str, Any]]:
        if isinstance(found, dict):
            found = [{"name": name, **entry} if isinstance(entry, dict) else name for name, entry in found.items()]
        for entry in found if isinstance(found, list) else []:
            if isinstance(entry, dict):
                yield entry
            else:
                self._warn(variable, "an entry is no object; that router would have ignored it silently")

    def _provider(self, variable: str, entry: dict[str, Any]) -> None:
        name = str(entry.get("name", ""))
        url = _first(entry, URL) or PRESETS.get(name.lower(), "")
        if not NAME.fullmatch(name) or LIKE_A_KEY.search(name) or not url:
            shown = name if NAME.fullmatch(name) and not LIKE_A_KEY.search(name) else "an entry"
            self._warn(variable, f"{shown} has no name or no URL; that router would have ignored it silently")
            return
        self._unknown(f"{variable}, {name}", entry)
        given = entry.get("models", entry.get("model", []))
        models = [str(one) for one in (given if isinstance(given, list) else [given]) if one]
        models = [one for one in dict.fromkeys([*models, *self._ladder]) if not LIKE_A_KEY.search(one)]
        secret = f"{re.sub('[^a-z0-9-]', '-', name.lower())}-upstream"
        secret = self._key(f"{variable}, {name}", _first(entry, KEY), secret, "")
        timeout = self._timeout(f"{variable}, {name}", _first(entry, TIMEOUT))
        kind = {NVIDIA_CHAT: "nvidia", ANTHROPIC: "anthropic"}.get(url.rstrip("/"), "openai")
        if self._keep(variable, provider(name, kind, [{"id": one} for one in models], base_url=url, key=secret, timeout_s=timeout)):
            self._ladder = []

    def _medium(self, name: str) -> None:
        upstream, key, timeout = (f"MAC_ROUTER_{name.upper()}_{part}" for part in ("UPSTREAM", "KEY", "TIMEOUT"))
        if not any(map(self._get, (upstream, key, timeout))):
            return
        url = self._get(upstream) or (IMAGE_UPSTREAM if name == "image" else "")
        if not url:
            self._warn(upstream, f"is not set, so {name} stays off and the other variables of {name} are ignored")
            return
        self._modality(upstream, name, url, (key, self._get(key)), (timeout, self._get(timeout)))

    def _media_json(self) -> None:
        variable = "MAC_ROUTER_MEDIA_JSON"
        found = self._json(variable, self._get(variable)) if self._get(variable) else {}
        for op, binding in (found if isinstance(found, dict) else {}).items():
            name = op.partition(".")[0]
            url = _first(binding, URL) if isinstance(binding, dict) else ""
            if name not in MEDIA or not url or op == "image.understand":
                self._warn(
                    variable, f"{op if re.fullmatch(r'[a-z.]{1,40}', op) else 'an entry'} has no equal here or no URL; it is left out"
                )
            elif name in self._modalities:
                self._warn(variable, f"{op}: router.{name} is set already, and has one URL; this one is left out")
            else:
                self._unknown(f"{variable}, {op}", binding)
                key, timeout = _first(binding, KEY), _first(binding, TIMEOUT)
                self._modality(f"{variable}, {op}", name, url, (variable, key), (variable, timeout))

    def _modality(self, variable: str, name: str, url: str, key: tuple[str, str], timeout: tuple[str, str]) -> None:
        if not key[1] and name == "image":
            self._warn(key[0], "is not set: that router sent the chat key there; here no key serves two modalities, so store one")
        secret = self._key(key[0], key[1], KEYS[name], key[0] if key[0].endswith("_KEY") else "")
        made = modality(name, url, timeout_s=self._timeout(timeout[0], timeout[1]))
        if secret and self._keep(variable, made.replace(f'"secret:{KEYS[name]}"', f'"{secret}"', 1)):
            self._modalities.add(name)

    def _key(self, place: str, given: str, secret: str, holds: str) -> str:
        """How the table names the key; `holds` is the variable that holds `given`, if one does on its own."""
        if given in KEYS.values():
            return f"secret:{given}"
        source = given if VARIABLE.fullmatch(given) else holds if given else ""
        if source and VARIABLE.fullmatch(given) and not self._get(given):
            self._warn(place, f"names {given}, which is empty or not set; that router would have called without a key")
        if source:
            self.stores.append(f'printf %s "${source}" | sensorium secret put {secret}')
        else:
            self.stores.append(f"sensorium secret put {secret}")
        return f"secret:{secret}"

    def _timeout(self, place: str, text: str) -> float | None:
        if not text:
            return None
        if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) and float(text) > 0:
            return float(text)
        self._warn(place, "the timeout is no number of seconds; that router would have ignored it silently")
        return None

    def _unknown(self, place: str, entry: Mapping[str, Any]) -> None:
        names = [name for name in entry if name not in TAKEN]
        if names:
            shown = ", ".join(name for name in names if re.fullmatch(r"[a-z_]{1,40}", name)) or "members"
            self._warn(place, f"{shown} not understood and left out")

    def _keep(self, variable: str, made: str) -> bool:
        wrong = ["it holds what looks like a key"] if LIKE_A_KEY.search(made) else problems_of(made)
        for problem in wrong:
            self._warn(variable, f"left out: {problem}")
        if not wrong:
            self.tables.append(made)
        return not wrong

    def _others(self) -> None:
        if self._get("MAC_API_TOKENS"):
            self._warn("MAC_API_TOKENS", "this hub has one token, MAC_API_TOKEN; the others are not carried over")
        for name in sorted(self._environ):
            if name.startswith("MAC_ROUTER_") and name not in KNOWN:
                self._warn(name, "is not known here; docs/settings.md lists every option")


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(entry[name]) for name in names if entry.get(name)), "")
