"""Who may answer: `*` by modality and content, names strictly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sensorium.errors import Forbidden, InvalidModel, NotConfigured, UnknownModel
from sensorium.routing.catalog import Catalog
from sensorium.routing.plan import plan
from tests.routing.hosted import call, chat, image, nvidia, provider

AT = provider("http://one")
TALKS, SEES, DRAWS = chat("talks", AT, {"text"}), chat("sees", AT, {"vision"}), image("org/draws", AT)
CATALOG = Catalog([TALKS, DRAWS, SEES])


def test_star_is_chosen_by_what_the_call_contains() -> None:
    assert plan(call(model="*", needs=frozenset({"text"})), CATALOG) == (TALKS,)
    assert plan(call(model="*", needs=frozenset({"vision"})), CATALOG) == (SEES,)
    assert plan(call(model="*", modality="image", dialects=("genai",)), CATALOG) == (DRAWS,)


def test_star_keeps_the_operators_order() -> None:
    first, second = chat("b", AT), chat("a", AT)
    assert plan(call(model="*", needs=frozenset({"text"})), Catalog([first, second])) == (first, second)


def test_an_id_on_two_providers_has_two_routes() -> None:
    other = chat("talks", provider("http://two", "two"), {"text"})
    assert plan(call(model="talks"), Catalog([TALKS, other])) == (TALKS, other)


def test_nothing_of_the_modality_names_the_setting() -> None:
    with pytest.raises(NotConfigured, match="no embed model is configured"):
        plan(call(model="*", modality="embed"), CATALOG)


def test_a_missing_capability_is_named() -> None:
    with pytest.raises(InvalidModel, match="needs text input") as caught:
        plan(call(model="sees", needs=frozenset({"text"})), CATALOG)
    assert caught.value.hint == "send a picture with the question"


def test_a_model_of_another_door_names_that_door() -> None:
    with pytest.raises(InvalidModel, match=r"org/draws is not a chat model; call it through POST /v1/images"):
        plan(call(model="org/draws"), CATALOG)


OPEN_CHAT, OPEN_IMAGE = chat("*", AT), image("*", provider("http://draws", "draws"))
STAND_IN = image("org/famous", provider("http://engine", local=True), "sensorium/toy", stand_in=True)


def test_an_open_route_takes_names_that_nobody_has() -> None:
    catalog = Catalog([OPEN_CHAT, *CATALOG.routes])
    route = plan(call(model="any/name"), catalog)[0]
    assert (route.id, route.upstream, route.answers, route.provider) == ("any/name", "any/name", "any/name", AT)
    assert plan(call(model="talks", needs=frozenset({"text"})), catalog) == (TALKS,)
    assert [entry["id"] for entry in catalog.entries()] == ["talks", "org/draws", "sees"]


def test_an_open_route_is_of_its_modality_only() -> None:
    with pytest.raises(UnknownModel):
        plan(call(model="any/name"), Catalog([OPEN_IMAGE]))
    with pytest.raises(InvalidModel, match="org/draws is not a chat model"):
        plan(call(model="org/draws"), Catalog([OPEN_IMAGE, *CATALOG.routes]))


def test_a_stand_in_comes_after_an_open_route() -> None:
    asked = call(model="org/famous", modality="image", dialects=("genai",))
    assert plan(asked, Catalog([STAND_IN])) == (STAND_IN,)
    assert [route.provider.name for route in plan(asked, Catalog([STAND_IN, OPEN_IMAGE]))] == ["draws"]


def test_star_goes_to_an_open_route_only_where_no_model_is_named() -> None:
    with pytest.raises(InvalidModel, match="name a model"):
        plan(call(model="*"), Catalog([OPEN_CHAT]))
    assert plan(call(model="*", needs=frozenset({"text"})), Catalog([OPEN_CHAT, TALKS])) == (TALKS,)
    says = nvidia("speech", AT)
    assert plan(call(model="*", modality="speech", dialects=("nvidia",)), Catalog([says])) == (says,)
    with pytest.raises(InvalidModel, match="name a model"):
        plan(call(model="*", modality="speech", dialects=("openai",)), Catalog([nvidia("speech", AT, dialect="openai")]))


@pytest.mark.parametrize(("name", "hint"), [("sess", "sees"), ("stabilityai/sdxl-turbo", "flux.1-dev"), ("zzzzzz", "served here: talks")])
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        plan(call(model=name), CATALOG)
    assert hint in f"{caught.value.message} {caught.value.hint}"


def test_a_private_model_is_never_sent_to_a_hosted_provider() -> None:
    engine = replace(chat("ours", provider("http://engine", "engine", local=True)), private=True)
    hosted = chat("ours", AT)
    assert plan(call(model="ours"), Catalog([hosted, engine])) == (engine,)
    assert plan(call(model="*"), Catalog([hosted, TALKS, engine])) == (TALKS, engine)
    with pytest.raises(Forbidden, match="hosted_only"):
        plan(call(model="ours", where="hosted_only"), Catalog([hosted, engine]))
    with pytest.raises(Forbidden, match="ours is private") as refused:
        plan(call(model="ours"), Catalog([replace(hosted, private=True), chat("*", AT)]))
    assert (refused.value.status, refused.value.code) == (403, "private_model")
