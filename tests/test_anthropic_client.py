"""The official `anthropic` package, unmodified, against a hub: before the simulated hosted service, and before a provider of its own
protocol."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam
from PIL import Image

from sensorium import app
from sensorium.settings import Settings
from tests.anthropic_program import KEY as THEIRS
from tests.anthropic_program import WORDS, Program
from tests.api.hubs import Hub, Scripted, over
from tests.serving import serving
from tests.simulators.site import INTEGRATE, KEY, running

TALKS, SEES, THINKS = "meta/llama-3.1-8b-instruct", "meta/llama-3.2-90b-vision-instruct", "nvidia/llama-3.3-nemotron-super-49b-v1"
HELLO: list[MessageParam] = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def hub_of(provider: str, key: str, **tables: Any) -> Iterator[Hub]:
    named = {name: {"base_url": provider, "key_env": "K", **table} for name, table in tables.items()}
    made = Settings.model_validate({"providers": named})
    configured = made.model_copy(update={"token": "s3cret", "keys": dict.fromkeys(named, key)})
    with over(app.catalog(configured, None).routes, configured) as hub:
        yield hub


def client_of(hub: Hub, key: str = "s3cret") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://{hub.address}", api_key=key, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def simulated() -> Iterator[anthropic.Anthropic]:
    """A client of a hub in front of the simulated NVIDIA service."""
    models = [TALKS, {"id": SEES, "vision": True}]
    with running() as site:
        for hub in hub_of(f"http://{site.address}{INTEGRATE}/v1", KEY, nvidia={"kind": "openai", "models": models}):
            with client_of(hub) as client:
                yield client


@pytest.fixture
def relayed() -> Iterator[anthropic.Anthropic]:
    """A client of a hub in front of a provider that speaks Anthropic's protocol."""
    with serving(Program()) as base:
        for hub in hub_of(f"{base}/v1", THEIRS, claude={"kind": "anthropic"}):
            with client_of(hub) as client:
                yield client


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, anthropic.Anthropic]]:
    """An upstream of OpenAI's protocol whose answers each test writes, and a client of the hub before it."""
    upstream = Scripted()
    with serving(upstream) as base:
        for hub in hub_of(f"{base}/v1", "k", talk={"kind": "openai", "models": ["m"]}):
            with client_of(hub) as client:
                yield upstream, client


def red() -> str:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(out, "png")
    return base64.b64encode(out.getvalue()).decode()


def said(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_it_answers(simulated: anthropic.Anthropic) -> None:
    message = simulated.messages.create(model=TALKS, max_tokens=50, system="be brief", messages=HELLO)
    assert (said(message), message.stop_reason, message.model, message.role) == ('You wrote: "hello"', "end_turn", TALKS, "assistant")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (1, 3)
    assert message._request_id


def test_the_limit_reaches_the_model(simulated: anthropic.Anthropic) -> None:
    message = simulated.messages.create(model=TALKS, max_tokens=2, messages=HELLO)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 2)


def test_it_looks_at_a_picture_and_star_picks_a_model_that_sees(simulated: anthropic.Anthropic) -> None:
    picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": red()}}
    asked: list[MessageParam] = [{"role": "user", "content": [picture, {"type": "text", "text": "what?"}]}]
    message = simulated.messages.create(model="*", max_tokens=99, messages=asked)
    assert message.model == SEES
    assert "Attachment 1 is" in said(message) and "40" in said(message) and 'You wrote: "what?"' in said(message)


