"""What the catalogue's models make as apps, by modality, but for chat (`talking`): pictures, vectors, ranks, speech, transcripts, films."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, Field

from sensorium.apps.answers import MOST_BYTES, answered, asking, count, decoded
from sensorium.apps.app import Output, Task
from sensorium.apps.drawing import Wish, drawn
from sensorium.apps.files import Files, inlined, inlined_all, shelf
from sensorium.apps.flux import Size, sides
from sensorium.apps.pictures import unreached
from sensorium.errors import BadRequest, SensoriumError, UpstreamFailed
from sensorium.routing import byline
from sensorium.routing.call import Call, Dialect, Modality, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.wire import dataurl, films, media, retrieval
from sensorium.wire.fal_errors import Refused, detail
from sensorium.wire.fal_input import FIRST, REAL, WHOLE, Input, OpenInput, Text, blamed, described, read
from sensorium.wire.nvidia_models import SEED
from sensorium.wire.retrieval import MOST_DOCUMENTS

FILMS: Final[tuple[Dialect, ...]] = ("genai", "nvidia", "openai", "fal")
Seed = Annotated[int, Field(ge=0, le=SEED.high), WHOLE]
Steps = Annotated[int, Field(ge=1, le=1000), WHOLE]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), REAL]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a model: who answers calls, where files are, what is asked for; `fetch` gets a file by its URL."""

    dispatch: Dispatch
    files: Files
    task: Task
    model: str
    fetch: Callable[[str], Awaitable[bytes]]

    def call(self, modality: Modality, dialects: tuple[Dialect, ...], operation: str, given: Mapping[str, Any], **more: Any) -> Call:
        """A call of this model, as `asking` makes it."""
        return asking(self.task, self.model, modality, dialects, operation, given, **more)

    @asynccontextmanager
    async def answer(self, call: Call, fields: dict[str, str]) -> AsyncIterator[Reply]:
        """The reply to a call, closed at the end; a refusal names the input's field that `fields` has for the call's parameter."""
        try:
            reply = await answered(self.dispatch, call)
            try:
                yield reply
            finally:
                await reply.close()
        except SensoriumError as error:
            raise blamed(error, fields) from None


class ImageInput(OpenInput):
    """What to draw; what is left out is the model's own choice."""

    prompt: Annotated[Text, described("The prompt to draw.")]
    image_size: Annotated[Size | None, described("The size of the picture: a name, or its sides.")] = None
    num_inference_steps: Annotated[Steps | None, described("Steps from noise to picture.")] = None
    seed: Annotated[Seed | None, described("The same seed and prompt draw the same picture. 0 and none: one is chosen, and told.")] = None
    guidance_scale: Annotated[Guidance | None, described("How closely to keep to the prompt.")] = None
    num_images: Annotated[int, Field(ge=1, le=4), WHOLE, described("How many pictures, each with the next seed.")] = 1
    output_format: Annotated[Literal["jpeg", "png"], described("The format of the files.")] = "jpeg"
    sync_mode: Annotated[bool, described("Answer the pictures as data: URLs; nothing is stored.")] = False


class EmbedInput(OpenInput):
    """Texts to be made vectors of."""

    input: Annotated[Text | Annotated[list[Text], FIRST], described("A text, or several.")]


class EmbedOutput(BaseModel):
    """One vector per text, in their order."""

    embeddings: list[list[float]]
    usage: dict[str, int]


class RerankInput(OpenInput):
    """Documents to be put in order."""

    query: Annotated[Text, described("What to rank by.")]
    documents: Annotated[list[Text], Field(min_length=1, max_length=MOST_DOCUMENTS), FIRST, described("The texts.")]
    top_n: Annotated[
        Annotated[int, Field(ge=1, le=MOST_DOCUMENTS), WHOLE] | None, described("How many results; all where it is left out.")
    ] = None


class Ranked(BaseModel):
    """One document: its place in `documents`, and how well it fits."""

    index: int
    relevance_score: float


