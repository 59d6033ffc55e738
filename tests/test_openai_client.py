"""The official `openai` package, unmodified, against a real hub: what people really call us with."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import openai
import pytest
from PIL import Image

PROMPT = "a red cube on a white table"


@pytest.fixture
def client(hub: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hub}/v1", api_key="any", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def picture(hub: str) -> str:
    """The red cube as a data URL, drawn through the images door."""
    with openai.OpenAI(base_url=f"{hub}/v1", api_key="any", timeout=60) as made:
        drawn = made.images.generate(prompt=PROMPT, model="black-forest-labs/flux.1-schnell", extra_body={"seed": 3})
    assert drawn.data
    assert drawn.data[0].b64_json
    data = base64.b64decode(drawn.data[0].b64_json)
    return f"data:image/{(Image.open(io.BytesIO(data)).format or '').lower()};base64,{drawn.data[0].b64_json}"


def question(picture: str, text: str = "Describe this image.") -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture}}]}]


def test_it_looks_at_a_picture(client: openai.OpenAI, picture: str) -> None:
    answer = client.chat.completions.create(model="*", max_tokens=300, messages=question(picture))
    said = answer.choices[0].message.content or ""
    assert "red cube" in said
    assert "white table" in said
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "sensorium/scenes-vlm"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 2


def test_a_stream_says_the_same_as_the_whole_and_counts_when_asked(client: openai.OpenAI, picture: str) -> None:
    whole = client.chat.completions.create(model="sensorium/scenes-vlm", messages=question(picture), temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="sensorium/scenes-vlm",
            messages=question(picture),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_usage_comes_only_to_those_who_asked(client: openai.OpenAI, picture: str) -> None:
    chunks = list(client.chat.completions.create(model="*", messages=question(picture), stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


def test_different_pictures_give_different_answers(client: openai.OpenAI) -> None:
    said = []
    for prompt in ("a red cube on a white table", "a blue star on a green lawn"):
        drawn = client.images.generate(prompt=prompt, model="sensorium/scenes-flow")
        assert drawn.data
        url = f"data:image/jpeg;base64,{drawn.data[0].b64_json}"
        said.append(client.chat.completions.create(model="*", messages=question(url)).choices[0].message.content)
    assert said[0] != said[1]


def test_it_draws_as_many_pictures_as_asked_for(client: openai.OpenAI) -> None:
    drawn = client.images.generate(
        prompt=PROMPT, model="black-forest-labs/flux.1-schnell", n=2, size="1024x1024", response_format="b64_json"
    )
    assert drawn.data
    pictures = [base64.b64decode(item.b64_json or "") for item in drawn.data]
    assert [Image.open(io.BytesIO(data)).size for data in pictures] == [(1024, 1024)] * 2
    assert pictures[0] != pictures[1]


def test_the_model_list_tells_what_each_can_do_and_what_stands_in(client: openai.OpenAI) -> None:
    models = {model.id: model.model_dump() for model in client.models.list()}
    assert {"sensorium/scenes-vlm", "sensorium/scenes-flow", "black-forest-labs/flux.1-schnell"} <= set(models)
    stand_in = models["black-forest-labs/flux.1-schnell"]
    assert (stand_in["stand_in"], stand_in["answered_by"], stand_in["modality"]) == (True, "sensorium/scenes-flow", "image")
    shipped = client.models.retrieve("sensorium/scenes-vlm").model_dump()
    assert (shipped["stand_in"], shipped["scope"]) == (False, "synthetic-scenes")


def test_headers_say_who_really_answered(client: openai.OpenAI, picture: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model="fal-ai/nemotron-diffusion-vlm", messages=question(picture))
    assert raw.headers["x-sensorium-model"] == "sensorium/scenes-vlm"
    assert raw.headers["x-request-id"]


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (openai.NotFoundError, {"model": "nobody/nothing", "messages": [{"role": "user", "content": "hello"}]}),
        (openai.BadRequestError, {"model": "..", "messages": [{"role": "user", "content": "hello"}]}),
        (openai.BadRequestError, {"model": "*", "messages": question("data:image/png;base64,AAAA")}),
        (openai.UnprocessableEntityError, {"model": "*", "messages": []}),
    ],
)
def test_errors_arrive_as_the_packages_own_exceptions(
    client: openai.OpenAI, kind: type[openai.APIStatusError], call: dict[str, object]
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**call)  # type: ignore[call-overload]
    assert caught.value.request_id
    assert caught.value.code
    assert len(caught.value.message) > 10


@pytest.mark.parametrize(
    ("kind", "model", "said"),
    [
        (openai.BadRequestError, "*", "no model here is known to edit pictures"),
        (openai.UnprocessableEntityError, "sensorium/scenes-flow", "cannot edit pictures"),
        (openai.UnprocessableEntityError, "black-forest-labs/flux.1-dev", "cannot edit pictures"),
    ],
)
def test_an_edit_is_refused_by_what_only_draws(client: openai.OpenAI, kind: type[openai.APIStatusError], model: str, said: str) -> None:
    with pytest.raises(kind, match=said):
        client.images.edit(image=("a.png", b"\x89PNG\r\n\x1a\n" + bytes(20)), prompt="make it blue", model=model)


def test_a_drawing_outside_the_rules_is_refused_with_the_rule(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=r"5\.\.100"):
        client.images.generate(prompt=PROMPT, model="black-forest-labs/flux.1-dev", extra_body={"steps": 4})
