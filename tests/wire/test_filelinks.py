"""Rights to files as text: whatever is altered, expired, or meant for something else gives none."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.wire import filelinks
from sensorium.wire.filelinks import READ, TOKEN, UPLOAD, Ticket

KEY, OTHER = b"k" * 32, b"o" * 32
FILE = "2027/01/15/0123456789abcdef0123456789abcdef"
SUBJECT = f"{FILE}.png"
NOW = 1_800_000_000.0
TICKET = Ticket(FILE, "ada", "image/png", "é b.png", 100, int(NOW) + 60, 3600.0, {"default": "hide"})
LETTERS = st.sampled_from(string.ascii_letters + string.digits + "-_.=/ \n\u0661é")


def altered(text: str, place: int, letter: str) -> str:
    return text[:place] + letter + text[place + 1 :]


def test_a_seal_holds_until_its_expiry() -> None:
    sig = filelinks.seal(KEY, READ, SUBJECT, int(NOW) + 1)
    assert sig.split(".")[:3] == ["1", filelinks.kid(KEY), str(int(NOW) + 1)]
    assert filelinks.standing(KEY, READ, SUBJECT, sig, NOW) == "valid"
    assert filelinks.standing(KEY, READ, SUBJECT, sig, NOW + 1) == "expired"
    for_ever = filelinks.seal(KEY, READ, SUBJECT, 0)
    assert filelinks.standing(KEY, READ, SUBJECT, for_ever, 1e12) == "valid"


def test_a_seal_is_for_one_key_one_purpose_and_one_subject() -> None:
    sig = filelinks.seal(KEY, READ, SUBJECT, int(NOW) + 60)
    assert filelinks.standing(OTHER, READ, SUBJECT, sig, NOW) == "altered"
    assert filelinks.standing(KEY, UPLOAD, SUBJECT, sig, NOW) == "altered"
    assert filelinks.standing(KEY, READ, f"{FILE}.svg", sig, NOW) == "altered"
    assert (filelinks.signed_with(KEY, sig), filelinks.signed_with(OTHER, sig), filelinks.signed_with(KEY, "x")) == (True, False, False)


@given(st.data())
def test_any_altered_character_of_a_link_is_refused(data: st.DataObject) -> None:
    whole = f"{filelinks.seal(KEY, READ, SUBJECT, int(NOW) + 60)}/{SUBJECT}"
    place, letter = data.draw(st.integers(0, len(whole) - 1)), data.draw(LETTERS)
    changed = altered(whole, place, letter)
    link = filelinks.link(changed)
    refused = link is None or filelinks.standing(KEY, READ, link.subject, link.sig, NOW) != "valid"
    assert refused == (changed != whole)


@given(st.data(), st.sampled_from([filelinks.ticket(KEY, TICKET), filelinks.token(KEY, "ada", TICKET.expires)]))
def test_any_altered_character_of_a_ticket_or_token_is_refused(data: st.DataObject, whole: str) -> None:
    changed = altered(whole, data.draw(st.integers(0, len(whole) - 1)), data.draw(LETTERS))
    taken = isinstance(filelinks.opened(KEY, changed, NOW), Ticket) or filelinks.token_owner(KEY, changed, NOW) is not None
    assert taken == (changed == whole)


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_other_text_is_a_right(one: str, two: str) -> None:
    assert filelinks.opened(KEY, one, NOW) == "altered"
    assert filelinks.token_owner(KEY, one, NOW) is None
    assert filelinks.standing(KEY, READ, one, two, NOW) == "altered"


def test_tickets_and_tokens_tell_what_was_put_into_them_and_are_not_each_other() -> None:
    ticket, token = filelinks.ticket(KEY, TICKET), filelinks.token(KEY, "ädä", TICKET.expires)
    assert filelinks.opened(KEY, ticket, NOW) == TICKET
    assert filelinks.opened(KEY, ticket, NOW + 60) == "expired"
    assert filelinks.token_owner(KEY, token, NOW) == "ädä"
    assert filelinks.token_owner(KEY, token, NOW + 60) is None
    assert filelinks.opened(KEY, token, NOW) == "altered"
    assert filelinks.token_owner(KEY, ticket, NOW) is None
    assert filelinks.opened(KEY, "1" * filelinks.LONGEST + ticket, NOW) == "altered"
    assert filelinks.looks_like_token(token)
    assert not filelinks.looks_like_token("kid:secret")


def test_the_parts_of_a_link() -> None:
    link = filelinks.link(f"SIG/{FILE}.tar/multipart/UP/3")
    assert link == filelinks.Link("SIG", FILE, "tar", "/multipart/UP/3")
    assert link.subject == f"{FILE}.tar"


@pytest.mark.parametrize(
    "below",
    [
        "",
        "SIG",
        FILE,
        f"SIG/{FILE}",
        f"SIG/{FILE}.PNG",
        f"SIG/../{FILE}.png",
        f"SIG/{FILE}/../../x.png",
        "SIG/2027/01/15/..%2f..%2fetc.png",
        f"SIG/{FILE}\0.png",
        f"SIG/{FILE}.png\n",
        f"SIG/{FILE}#1.png",
        f"SIG/{FILE.upper()}.png",
        f"SIG//{FILE}.png",
    ],
)
def test_what_no_link_looks_like(below: str) -> None:
    assert filelinks.link(below) is None


def test_a_log_shows_no_right() -> None:
    sig, ticket = filelinks.seal(KEY, READ, SUBJECT, 5), filelinks.ticket(KEY, TICKET)
    assert filelinks.without_rights(f"{filelinks.PREFIX}{sig}/{SUBJECT}") == f"{filelinks.PREFIX}…/{SUBJECT}"
    assert (
        filelinks.without_rights(f"{filelinks.PREFIX}{sig}/{SUBJECT}/multipart/{ticket}/3")
        == f"{filelinks.PREFIX}…/{SUBJECT}/multipart/…/3"
    )
    assert filelinks.without_rights(f"{filelinks.TICKETS}{ticket}") == f"{filelinks.TICKETS}…"
    assert filelinks.without_rights("/v1/chat/completions") == "/v1/chat/completions"
    assert TOKEN not in (READ, UPLOAD)
