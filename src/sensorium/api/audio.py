"""The speech doors below /v1/audio/: forms and JSON in, transcripts and audio bytes out, as they came from the service.

What a route's dialect needs is made in `routing.payload`, per route, so that a call can fail over; here calls are read and replies
checked.
"""

from __future__ import annotations

from dataclasses import replace

from sensorium.api import transcode
from sensorium.api.visit import Visit
from sensorium.errors import BadRequest, NotConfigured, NotFound, SensoriumError, UnsupportedMedia, UpstreamRefused
from sensorium.routing.call import ANY_MODEL, Call, Modality
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.plan import plan
from sensorium.wire import jsonbody, multipart, openai, paths, speech

PREFIX = "/v1/audio/"
PATHS = ("transcriptions", "translations", "synthesize", "synthesize_online", "speech", "list_voices")
TRUE = ("true", "1")


class AudioDoor:
    """Handlers below /v1/audio/."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def transcriptions(self, visit: Visit) -> None:
        """Speech to text: a form with the audio in `file`. Formats that the route cannot read become WAV where ffmpeg is there."""
        await visit.relay(await self._dispatch(await self._heard(visit)))

    async def translations(self, visit: Visit) -> None:
        """The same, into English, for models that can."""
        await visit.relay(await self._dispatch(replace(await self._heard(visit), optional=True)))

    async def synthesize(self, visit: Visit) -> None:
        """Text to speech as NVIDIA's services do it: JSON (`text`, `voice`, ...) or a form in, the audio file out."""
        await self._say(visit, replace(await self._said(visit), dialects=("nvidia",)))

    async def synthesize_online(self, visit: Visit) -> None:
        """The same, as PCM without a header, piece by piece."""
        await self._say(visit, replace(await self._said(visit), dialects=("nvidia",), optional=True))

    async def speech(self, visit: Visit) -> None:
        """OpenAI's text to speech."""
        await self._say(visit, await self._said(visit))

    async def list_voices(self, visit: Visit) -> None:
        """The voices that there are, as the service lists them."""
        self._operation(visit, "speech")
        await visit.relay(await self._dispatch(_voices(visit)))

    async def unknown(self, visit: Visit) -> None:
        """Any other path. Raises BadRequest for one that no path can be, else NotFound."""
        path = paths.checked(visit.params[0], visit.raw_path)
        raise NotFound(f"no speech service has {PREFIX}{path}", hint=f"there are {', '.join(PATHS)}")

    def _operation(self, visit: Visit, modality: Modality) -> str:
        """What is asked for. Raises NotConfigured, naming the setting, when nobody serves the modality."""
        path = paths.checked(visit.path.removeprefix(PREFIX), visit.raw_path)
        if not self._dispatch.catalog.serves(modality):
            raise NotConfigured(f"audio ({modality}) is not configured on this hub: set router.audio (URL + key)")
        return f"audio/{path}"

    async def _heard(self, visit: Visit) -> Call:
        operation = self._operation(visit, "transcribe")
        body, media = await visit.whole_body(), visit.header("content-type")
        if not multipart.is_form(media):
            raise BadRequest("send a form: multipart/form-data with the audio as the field `file`")
        form = tuple(multipart.parse(body, media))
        model = openai.checked_name(multipart.field(form, "model") or ANY_MODEL)
        call = Call(visit.request_id, model, "transcribe", ("nvidia", "openai"), operation, {}, caller=visit.caller, form=form)
        return await self._readable(replace(call, stream=multipart.field(form, "stream") in TRUE))

    async def _readable(self, call: Call) -> Call:
        """The call with audio that its routes can read. Raises UnsupportedMedia where it cannot be made."""
        place, file = next(((place, part) for place, part in enumerate(call.form or ()) if part.name == "file"), (0, None))
        media = speech.audio_type(file.data) if file else None
        picky = any(route.dialect == "nvidia" for route in plan(call, self._dispatch.catalog))
        if file is None or media in speech.TAKEN or media not in transcode.READERS or not picky:
            return call
        program = transcode.ffmpeg()
        if program is None:
            raise UnsupportedMedia(
                f"the audio is {media}; this model reads WAV, Opus (Ogg) and FLAC",
                param="file",
                hint="convert it, or have the operator install ffmpeg beside the hub",
            )
        wav = replace(file, data=await transcode.to_wav(file.data, media, program), media="audio/wav")
        form = [*(call.form or ())]
        form[place] = wav
        return replace(call, form=tuple(form), changes=(*call.changes, f"file made from {media} into audio/wav, {transcode.RATE} Hz mono"))

    async def _said(self, visit: Visit) -> Call:
        operation = self._operation(visit, "speech")
        body, media = await visit.whole_body(), visit.header("content-type")
        call = Call(visit.request_id, ANY_MODEL, "speech", ("nvidia", "openai"), operation, {}, caller=visit.caller)
        if multipart.is_form(media) and operation != "audio/speech":
            form = tuple(multipart.parse(body, media))
            return replace(call, form=form, model=openai.checked_name(multipart.field(form, "model") or ANY_MODEL))
        found = jsonbody.members(body)
        return replace(call, members=found, model=openai.model_name(found))

    async def _say(self, visit: Visit, call: Call) -> None:
        try:
            reply = await self._dispatch(call)
        except UpstreamRefused as refused:
            raise await self._about_voices(visit, call, refused) from None
        await visit.relay(reply)

    async def _about_voices(self, visit: Visit, call: Call, refused: UpstreamRefused) -> SensoriumError:
        """The refusal, or the clearer one of a voice that the same service does not list."""
        voice = _voice(call)
        if refused.status not in (400, 404, 422) or voice is None:
            return refused
        try:
            reply = await self._dispatch(replace(_voices(visit), model=call.model))
            source, known = reply.route.provider, speech.voices(await reply.whole())
        except SensoriumError:
            return refused
        full = source.voices.get(voice, voice)
        listed = full in known or full.rpartition(".")[0] in known  # an emotion may follow a voice
        return refused if source.name != refused.source or not known or listed else speech.unknown_voice(voice, known)


def _voices(visit: Visit) -> Call:
    operation = "audio/list_voices"
    return Call(visit.request_id, ANY_MODEL, "speech", ("nvidia",), operation, {}, caller=visit.caller, method="GET", optional=True)


def _voice(call: Call) -> str | None:
    return multipart.field(call.form, "voice") if call.form is not None else jsonbody.text(call.members, "voice")
