"""Who may answer: `*` by modality and content, names strictly."""

from __future__ import annotations

import pytest

from sensorium.errors import InvalidModel, NotConfigured, UnknownModel
from sensorium.routing.catalog import Catalog
from sensorium.routing.plan import plan
from tests.routing.hosted import call, chat, image, provider

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


@pytest.mark.parametrize(("name", "hint"), [("sess", "sees"), ("stabilityai/sdxl-turbo", "FLUX"), ("zzzzzz", "served here: talks")])
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        plan(call(model=name), CATALOG)
    assert hint in str(caught.value.hint)