class RerankOutput(BaseModel):
    """The documents, best first."""

    results: list[Ranked]


class SpeechInput(Input):
    """A text to be spoken."""

    text: Annotated[Text, Field(min_length=1), described("The text.")]
    voice: Annotated[Text | None, described("Whose voice.")] = None
    language: Annotated[Text | None, described("Its language, such as en-US.")] = None
    format: Annotated[Text, described("The format of the sound.")] = "wav"


class File(BaseModel):
    """A stored file."""

    url: str
    content_type: str
    file_name: str | None = None
    file_size: int | None = None


class SpeechOutput(BaseModel):
    """The sound."""

    audio: File


class TranscribeInput(Input):
    """A sound to be written down."""

    audio_url: Annotated[Text, described("URL or data: URI of the sound.")]
    language: Annotated[Text | None, described("Its language, such as en-US.")] = None


class TranscribeOutput(BaseModel):
    """What was said; nothing for silence."""

    text: str


class VideoInput(OpenInput):
    """What to film; which of them a model needs, it says itself."""

    prompt: Annotated[Text | None, described("What is to be seen.")] = None
    image_url: Annotated[Text | None, described("URL of a picture to begin with.")] = None
    seed: Annotated[Seed | None, described("The same seed gives the same film.")] = None
    num_inference_steps: Annotated[Steps | None, described("Steps from noise to film.")] = None
    guidance_scale: Annotated[Guidance | None, described("How closely to keep to the prompt.")] = None


class VideoOutput(BaseModel):
    """The film."""

    video: File


async def draw(run: Run) -> AsyncGenerator[Output, None]:
    """Pictures."""
    asked = read(ImageInput, run.task.input)
    wish = Wish(
        run.model,
        asked.prompt,
        size=None if asked.image_size is None else sides(asked.image_size),
        steps=asked.num_inference_steps,
        guidance=asked.guidance_scale,
        seed=asked.seed or None,
        count=asked.num_images,
        kind=asked.output_format,
        embedded=asked.sync_mode,
        more=await inlined_all(run.files, run.task, asked.more("model", "n", "stream", "response_format")),
    )
    yield await drawn(run.dispatch, run.files, run.task, wish)


async def embed(run: Run) -> AsyncGenerator[Output, None]:
    """Vectors."""
    asked = read(EmbedInput, run.task.input)
    given = {"input": asked.input, "encoding_format": "float", **asked.more("model", "encoding_format")}
    async with run.answer(run.call("embed", ("openai", "nvidia"), "embeddings", given), {"input": "input"}) as reply:
        found = await decoded(reply)
        vectors = [one["embedding"] for one in _objects(found.get("data")) if isinstance(one.get("embedding"), list)]
        if len(vectors) != (1 if isinstance(asked.input, str) else len(asked.input)):
            raise UpstreamFailed(f"{reply.route.provider.name} answered without the vectors")
        usage = found.get("usage")
        counts = {name: count(usage.get(name)) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "total_tokens")}
        yield Output({"embeddings": vectors, "usage": counts}, headers=byline.origin(reply))


async def rank(run: Run) -> AsyncGenerator[Output, None]:
    """Ranks."""
    asked = read(RerankInput, run.task.input)
    given = {"query": asked.query, "documents": asked.documents, "top_n": asked.top_n, **asked.more("model")}
    call = run.call("rerank", ("openai", "nvidia"), "rerank", given)
    async with run.answer(call, {name: name for name in RerankInput.model_fields}) as reply:
        body, provider = await reply.whole(), reply.route.provider.name
        if reply.route.dialect != "openai":
            body = retrieval.ranked(body, call.members, run.model, run.task.id, provider)
        found = msgspec.json.decode(body)
        results = _objects(found.get("results") if isinstance(found, dict) else None)
        if not results:
            raise UpstreamFailed(f"{provider} answered without ranks")
        kept = [{name: one.get(name) for name in Ranked.model_fields} for one in results]
        yield Output({"results": kept}, headers=byline.origin(reply))


