"""A chat reply as a message, whole and as a stream: the same text, tools and counts, however the upstream's bytes arrive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import SensoriumError, UpstreamFailed, UpstreamRefused
from sensorium.wire import sse
from sensorium.wire.anthropic_reply import Asked, Events, message
from tests.wire.test_sse import pieces

ASKED = Asked("msg_r1", "org/model", "talk", ("STOP",))
ALOUD = Asked("msg_r1", "org/model", "talk", thoughts=True)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4}
CALL = {"index": 0, "id": "t1", "function": {"name": "f", "arguments": ""}}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish, **more}]}


def arguments(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return chunk({"tool_calls": [{"index": index, "function": {"arguments": text}, **more}]})


def stream(*chunks: dict[str, Any]) -> bytes:
    return b"".join(sse.event(json.dumps(one).encode()) for one in chunks) + sse.DONE


def told(raw: bytes) -> list[dict[str, Any]]:
    """The events, each with the name that it goes by."""
    found = []
    for frame in raw.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def events(*chunks: dict[str, Any], asked: Asked = ASKED) -> list[dict[str, Any]]:
    made = Events(asked)
    return told(b"".join([*made.feed(stream(*chunks)), *made.end()]))


def collected(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of the events. Checks their order on the way."""
    made: dict[str, Any] = {}
    opened: int | None = None
    for event in found:
        kind = event["type"]
        if kind == "message_start":
            assert not made
            made = event["message"]
        elif kind == "content_block_start":
            assert (opened, event["index"]) == (None, len(made["content"]))
            opened = event["index"]
            made["content"].append(event["content_block"] | ({"input": ""} if event["content_block"]["type"] == "tool_use" else {}))
        elif kind == "content_block_delta":
            assert opened == event["index"]
            name = {"text_delta": "text", "input_json_delta": "input", "thinking_delta": "thinking"}[event["delta"]["type"]]
            piece = event["delta"].get(name) or event["delta"].get("partial_json")
            made["content"][opened][name] += piece
        elif kind == "content_block_stop":
            assert opened == event["index"]
            opened = None
        elif kind == "message_delta":
            made |= event["delta"] | {"usage": event["usage"]}
    assert (found[0]["type"], found[-1]["type"], opened) == ("message_start", "message_stop", None)
    for block in made["content"]:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["input"] or "{}")
    return made


def whole(said: dict[str, Any], finish: str | None = "stop", usage: Any = USAGE, asked: Asked = ASKED, **more: Any) -> dict[str, Any]:
    body = {"choices": [{"index": 0, "message": said, "finish_reason": finish, **more}], "usage": usage}
    made: dict[str, Any] = json.loads(message(json.dumps(body).encode(), asked))
    return made


def test_a_whole_message() -> None:
    assert whole({"role": "assistant", "content": "hi"}) == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": "org/model",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 4},
    }


@pytest.mark.parametrize(
    ("said", "content"),
    [
        ({"content": None}, []),
        ({"content": ""}, []),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, [{"type": "text", "text": "ab"}]),
        ({"content": "x", "reasoning_content": "hm"}, [{"type": "text", "text": "x"}]),
        (
            {"content": "x", "tool_calls": [{"id": "t1", "function": {"name": "f", "arguments": '{"a": [1]}'}},
                                            {"function": {"name": "g"}}]},
            [{"type": "text", "text": "x"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}},
             {"type": "tool_use", "id": "toolu_msg_r1_1", "name": "g", "input": {}}],
        ),
    ],
)  # fmt: skip
def test_blocks_of_a_whole_message(said: dict[str, Any], content: list[Any]) -> None:
    assert whole(said)["content"] == content


def test_thoughts_are_shown_to_those_who_asked() -> None:
    made = whole({"content": "x", "reasoning_content": "hm"}, asked=ALOUD)
    assert made["content"] == [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "x"}]
    found = events(chunk({"reasoning": "h"}), chunk({"reasoning": "m"}), chunk({"content": "x"}), chunk(finish="stop"), asked=ALOUD)
    assert collected(found)["content"] == made["content"]