def test_a_stream_says_the_same_as_the_whole(simulated: anthropic.Anthropic) -> None:
    with simulated.messages.stream(model=TALKS, max_tokens=50, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    whole = simulated.messages.create(model=TALKS, max_tokens=50, messages=HELLO)
    assert len(pieces) == 3
    assert ("".join(pieces), said(final), final.stop_reason) == (said(whole), said(whole), whole.stop_reason)
    assert (final.usage.input_tokens, final.usage.output_tokens) == (whole.usage.input_tokens, whole.usage.output_tokens) == (1, 3)


def test_an_error_inside_a_translated_stream_is_one_here(scripted: tuple[Scripted, anthropic.Anthropic]) -> None:
    upstream, client = scripted
    chunk = b'data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}\n\n'
    upstream.media, upstream.body = b"text/event-stream", chunk + b'data: {"error": {"message": "the worker failed", "code": 503}}\n\n'
    pieces = []
    with pytest.raises(anthropic.APIStatusError) as caught, client.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:
        for text in stream.text_stream:
            pieces.append(text)
    assert (caught.value.type, pieces, "the worker failed" in str(caught.value)) == ("overloaded_error", ["half"], True)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_and_their_results_understood(scripted: tuple[Scripted, anthropic.Anthropic], streamed: bool) -> None:
    upstream, client = scripted
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    if streamed:
        first = call | {"index": 0, "function": {"name": "weather", "arguments": ""}}
        deltas: list[Any] = [{"content": "Let me see."}, {"tool_calls": [first]}]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('{"ci', 'ty": "Paris"}')]
        chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}, {"choices": [], "usage": usage}]
        upstream.media = b"text/event-stream"
        upstream.body = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"
    else:
        reply = {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
        upstream.body = json.dumps({"choices": [{"message": reply, "finish_reason": "tool_calls"}], "usage": usage}).encode()
    asked: dict[str, Any] = {"model": "m", "max_tokens": 99, "tools": [WEATHER], "tool_choice": {"type": "any"}}
    if streamed:
        with client.messages.stream(messages=HELLO, **asked) as stream:
            message: Any = stream.get_final_message()
    else:
        message = client.messages.create(messages=HELLO, **asked)
    text, use = message.content
    assert (text.text, use.type, use.id, use.name, use.input) == ("Let me see.", "tool_use", "call_1", "weather", {"city": "Paris"})
    assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 4)
    sent = json.loads(upstream.asked[0][1])
    assert (sent["tools"][0]["function"]["parameters"], sent["tool_choice"]) == (WEATHER["input_schema"], "required")
    upstream.media, upstream.body = b"application/json", b'{"choices": [{"message": {"content": "rain"}, "finish_reason": "stop"}]}'
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "it rains"}
    history: Any = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert said(client.messages.create(messages=history, **asked)) == "rain"
    assert json.loads(upstream.asked[1][1])["messages"][1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [call | {"function": call["function"] | {"arguments": '{"city":"Paris"}'}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "it rains"},
    ]


def test_a_relayed_answer_and_stream(relayed: anthropic.Anthropic) -> None:
    message = relayed.messages.create(model="claude-9", max_tokens=9, messages=HELLO)
    assert (message.id, said(message), message.usage.input_tokens) == ("msg_1", "ä", 3)
    with relayed.messages.stream(model="claude-9", max_tokens=9, messages=HELLO) as stream:
        assert tuple(stream.text_stream) == WORDS
    assert stream.get_final_message().usage.output_tokens == 7


def test_a_cut_stream_is_an_error_after_what_came(relayed: anthropic.Anthropic) -> None:
    with (
        pytest.raises(anthropic.APIStatusError, match="broke off") as caught,
        relayed.messages.stream(model="cut", max_tokens=9, messages=HELLO) as stream,
    ):
        list(stream)
    assert (caught.value.type, caught.value.error_code) == ("api_error", "upstream_failed")


def test_tokens_are_counted_where_somebody_counts(relayed: anthropic.Anthropic, simulated: anthropic.Anthropic) -> None:
    assert relayed.messages.count_tokens(model="claude-9", messages=HELLO).input_tokens == 42
    with pytest.raises(anthropic.NotFoundError, match="cannot be counted here"):
        simulated.messages.count_tokens(model=TALKS, messages=HELLO)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("refuse-400", anthropic.BadRequestError),
        ("refuse-401", anthropic.AuthenticationError),
        ("refuse-404", anthropic.NotFoundError),
        ("refuse-429", anthropic.RateLimitError),
        ("refuse-500", anthropic.InternalServerError),
        ("refuse-529", anthropic.OverloadedError),
    ],
)
def test_refusals_arrive_as_the_packages_own_exceptions(
    relayed: anthropic.Anthropic, model: str, kind: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(kind, match="refused on purpose") as caught:
        relayed.messages.create(model=model, max_tokens=9, messages=HELLO)
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert caught.value.error_code


def test_the_hubs_own_refusals_do_too(simulated: anthropic.Anthropic) -> None:
    document: Any = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    with pytest.raises(anthropic.NotFoundError, match="no model 'nobody/nothing'"):
        simulated.messages.create(model="nobody/nothing", max_tokens=9, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="block of type document"):
        simulated.messages.create(model=TALKS, max_tokens=9, messages=[{"role": "user", "content": [document]}])
    with pytest.raises(anthropic.AuthenticationError, match="does not know the token") as caught:
        simulated.with_options(api_key="x").messages.create(model=TALKS, max_tokens=9, messages=HELLO)
    assert caught.value.error_code == "invalid_token"


def test_what_was_dropped_is_told(simulated: anthropic.Anthropic) -> None:
    raw = simulated.messages.with_raw_response.create(
        model=TALKS, max_tokens=9, messages=HELLO, metadata={"user_id": "u"}, extra_body={"top_k": 3}
    )
    assert raw.headers["x-sensorium-changed"] == "metadata, top_k dropped"
    assert said(raw.parse()) == 'You wrote: "hello"'


def test_the_shipped_model_describes_a_picture_and_streams(hub: str) -> None:
    with anthropic.Anthropic(base_url=hub, api_key="any", max_retries=0, timeout=60) as client:
        picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": red()}}
        asked: list[MessageParam] = [{"role": "user", "content": [picture, {"type": "text", "text": "Describe this image."}]}]
        exactly = {"temperature": 0}  # this release of the package has no parameter for it
        message = client.messages.create(model="*", max_tokens=60, messages=asked, extra_body=exactly)
        assert (message.model, bool(said(message))) == ("sensorium/scenes-vlm", True)
        assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
        with client.messages.stream(model="sensorium/scenes-vlm", max_tokens=60, messages=asked, extra_body=exactly) as stream:
            final = stream.get_final_message()
        assert (said(final), final.stop_reason, final.usage) == (said(message), message.stop_reason, message.usage)
        broken: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\]") as caught:
            client.messages.create(model="*", max_tokens=9, messages=[{"role": "user", "content": [broken]}])
        assert caught.value.error_code == "invalid_image"
