"""Every model of the catalogue as an app: what each modality takes, what its model is sent, what comes out; and who is found where."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import OpenAPIV30SpecValidator

from sensorium.apps.app import UnknownApp
from sensorium.apps.models import KINDS
from sensorium.errors import AddressRefused, BadRequest, BodyTooLarge, UpstreamFailed
from sensorium.routing.call import Call, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.own import MOST_TOGETHER
from sensorium.wire import multipart
from sensorium.wire.fal_errors import Refused
from sensorium.wire.fal_openapi import ORDER
from tests.api.hubs import form_of
from tests.apps.stands import BASE, Bench, Says, Store, events
from tests.apps.test_drawing import TOY, TOY_DEV, drawing, picture
from tests.apps.test_nemotron import TOYS, USAGE
from tests.routing.hosted import chat, image, provider

THERE = provider("http://there/v1", "there")
FAL = provider("http://fal", "fal")
WAVE = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40)
MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(16)


def of(modality: str, id: str, dialect: str = "openai", at: Any = THERE) -> Route:
    return Route(id, modality, dialect, frozenset({"text", "vision"}), at, id)  # type: ignore[arg-type]


def answers(body: Any, media: str = "application/json") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda call, route: Says(raw, media)


def talking(call: Call, route: Route) -> Says:
    return events("Hel", "lo.", reason="length", usage=USAGE)


def test_chat() -> None:
    running = Bench([chat("meta/llama", THERE)], talking)
    outputs = running.outputs("meta/llama", {"prompt": "Hi", "system_prompt": "Be short.", "max_tokens": "5", "temperature": 0, "top_k": 3})
    assert [output.body["output"] for output in outputs] == ["Hel", "Hello.", "Hello."]
    assert outputs[-1].body == {
        "output": "Hello.",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 391, "completion_tokens": 8, "total_tokens": 399},
    }
    assert running.models.sent == [
        {
            "model": "meta/llama",
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
            "max_tokens": 5,
            "temperature": 0.0,
            "top_k": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert running.lines[0] == "started: meta/llama"
    assert running.lines[-1].startswith("finished after ")


def test_chat_about_pictures_of_ours_in_messages() -> None:
    running = Bench([chat("meta/llama", THERE)], talking)
    data = base64.b64decode(picture())
    url = running.store.url(running.store.put(data, owner="alice", content_type="image/png", name="a"), BASE)
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    running.run("meta/llama", {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Hm"}]})
    shown = running.models.sent[0]["messages"][0]["content"][1]["image_url"]
    assert shown == {"url": f"data:image/png;base64,{picture()}", "detail": "low"}
    assert running.models.calls[0].needs == {"vision"}


@pytest.mark.parametrize(
    ("given", "loc", "kind"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "messages", "value_error"),
        ({"messages": []}, "messages", "too_short"),
        ({"messages": ["x"]}, "messages", "dict_type"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "greater_than_equal"),
        ({"prompt": "a", "temperature": True}, "temperature", "float_type"),
    ],
)
def test_chat_inputs_that_are_refused(given: dict[str, Any], loc: str, kind: str) -> None:
    running = Bench([chat("meta/llama", THERE)], talking)
    (found,) = running.refused("meta/llama", given)
    assert (found["loc"][1], found["type"]) == (loc, kind)
    assert running.models.sent == []


def test_a_picture_for_a_model_that_cannot_see() -> None:
    running = Bench([chat("meta/llama", THERE, {"text"})], talking)
    (found,) = running.refused("meta/llama", {"prompt": "a", "image_url": f"data:image/png;base64,{picture()}"})
    assert (found["loc"], found["type"]) == (["body", "image_url"], "feature_not_supported")
    assert "needs vision" in found["msg"]


def test_pictures_are_the_models_own_choice_where_nothing_is_said() -> None:
    running = Bench([image("stabilityai/sd3", THERE)], drawing)
    made = running.run("stabilityai/sd3", {"prompt": "a cube", "seed": 3, "style_preset": "none"})
    assert running.models.sent == [{"prompt": "a cube", "seed": 3, "style_preset": "none"}]
    assert running.store.at(made.body["images"][0]["url"]).content_type == "image/jpeg"


def test_embeddings() -> None:
    reply = {"data": [{"embedding": [1.0, 2.5]}, {"embedding": [0.0, 1]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    running = Bench([of("embed", "e5")], answers(reply))
    made = running.run("models/e5", {"input": ["a", "b"], "dimensions": 2})
    assert made.body == {"embeddings": [[1.0, 2.5], [0.0, 1]], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    assert running.models.sent == [{"input": ["a", "b"], "encoding_format": "float", "dimensions": 2, "model": "e5"}]
    with pytest.raises(UpstreamFailed, match="without the vectors"):
        running.run("models/e5", {"input": ["a"]})
    (found, *_) = running.refused("models/e5", {"input": 5})
    assert found["loc"][:2] == ["body", "input"]


def test_files_of_ours_in_one_input_have_a_bound_together() -> None:
    running = Bench([of("chat", "a/see"), of("image", "a/draw", "fal", FAL)], talking)
    store = running.store
    link = store.url(store.put(bytes(MOST_TOGETHER // 4), owner="alice", content_type="image/png", name="x"), BASE)
    parts = [{"type": "image_url", "image_url": link}, {"type": "image_url", "image_url": {"url": link}}]
    said = [{"role": "user", "content": parts * 3}]
    for endpoint, given in (("a/see", {"messages": said}), ("a/draw", {"prompt": "x", "image_urls": [link] * 6})):
        (found,) = running.refused(endpoint, given)
        assert (found["type"], running.models.sent) == ("file_too_large", [])


@pytest.mark.parametrize(
    ("modality", "given"), [("chat", {"messages": [1]}), ("embed", {"input": [1]}), ("rerank", {"query": "x", "documents": [1]})]
)
def test_a_list_of_faults_is_told_by_its_first(modality: str, given: dict[str, Any]) -> None:
    running = Bench([of(modality, "a/one")], answers({}))
    (name,) = (name for name, value in given.items() if isinstance(value, list))
    few, many = (running.refused("a/one", given | {name: [1] * count}) for count in (1, 10_000))
    assert [one["type"] for one in many] == [one["type"] for one in few]


def test_rerank_in_both_dialects() -> None:
    asked = {"query": "red", "documents": ["green", "red"], "top_n": 1}
    running = Bench([of("rerank", "a/cohere")], answers({"results": [{"index": 1, "relevance_score": 0.9, "more": 1}]}))
    assert running.run("a/cohere", asked).body == {"results": [{"index": 1, "relevance_score": 0.9}]}
    assert running.models.sent == [asked | {"model": "a/cohere"}]
    rankings = {"rankings": [{"index": 0, "logit": 0.0}, {"index": 1, "logit": -2}]}
    running = Bench([of("rerank", "a/nv", "nvidia")], answers(rankings))
    assert running.run("a/nv", asked).body == {"results": [{"index": 0, "relevance_score": 0.5}]}
    assert running.models.sent[0]["passages"] == [{"text": "green"}, {"text": "red"}]
    (found,) = running.refused("a/nv", asked | {"documents": []})
    assert (found["type"], found["ctx"]["min_length"]) == ("too_short", 1)


def test_speech_becomes_a_file() -> None:
    running = Bench([of("speech", "tts-1")], answers(WAVE, "audio/wav"))
    made = running.run("models/tts-1", {"text": "Hello", "voice": "nova", "language": "en-US"})
    audio = made.body["audio"]
    assert (audio["content_type"], audio["file_name"], audio["file_size"]) == ("audio/wav", "speech.wav", len(WAVE))
    assert (running.store.at(audio["url"]).data, made.files) == (WAVE, ("key0",))
    assert running.models.sent == [{"input": "Hello", "voice": "nova", "response_format": "wav", "model": "tts-1"}]


def test_a_store_that_is_full_is_no_fault_of_the_input() -> None:
    running = Bench([of("speech", "tts-1")], answers(WAVE, "audio/wav"), Store(full_after=0))
    with pytest.raises(BodyTooLarge, match="the store is full"):
        running.run("models/tts-1", {"text": "Hello"})


def heard(running: Bench, url: str) -> list[multipart.Part]:
    assert running.run("models/whisper", {"audio_url": url, "language": "en"}).body == {"text": "hello"}
    return form_of(running.models.sent[-1])


def test_sounds_are_written_down_wherever_they_are() -> None:
    running = Bench([of("transcribe", "whisper")], answers({"text": "hello"}))
    running.links["https://example.org/a.wav"] = WAVE
    kept = running.store.put(WAVE, owner="alice", content_type="audio/wav", name="a.wav")
    inside = f"data:audio/wav;base64,{base64.b64encode(WAVE).decode()}"
    for url in ("https://example.org/a.wav", running.store.url(kept, BASE), inside):
        file = next(part for part in heard(running, url) if part.name == "file")
        assert (bytes(file.data), file.filename, file.media) == (WAVE, "audio.wav", "audio/wav")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (AddressRefused("10.0.0.1:80 is not called: it is an address of a private network"), "file_download_error"),
        (BadRequest("the picture could not be fetched from example.org: ClientConnectorError"), "file_download_error"),
        (BadRequest("the picture has more than 33554432 bytes, which is all that is fetched"), "file_too_large"),
    ],
)
def test_sounds_that_cannot_be_had(reason: Exception, kind: str) -> None:
    running = Bench([of("transcribe", "whisper")], answers({"text": "hello"}))
    running.links["https://example.org/a.wav"] = reason
    (found,) = running.refused("models/whisper", {"audio_url": "https://example.org/a.wav"})
    assert (found["loc"], found["type"]) == (["body", "audio_url"], kind)
    assert "picture" not in running.lines[1]
    (found,) = running.refused("models/whisper", {"audio_url": "data:audio/wav;base64,!!"})
    assert found["type"] == "value_error"


def test_films() -> None:
    reply = {"artifacts": [{"base64": base64.b64encode(MP4).decode()}]}
    running = Bench([of("video", "nvidia/cosmos", "genai")], answers(reply))
    kept = running.store.put(base64.b64decode(picture()), owner="alice", content_type="image/png", name="a.png")
    asked = {"prompt": "a cube falls", "image_url": running.store.url(kept, BASE), "num_inference_steps": 5, "seed": 4, "fps": 12}
    made = running.run("nvidia/cosmos", asked)
    assert running.store.at(made.body["video"]["url"]).data == MP4
    assert made.body["video"]["file_name"] == "video.mp4"
    image_url = f"data:image/png;base64,{picture()}"
    assert running.models.sent == [{"prompt": "a cube falls", "image": image_url, "steps": 5, "seed": 4, "fps": 12}]
    running = Bench([of("video", "fal-ai/ltx-video", "fal", FAL)], answers(reply))
    running.run("fal-ai/ltx-video", {"prompt": "a cube falls", "num_inference_steps": 5, "loras": []})
    assert running.models.sent == [{"prompt": "a cube falls", "num_inference_steps": 5, "loras": []}]


def test_a_film_that_is_only_linked_to_stays_there() -> None:
    running = Bench(
        [of("video", "nvidia/cosmos", "genai")],
        answers({"video": {"url": "https://files.example/a.mp4"}, "url": "https://files.example/a.mp4"}),
    )
    made = running.run("nvidia/cosmos", {"prompt": "x"})
    assert (made.body["video"]["url"], made.files) == ("https://files.example/a.mp4", ())


ALL = [TOYS, TOY, TOY_DEV, *(of(modality, f"org/{modality}", kind.dialects[0]) for modality, kind in KINDS.items()), of("chat", "gpt-x")]


def test_what_is_served() -> None:
    running = Bench([*ALL, of("chat", "*"), of("chat", "claude", "anthropic"), of("embed", "org/requests/x")], talking)
    assert [(one.endpoint, one.model, one.stand_in) for one in running.apps.entries()] == [
        ("fal-ai/nemotron-diffusion-vlm", "fal-ai/nemotron-diffusion-vlm", True),
        ("fal-ai/flux/schnell", "black-forest-labs/flux.1-schnell", True),
        ("fal-ai/flux/dev", "black-forest-labs/flux.1-dev", True),
        ("black-forest-labs/flux.1-schnell", "black-forest-labs/flux.1-schnell", True),
        ("black-forest-labs/flux.1-dev", "black-forest-labs/flux.1-dev", True),
        *((f"org/{modality}", f"org/{modality}", False) for modality in KINDS),
        ("models/gpt-x", "gpt-x", False),
    ]
    for one in running.apps.entries():
        app, path = running.apps.find(f"/{one.endpoint}/")
        assert app.id + path == one.endpoint
        assert app.lane(path) == one.model


def test_an_id_of_several_parts_and_a_namespace() -> None:
    running = Bench([chat("fal-ai/any-llm/vision/large", THERE), chat("workflows/me/mine/more", THERE)], talking)
    for endpoint, app_id, path in (
        ("fal-ai/any-llm/vision/large", "fal-ai/any-llm", "/vision/large"),
        ("workflows/me/mine/more", "workflows/me/mine", "/more"),
    ):
        app, found = running.apps.find(endpoint)
        assert (app.id, found) == (app_id, path)
        assert running.run(endpoint, {"prompt": "x"}).body["output"] == "Hello."
        with pytest.raises(UnknownApp):
            app.lane("")


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("nobody/nothing", "there are"),
        ("fal-ai/nemotron-difusion-vlm", "did you mean fal-ai/nemotron-diffusion-vlm"),
        ("fal-ai/flux", "did you mean fal-ai/flux/schnell or fal-ai/flux/dev"),
        ("fal-ai/flux/pro", "fal-ai/flux"),
        ("gpt-x", "models/gpt-x"),
        ("", "there are"),
    ],
)
def test_unknown_endpoints(endpoint: str, hint: str) -> None:
    with pytest.raises(UnknownApp) as caught:
        Bench(ALL, talking).apps.find(endpoint)
    assert caught.value.message == f"Application '{endpoint}' not found"
    assert hint in (caught.value.hint or "")
    assert (caught.value.status, caught.value.code) == (404, "app_not_found")


def test_a_hub_without_models_has_no_apps() -> None:
    running = Bench([], talking)
    assert running.apps.entries() == []
    for endpoint in ("fal-ai/nemotron-diffusion-vlm", "fal-ai/flux/dev"):
        with pytest.raises(UnknownApp) as caught:
            running.apps.find(endpoint)
        assert caught.value.hint == "this hub serves no model yet"


def test_the_catalogue_may_change_while_it_serves() -> None:
    running = Bench([TOY], talking)
    with pytest.raises(UnknownApp):
        running.apps.find("meta/llama")
    running.apps._dispatch.catalog = Catalog([chat("meta/llama", THERE)])
    app, path = running.apps.find("meta/llama")
    assert app.lane(path) == "meta/llama"
    running.apps._dispatch.catalog = Catalog([])
    with pytest.raises(UnknownApp):
        app.lane(path)


def references(found: Any) -> list[str]:
    if isinstance(found, dict):
        own = [found["$ref"]] if isinstance(found.get("$ref"), str) else []
        return own + [one for value in found.values() for one in references(value)]
    return [one for value in found for one in references(value)] if isinstance(found, list) else []


@pytest.mark.parametrize("endpoint", [one.endpoint for one in Bench(ALL, talking).apps.entries()])
def test_the_description_is_openapi_and_true(endpoint: str) -> None:
    app, path = Bench(ALL, talking).apps.find(endpoint)
    made = app.openapi(path, BASE)
    OpenAPIV30SpecValidator(made).validate()
    assert json.loads(json.dumps(made)) == made
    schemas = made["components"]["schemas"]
    assert all(one.removeprefix("#/components/schemas/") in schemas for one in references(made))
    assert made["servers"] == [{"url": f"{BASE}/fal"}]
    submit = made["paths"][f"/queue/{endpoint}"]["post"]
    name = submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    for found in schemas.values():
        if "properties" in found:
            assert found[ORDER] == list(found["properties"])
            assert all(one in found["properties"] for one in found.get("required", ()))
    assert {f"/run/{endpoint}", f"/queue/{app.id}/requests/{{request_id}}/status"} <= set(made["paths"])
    running = Bench(ALL, talking)
    if schemas[name].get("required"):
        missing = [found["loc"] for found in running.refused(endpoint, {})]
        assert missing == [["body", field] for field in schemas[name]["required"]]


def picturing(call: Call, route: Route) -> Says:
    """Every model at once: what each modality answers."""
    said: dict[str, Any] = {
        "embed": {"data": [{"embedding": [1.0, 2.5]}]},
        "rerank": {"results": [{"index": 0, "relevance_score": 0.9}], "rankings": [{"index": 0, "logit": 0.0}]},
        "transcribe": {"text": "hello"},
        "video": {"artifacts": [{"base64": base64.b64encode(MP4).decode()}]},
    }
    if route.modality == "chat":
        return talking(call, route)
    if route.modality == "speech":
        return Says(WAVE, "audio/wav")
    if route.modality == "image" and route.dialect == "openai":
        return Says(json.dumps({"data": [{"b64_json": picture()}]}).encode())
    return drawing(call, route) if route.modality == "image" else Says(json.dumps(said[route.modality]).encode())


@pytest.mark.parametrize("endpoint", [one.endpoint for one in Bench(ALL, talking).apps.entries()])
@pytest.mark.parametrize("embedded", [False, True])
def test_what_is_made_is_what_is_described(endpoint: str, embedded: bool) -> None:
    running = Bench(ALL, picturing)
    app, path = running.apps.find(endpoint)
    sound = f"data:audio/wav;base64,{base64.b64encode(WAVE).decode()}"
    asked = {"prompt": "a red cube", "image_url": f"data:image/png;base64,{picture()}", "audio_url": sound, "text": "Hello"}
    made = running.run(endpoint, asked | {"input": "a", "query": "b", "documents": ["c"], "sync_mode": embedded}).body
    described = app.openapi(path, BASE)
    responses = described["paths"][f"/run/{endpoint}"]["post"]["responses"]["200"]
    schema = {"allOf": [responses["content"]["application/json"]["schema"]], "components": described["components"]}
    OAS30Validator(schema).validate(made)
    assert set(described["components"]["schemas"][schema["allOf"][0]["$ref"].rpartition("/")[2]]["properties"]) == set(made)


def test_the_descriptions_of_fals_own_apps_have_fals_fields() -> None:
    apps = Bench(ALL, talking).apps
    asked = apps.find("fal-ai/nemotron-diffusion-vlm")[0].openapi("", BASE)["components"]["schemas"]
    fields = asked["NemotronDiffusionVLMInput"]["properties"]
    assert list(fields) == ["image_url", "prompt", "max_tokens", "num_inference_steps", "block_length", "threshold", "mode"]
    assert {name: field["default"] for name, field in fields.items() if "default" in field} == {
        "max_tokens": 512, "num_inference_steps": 256, "block_length": 32, "threshold": 0.9, "mode": "diffusion",
    }  # fmt: skip
    assert (fields["num_inference_steps"]["minimum"], fields["num_inference_steps"]["maximum"]) == (1, 1024)
    assert asked["NemotronDiffusionVLMOutput"]["required"] == ["output", "usage", "timings"]
    assert "inference_steps" not in json.dumps(asked).replace("num_inference_steps", "")


def test_a_refusal_before_a_call_is_one_of_the_input() -> None:
    with pytest.raises(Refused) as caught:
        Bench(ALL, talking).run("org/video", {"seed": -1})
    assert caught.value.details[0]["loc"] == ["body", "seed"]