@pytest.mark.parametrize(
    ("finish", "more", "reason", "stop"),
    [
        ("stop", {}, "end_turn", None),
        ("length", {}, "max_tokens", None),
        ("content_filter", {}, "refusal", None),
        ("eos", {}, "end_turn", None),
        ("stop", {"stop_reason": "STOP"}, "stop_sequence", "STOP"),
        ("stop", {"stop_reason": 128009}, "end_turn", None),
        ("stop", {"stop_reason": "elsewhere"}, "end_turn", None),
    ],
)
def test_why_it_stopped(finish: str, more: dict[str, Any], reason: str, stop: str | None) -> None:
    made = whole({"content": "x"}, finish, **more)
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, stop)
    streamed = collected(events(chunk({"content": "x"}), chunk(finish=finish, **more)))
    assert (streamed["stop_reason"], streamed["stop_sequence"]) == (reason, stop)


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_a_tool_call_is_the_reason_whatever_the_upstream_calls_it(finish: str) -> None:
    call = {"id": "t1", "function": {"name": "f", "arguments": "{}"}}
    assert whole({"content": None, "tool_calls": [call]}, finish)["stop_reason"] == "tool_use"
    assert collected(events(chunk({"tool_calls": [CALL]}), chunk(finish=finish)))["stop_reason"] == "tool_use"


def test_a_refusal_is_text_and_a_reason() -> None:
    made = whole({"content": None, "refusal": "no"})
    assert (made["content"], made["stop_reason"]) == ([{"type": "text", "text": "no"}], "refusal")
    streamed = collected(events(chunk({"refusal": "no"}), chunk(finish="stop")))
    assert (streamed["content"], streamed["stop_reason"]) == (made["content"], "refusal")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, {"input_tokens": 9, "output_tokens": 4}),
        (
            USAGE | {"prompt_tokens_details": {"cached_tokens": 5}},
            {"input_tokens": 4, "output_tokens": 4, "cache_read_input_tokens": 5},
        ),
        (None, {"input_tokens": None, "output_tokens": None}),
        ({"prompt_tokens": "9", "completion_tokens": True}, {"input_tokens": None, "output_tokens": None}),
    ],
)
def test_counts_are_the_upstreams_and_never_made_up(usage: Any, expected: dict[str, Any]) -> None:
    assert whole({"content": "x"}, usage=usage)["usage"] == expected
    assert collected(events(chunk({"content": "x"}), chunk(finish="stop"), {"choices": [], "usage": usage}))["usage"] == expected


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": "x"}]}', b"\xff",
     b'{"choices": [{"message": {"tool_calls": [{}]}}]}',
     b'{"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "finish_reason": "stop"}]}',
     b'{"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}}]}'],
)  # fmt: skip
def test_what_is_no_chat_reply_is_an_upstreams_failure(body: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="talk"):
        message(body, ASKED)


def test_a_tool_call_that_the_token_limit_cut_is_left_out() -> None:
    made = whole({"content": "x", "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": '{"a'}}]}, "length")
    assert ([block["type"] for block in made["content"]], made["stop_reason"]) == (["text"], "max_tokens")


def test_a_stream_of_text() -> None:
    found = events(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "a"}),
        chunk({"content": "b"}),
        chunk(finish="stop"),
        {"choices": [], "usage": USAGE},
    )
    assert [event["type"] for event in found] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 2,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[0]["message"]["usage"] == {"input_tokens": 0, "output_tokens": 0}
    assert collected(found)["content"] == [{"type": "text", "text": "ab"}]


def test_text_then_tools_then_text_are_blocks_of_their_own() -> None:
    found = events(
        chunk({"content": "let me "}),
        chunk({"tool_calls": [CALL]}),
        arguments('{"a":'),
        arguments(" 1}"),
        chunk({"tool_calls": [{"index": 1, "id": "t2", "function": {"name": "g", "arguments": "{}"}}]}),
        chunk({"content": "done"}),
        chunk(finish="tool_calls"),
    )
    assert collected(found)["content"] == [
        {"type": "text", "text": "let me "},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
        {"type": "text", "text": "done"},
    ]


@pytest.mark.parametrize(
    "second",
    [
        {"index": 0, "id": "t2", "function": {"name": "g", "arguments": "{}"}},  # some count none of their calls
        {"id": "t2", "function": {"name": "g", "arguments": "{}"}},
        {"index": 1, "function": {"name": "g", "arguments": "{}"}},
    ],
)
def test_calls_that_are_counted_or_named_badly_stay_apart(second: dict[str, Any]) -> None:
    found = collected(
        events(chunk({"tool_calls": [CALL]}), arguments("{}", id="t1"), chunk({"tool_calls": [second]}), chunk(finish="tool_calls"))
    )
    assert [(block["name"], block["input"]) for block in found["content"]] == [("f", {}), ("g", {})]
    assert len({block["id"] for block in found["content"]}) == 2


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk({"tool_calls": [{"index": 0, "id": "t"}]})],
        [chunk({"tool_calls": [CALL]}), chunk({"content": "x"}), arguments("{}")],
    ],
)
def test_calls_that_cannot_be_told_apart_end_the_stream(chunks: list[dict[str, Any]]) -> None:
    with pytest.raises(UpstreamFailed, match="tool"):
        events(*chunks)