async def speak(run: Run) -> AsyncGenerator[Output, None]:
    """A sound file."""
    asked = read(SpeechInput, run.task.input)
    given = {"input": asked.text, "voice": asked.voice, "language": asked.language, "response_format": asked.format}
    call = run.call("speech", ("nvidia", "openai"), "audio/speech", given, extensions=media.EXTENSIONS)
    fields = {"input": "text", "text": "text", "voice": "voice", "language": "language", "response_format": "format"}
    async with run.answer(call, fields) as reply, shelf(run.files, run.task) as place:
        sound = await reply.whole(MOST_BYTES)
        kind = media.sound(sound[:64], reply.headers)["content_type"] or "application/octet-stream"
        audio = await place.put(sound, kind, "speech")
        yield Output({"audio": audio}, tuple(place.keys), byline.origin(reply))


async def transcribe(run: Run) -> AsyncGenerator[Output, None]:
    """A text."""
    asked = read(TranscribeInput, run.task.input)
    sound = await _sound(run, asked.audio_url)
    members = {"audio": sound, "language": asked.language}
    form = media.heard({name: msgspec.Raw(msgspec.json.encode(value)) for name, value in members.items() if value is not None})
    call = run.call("transcribe", ("nvidia", "openai"), "audio/transcriptions", {}, form=form)
    async with run.answer(call, {"file": "audio_url", "language": "language"}) as reply:
        text = media.transcript(await reply.whole(), reply.route.provider.name)
        yield Output({"text": text}, headers=byline.origin(reply))


async def film(run: Run) -> AsyncGenerator[Output, None]:
    """A film; one that a provider only links to stays where it is."""
    read(VideoInput, run.task.input)
    given = await inlined_all(run.files, run.task, {name: value for name, value in run.task.input.items() if value is not None})
    given.pop("model", None)
    call = run.call("video", FILMS, films.OPERATION, given)
    if any(route.dialect != "fal" for route in run.dispatch.plan(call)):
        words = {"image_url": "image", "num_inference_steps": "steps", "guidance_scale": "cfg_scale"}
        translated = {words.get(name, name): value for name, value in given.items()}
        call = run.call("video", ("genai", "nvidia", "openai"), films.OPERATION, translated)
    fields = {name: name for name in VideoInput.model_fields} | {"image": "image_url", "steps": "num_inference_steps"}
    async with run.answer(call, fields | {"cfg_scale": "guidance_scale"}) as reply, shelf(run.files, run.task) as place:
        body, provider = await reply.whole(MOST_BYTES), reply.route.provider.name
        made = await asyncio.to_thread(media.clip, body, provider)
        told = made if "url" in made else await place.put(await asyncio.to_thread(_bytes, made["base64"], provider), "video/mp4", "video")
        yield Output({"video": told}, tuple(place.keys), byline.origin(reply))


async def _sound(run: Run, url: str) -> str:
    """The sound as a data: URL. Raises Refused for what cannot be had."""
    here = await inlined(run.files, run.task, "audio_url", url)
    try:
        if not dataurl.is_data_url(here):
            return await asyncio.to_thread(dataurl.build, "application/octet-stream", await run.fetch(here))
    except BadRequest as error:
        raise unreached(error.message, run.task, "audio_url", url) from None
    try:
        await asyncio.to_thread(dataurl.parse, here)
    except BadRequest as error:
        raise Refused([detail("audio_url", error.message, "value_error", input=url)]) from None
    return here


def _bytes(text: msgspec.Raw, provider: str) -> bytes:
    """What a JSON string of base64 holds. Blocking: it may be a film."""
    try:
        return base64.b64decode(msgspec.json.decode(text, type=str), validate=True)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise UpstreamFailed(f"{provider} answered with a file whose base64 is damaged") from None


def _objects(given: Any) -> list[dict[str, Any]]:
    return [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
