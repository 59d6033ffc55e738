"""Messages to token ids: the checkpoint's own chat template, its tokenizer, and the expansion of image marks.

Text from callers can never become a marker. It does not know pixels or the model; grids of image tokens come in as numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.errors import SettingsError, Unprocessable

Message = Mapping[str, Any]
Grid = tuple[int, int]

IMAGE_START, IMAGE_PAD, IMAGE_BREAK, IMAGE_END = "<|image_start|>", "<|image_pad|>", "<|image_break|>", "<|image_end|>"
ROLES = ("system", "user", "assistant")
SURROGATE = re.compile("[\ud800-\udfff]")
LONGEST_TOKEN = 32  # characters, on an average that no text for reading has; counting the tokens of megabytes takes minutes
SLOT = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and the positions among them that projector rows will fill, in picture order."""

    ids: list[int]
    pads: list[int]


class PromptBuilder:
    """Turns messages into a Prompt for one checkpoint. Not thread-safe: one engine, one thread."""

    def __init__(self, folder: Path, config: VLMConfig) -> None:
        """Raises SettingsError, once, with everything that tokenizer and template lack."""
        self.tokenizer = _open_tokenizer(folder)
        self._literal = _open_tokenizer(folder)
        self._literal.encode_special_tokens = True
        self._template, self._variables = _open_template(folder)
        names = (IMAGE_START, IMAGE_PAD, IMAGE_BREAK, IMAGE_END)
        marks = [mark for name in names if (mark := self.tokenizer.token_to_id(name)) is not None]
        problems = [f"{folder.name}/tokenizer.json has no token {name}" for name in names if self.tokenizer.token_to_id(name) is None]
        size = self.tokenizer.get_vocab_size()
        if size > config.vocab:
            problems.append(f"{folder.name}/tokenizer.json has {size} tokens, vocab_size in config.json is only {config.vocab}")
        if problems:
            raise SettingsError(problems)
        self._start, self._pad, self._break, self._end = marks
        self.special = frozenset(
            {id for id, token in self.tokenizer.get_added_tokens_decoder().items() if token.special} | {config.mask, *config.ends, *marks}
        )
        self._unknown: int | None = self.tokenizer.token_to_id("<unk>")
        self._probe(folder)

    def _probe(self, folder: Path) -> None:
        """Render one question about one picture, so that an unusable template is found at start-up and not by a caller."""
        text, picture = {"type": "text", "text": "?"}, {"type": "image"}
        try:
            self.build([{"role": "user", "content": [picture, text]}], [(1, 1)])
        except Unprocessable as error:
            raise SettingsError([f"{folder.name}/chat_template.jinja cannot be used: {error.message}"]) from error

    def build(self, messages: Sequence[Message], grids: Sequence[Grid], length: int | None = None) -> Prompt:
        """Ids of the conversation up to the answer. `grids` holds (rows, columns) of each picture, in part order, `length` the tokens that
        there is room for.

        Raises Unprocessable for messages out of form, a picture count that does not fit, a template that refuses them, or texts so long
        that it is not worth the time to count their tokens.
        """
        shaped, texts = _shape(messages)
        if length is not None and (characters := sum(map(len, texts))) > LONGEST_TOKEN * length:
            raise Unprocessable(
                f"the prompt has {characters} characters, far more than the {length} tokens that this model holds",
                param="messages",
                hint="shorten the prompt",
            )
        wanted = sum(part["type"] == "image" for message in shaped for part in message["content"])
        if wanted != len(grids):
            raise Unprocessable(f"the messages hold {wanted} image parts but {len(grids)} pictures came with them", param="messages")
        return self._expand(self._encode(shaped, texts), grids)

    def _encode(self, shaped: list[dict[str, Any]], texts: list[str]) -> list[int]:
        """The whole prompt in one piece when the texts add no marker; else template and texts are encoded apart.

        "Add no marker" is tested on the outcome: the special ids must be exactly those of the template alone. That also catches
        markers put together from several parts or by the tokenizer's normalisation.
        """
        pieces = SLOT.split(self._render(shaped))
        framed: list[int] = []
        apart: list[int] = []
        for number, piece in enumerate(pieces):
            if number % 2 == 0:
                ids = self._ids(self.tokenizer, piece)
                framed += [id for id in ids if id in self.special]
                apart += ids
            else:
                apart += self._literal_ids(texts[int(piece)])
        whole = self._ids(self.tokenizer, self._render(_fill(shaped, texts)))
        return whole if [id for id in whole if id in self.special] == framed else apart

    def _ids(self, tokenizer: Tokenizer, text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _literal_ids(self, text: str) -> list[int]:
        """Caller's text with markers as plain characters; a special id that still comes out becomes `<unk>`."""
        ids = self._ids(self._literal, text)
        replaced = [self._unknown if id in self.special else id for id in ids]
        return [id for id in replaced if id is not None]

    def _render(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._variables)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise Unprocessable(f"the model's chat template refuses these messages: {error}", param="messages") from error

    def _expand(self, ids: list[int], grids: Sequence[Grid]) -> Prompt:
        """Replace each image mark by start, rows of pads closed by breaks, and the end mark."""
        found = ids.count(self._start)
        if found != len(grids):
            raise Unprocessable(f"the model's chat template placed {found} of {len(grids)} pictures", param="messages")
        out: list[int] = []
        pads: list[int] = []
        waiting = iter(grids)
        for id in ids:
            out.append(id)
            if id == self._start:
                rows, columns = next(waiting)
                for _ in range(rows):
                    pads += range(len(out), len(out) + columns)
                    out += [self._pad] * columns + [self._break]
                out[-1] = self._end
        return Prompt(out, pads)


def _shape(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages as the template gets them, with a numbered slot in place of each text, and the texts.

    A message's only picture goes before its text, as the model was trained; several pictures stay where the caller put them.
    """
    shaped: list[dict[str, Any]] = []
    texts: list[str] = []
    for place, message in enumerate(messages):
        if message.get("role") not in ROLES:
            role = repr(message.get("role"))[:60]
            raise Unprocessable(f"messages[{place}].role is {role}, expected one of {', '.join(ROLES)}", param="messages")
        parts: list[dict[str, str]] = []
        for part in _parts(message, place):
            if part.get("type") == "image":
                parts.append({"type": "image"})
            elif part.get("type") == "text" and _is_text(part.get("text")):
                parts.append({"type": "text", "text": f"\ue000{len(texts)}\ue001"})
                texts.append(part["text"])
            else:
                raise Unprocessable(f"messages[{place}] has a part that is neither an image nor well-formed text", param="messages")
        if sum(part["type"] == "image" for part in parts) == 1:
            parts.sort(key=lambda part: part["type"] != "image")
        shaped.append({"role": message["role"], "content": parts})
    if not shaped:
        raise Unprocessable("messages is empty, expected at least one", param="messages")
    return shaped, texts


def _is_text(value: object) -> bool:
    """A string without lone surrogates, which have no bytes and so no tokens."""
    return isinstance(value, str) and not SURROGATE.search(value)


def _parts(message: Message, place: int) -> Iterable[Mapping[str, Any]]:
    content = message.get("content")
    if not isinstance(content, list) or not content or not all(isinstance(part, Mapping) for part in content):
        raise Unprocessable(f"messages[{place}].content is not a list of parts", param="messages")
    return content


def _fill(shaped: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
    """The same messages with the real texts in their slots."""

    def filled(part: dict[str, str]) -> dict[str, str]:
        slot = SLOT.fullmatch(part.get("text", ""))
        return part | {"text": texts[int(slot[1])]} if slot else part

    return [message | {"content": [filled(part) for part in message["content"]]} for message in shaped]


def _open_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
        usable = isinstance(json.loads(text).get("model"), Mapping)
    except OSError as error:
        raise SettingsError([f"{folder.name}/tokenizer.json cannot be read: {error.strerror}"]) from error
    except (ValueError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise SettingsError([f"{folder.name}/tokenizer.json is not a tokenizer file"])
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # outermost: the library has no narrower class for a file that it does not take
        raise SettingsError([f"{folder.name}/tokenizer.json is not a tokenizer file: {error}"]) from None


def _open_template(folder: Path) -> tuple[jinja2.Template, dict[str, str]]:
    """The chat template, compiled as the usual loaders do, and the token strings it may print."""
    path = folder / "chat_template.jinja"
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        template = environment.from_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{folder.name}/chat_template.jinja cannot be read: {error.strerror}"]) from error
    except jinja2.TemplateSyntaxError as error:
        raise SettingsError([f"{folder.name}/chat_template.jinja, line {error.lineno}: {error.message}"]) from error
    return template, _token_strings(folder / "tokenizer_config.json")


def _token_strings(path: Path) -> dict[str, str]:
    """`bos_token` and the like from tokenizer_config.json, where they are strings or mappings with a content."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"{path.parent.name}/{path.name} is not JSON"]) from error
    if not isinstance(values, dict):
        raise SettingsError([f"{path.parent.name}/{path.name} is not a mapping"])
    named = {key: value for key, value in values.items() if key.endswith("_token")}
    strings = {key: value.get("content") if isinstance(value, Mapping) else value for key, value in named.items()}
    return {key: value for key, value in strings.items() if isinstance(value, str)}


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def check_length(prompt: int, needed: int, positions: int) -> None:
    """Raises Unprocessable, naming the numbers, when prompt and answer blocks do not fit the model's positions."""
    if prompt + needed > positions:
        raise Unprocessable(
            f"the prompt takes {prompt} tokens and the answer up to {needed}, together {prompt + needed}; this model holds {positions}",
            param="max_tokens" if prompt < positions else "messages",
            hint="shorten the prompt, use fewer or smaller pictures, or lower max_tokens",
        )
