"""The Anthropic door: POST /v1/messages and its count_tokens.

Relayed where the provider speaks Anthropic's protocol; for routes in OpenAI's protocol `routing.payload` translates the call and
`routing.translation` the reply.
"""

from __future__ import annotations

from dataclasses import replace

from sensorium.api.visit import Visit
from sensorium.errors import BadRequest, InvalidModel, NotConfigured
from sensorium.routing.call import ANY_MODEL, Call
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.payload import MESSAGES
from sensorium.wire import anthropic, jsonbody, openai, parameters
from sensorium.wire.jsonbody import Members

KIND = 'a provider of kind "anthropic"'


class AnthropicDoor:
    """Handlers below /v1/messages."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def messages(self, visit: Visit) -> None:
        """Answer a conversation, whole or as a stream."""
        found = jsonbody.members(await visit.whole_body())
        contents = anthropic.contents(found)
        anthropic.require_max_tokens(found)
        call = _call(visit, found, MESSAGES, contents.needs)
        call = replace(call, stream=jsonbody.flag(found, "stream"), dialects=call.dialects if contents.own is None else ("anthropic",))
        try:
            reply = await self._dispatch(call)
        except InvalidModel:
            if contents.own is None:
                raise
            raise BadRequest(f"{contents.own}: only {KIND} takes that, and none here serves {call.model}", code="needs_anthropic") from None
        await visit.relay(reply)

    async def count_tokens(self, visit: Visit) -> None:
        """Count what a conversation would cost, at the provider that would answer it. Nothing is estimated here.

        Raises NotConfigured when that provider does not count.
        """
        found = jsonbody.members(await visit.whole_body())
        call = _call(visit, found, f"{MESSAGES}/count_tokens", anthropic.contents(found).needs)
        routes = self._dispatch.plan(call)
        if call.model == ANY_MODEL:
            routes = routes[:1]  # another one might count differently
        if not any(route.dialect == "anthropic" for route in routes):
            raise NotConfigured(
                f"the tokens of {routes[0].answers} cannot be counted here: {routes[0].provider.name} has no call for that",
                hint=f"only {KIND} counts; the usage of an answer tells its true numbers",
            )
        await visit.relay(await self._dispatch(replace(call, dialects=("anthropic",), optional=True)))


def _call(visit: Visit, found: Members, operation: str, needs: frozenset[str]) -> Call:
    query, dropped = openai.query(visit.query)
    return Call(
        visit.request_id,
        openai.model_name(found),
        "chat",
        ("anthropic", "openai"),
        f"{operation}?{query}" if query else operation,
        found,
        needs,
        caller=visit.caller,
        changes=(f"query {parameters.listed(dropped)} dropped",) if dropped else (),
        headers={name: anthropic.sent_on(name, text) for name in anthropic.SENT_ON if (text := visit.header(name))},
    )