def test_an_error_in_the_middle_has_its_class_and_clean_words() -> None:
    made = Events(ASKED)
    torn = stream(chunk({"content": "a"}))[: -len(sse.DONE)]
    found = []
    with pytest.raises(UpstreamRefused) as caught:
        for event in made.feed(torn + sse.event(b'{"error": {"message": "too many for nvapi-0123456789abcdef", "code": 429}}')):
            found.append(event)
    assert (caught.value.status, "nvapi" in caught.value.message) == (429, False)
    assert told(b"".join(found))[-1]["delta"]["text"] == "a"  # what came with the error is not lost


@pytest.mark.parametrize(("raw", "said"), [(b"data: nope\n\n", "not JSON"), (b"data: [1]\n\n", "not JSON"), (sse.DONE, "first event")])
def test_a_stream_that_is_none(raw: bytes, said: str) -> None:
    with pytest.raises(UpstreamFailed, match=said):
        list(Events(ASKED).feed(raw))


def test_an_end_without_a_reason_is_a_break_and_one_with_it_is_not() -> None:
    made = Events(ASKED)
    list(made.feed(sse.event(json.dumps(chunk({"content": "a"})).encode())))
    with pytest.raises(UpstreamFailed, match="before the answer was complete"):
        list(made.end())
    rest = [*made.feed(sse.event(json.dumps(chunk(finish="stop")).encode())), *made.end()]
    assert told(b"".join(rest))[-1]["type"] == "message_stop"
    assert [*made.end(), *made.feed(sse.DONE)] == []


def test_a_delta_goes_out_with_the_bytes_that_bring_it() -> None:
    made = Events(ASKED)
    first = told(b"".join(made.feed(sse.event(json.dumps(chunk({"content": "a"})).encode()))))
    assert [event["type"] for event in first] == ["message_start", "content_block_start", "content_block_delta"]
    (second,) = told(b"".join(made.feed(sse.event(json.dumps(chunk({"content": "b"})).encode()))))
    assert second["delta"] == {"type": "text_delta", "text": "b"}


WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=6)
GIVEN = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.integers() | st.text(max_size=3), max_size=3)


@given(WORDS, st.lists(GIVEN, max_size=3), st.lists(st.integers(0, 100_000), max_size=40))
def test_text_and_tools_survive_in_any_chunking_as_in_the_whole(words: list[str], inputs: list[dict[str, Any]], cuts: list[int]) -> None:
    chunks = [chunk({"content": word}) for word in words]
    calls = []
    for index, given_input in enumerate(inputs):
        text = json.dumps(given_input)
        calls.append({"id": f"t{index}", "type": "function", "function": {"name": "f", "arguments": text}})
        chunks.append(chunk({"tool_calls": [{"index": index, "id": f"t{index}", "function": {"name": "f", "arguments": text[:1]}}]}))
        chunks.append(arguments(text[1:], index))
    raw = stream(*chunks, chunk(finish="stop"), {"choices": [], "usage": USAGE})
    made = Events(ASKED)
    streamed = collected(told(b"".join([event for piece in pieces(raw, cuts) for event in made.feed(piece)] + [*made.end()])))
    assert streamed == whole({"content": "".join(words), "tool_calls": calls})


PARTS = st.sampled_from(
    [
        "choices",
        "delta",
        "message",
        "content",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "index",
        "id",
        "finish_reason",
        "usage",
        "error",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["{}", "stop", "f", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(PARTS, ANYTHING, max_size=4), max_size=4), st.lists(ANYTHING, max_size=3))
def test_nothing_that_an_upstream_says_breaks_it(told_chunks: list[Any], calls: list[Any]) -> None:
    deltas = [chunk({"tool_calls": calls}), *told_chunks, chunk({"content": calls})]
    made = Events(ALOUD)
    with suppress(SensoriumError):
        for event in made.feed(stream(*deltas)):
            assert event.endswith(b"\n\n")
    for body in (*told_chunks, {"choices": [{"message": {"tool_calls": calls}}]}):
        with suppress(SensoriumError):
            message(json.dumps(body).encode(), ALOUD)
