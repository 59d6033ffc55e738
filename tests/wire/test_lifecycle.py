"""The lifecycle header: read as the clients write it, refused with a reason otherwise; what an access list decides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sensorium.errors import BadRequest
from sensorium.wire import lifecycle
from sensorium.wire.lifecycle import KEPT, Lifecycle

ACL: dict[str, Any] = {"default": "forbid", "rules": [{"user": "bob", "decision": "allow"}, {"user": "eve", "decision": "hide"}]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", KEPT),
        ("{}", KEPT),
        ('{"expiration_duration_seconds":null,"initial_acl":null}', KEPT),
        ('{"expiration_duration_seconds":60}', Lifecycle(60.0)),
        ('{"expiration_duration_seconds":0.5,"later":true}', Lifecycle(0.5)),
        (json.dumps({"initial_acl": ACL}), Lifecycle(None, ACL)),
        ('{"initial_acl":{}}', KEPT),
        ('{"initial_acl":{"default":"hide"}}', Lifecycle(None, {"default": "hide"})),
    ],
)
def test_what_clients_send(given: str, expected: Lifecycle) -> None:
    assert lifecycle.parse(given) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an object"),
        ("[" * 5000, "5000 characters"),
        ("[" * 4000, "not valid JSON"),
        ('"é"', "not valid JSON"),
        ('{"expiration_duration_seconds":"60"}', "must be a number"),
        ('{"expiration_duration_seconds":true}', "must be a number"),
        ('{"expiration_duration_seconds":0}', "must be above 0"),
        ('{"expiration_duration_seconds":-5}', "must be above 0"),
        ('{"expiration_duration_seconds":1e300}', "at most"),
        ('{"initial_acl":"allow"}', "initial_acl must be an object"),
        ('{"initial_acl":{"default":"deny"}}', "initial_acl.default must be one of allow, forbid, hide"),
        ('{"initial_acl":{"default":[]}}', "initial_acl.default"),
        ('{"initial_acl":{"rules":{}}}', "rules must be an array"),
        ('{"initial_acl":{"rules":["bob"]}}', r"rules\[0\] must be an object"),
        ('{"initial_acl":{"rules":[{"user":"","decision":"allow"}]}}', r"rules\[0\] must be"),
        ('{"initial_acl":{"rules":[{"user":"bob"}]}}', r"rules\[0\].decision must be one of"),
    ],
)
def test_what_is_refused_and_why(given: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as refused:
        lifecycle.parse(given)
    assert refused.value.hint


@pytest.mark.parametrize(("user", "expected"), [("bob", "allow"), ("eve", "hide"), ("", "forbid"), ("ada", "forbid")])
def test_the_first_rule_of_a_user_counts_then_the_default(user: str, expected: str) -> None:
    assert lifecycle.decision(ACL, user) == expected
    assert lifecycle.decision(None, user) == lifecycle.decision({"rules": []}, user) == "allow"
