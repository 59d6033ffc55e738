"""What a caller is told when no route answered: one clear error out of the attempts, with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.errors import DeadlineExceeded, SensoriumError, Unavailable, UpstreamRefused
from sensorium.routing.call import Attempt, Call
from sensorium.routing.catalog import RETIRED, SUCCESSORS
from sensorium.routing.health import LOADING, SECRET_MISSING
from sensorium.routing.opening import EMPTY
from sensorium.routing.repeat import of_attempts

LISTED = 6


def refusal(attempts: Sequence[Attempt]) -> SensoriumError:
    """The error of a call whose every attempt failed; `attempts` is never empty.

    The caller's own fault counts first, then what passes by waiting, then what only the operator can cure.
    """
    kinds = {attempt.failure.kind for attempt in attempts}
    for kind in ("semantic", "rate_limited", "provider_outage", "transport", "auth", "quota_exhausted", "model_unavailable"):
        if kind in kinds:
            error = _BY_KIND[kind]([attempt for attempt in attempts if attempt.failure.kind == kind], attempts)
            error.retryable, error.cause = kind != "semantic", of_attempts(attempts)
            return error
    raise ValueError("a call without attempts was not refused")


def overdue(call: Call, attempts: Sequence[Attempt]) -> DeadlineExceeded:
    """The error of a call whose deadline passed."""
    met = f": {_list(attempts)}" if attempts else ""
    error = DeadlineExceeded(f"the call's deadline of {call.deadline_s or 0.0:g} seconds passed{met}", hint="give it more time")
    error.cause = "final"
    return error


def _semantic(these: Sequence[Attempt], _: Sequence[Attempt]) -> SensoriumError:
    said = these[0].failure
    message = said.message or f"{_source(these)} refused this call with {said.status} and no reason"
    return UpstreamRefused(
        message,
        status=said.status,
        code=said.code or "upstream_rejected_request",
        source=_source(these),
        param=said.param,
        retry_after=these[0].retry_after_s,
        headers=these[0].headers,
    )


def _rate_limited(these: Sequence[Attempt], attempts: Sequence[Attempt]) -> SensoriumError:
    message, wait = f"too many requests for now: {_list(attempts)}", _soonest(these) or 5.0
    return UpstreamRefused(message, status=429, code="rate_limited", source=_source(these), retry_after=wait, headers=these[0].headers)


def _outage(these: Sequence[Attempt], attempts: Sequence[Attempt]) -> SensoriumError:
    only = attempts[0]
    if all(attempt.failure.code == EMPTY for attempt in attempts):
        return UpstreamRefused(
            f"no result came, though the call was accepted: {_list(attempts)}",
            status=502,
            code=EMPTY,
            source=_source(these),
            headers=only.headers,
        )
    if all(attempt.failure.code == LOADING for attempt in attempts):
        return Unavailable(f"nobody can answer this call yet: {_list(attempts)}", code=LOADING, retry_after=_soonest(attempts))
    if len(attempts) == 1 and only.asked and only.failure.status:  # somebody was there: the status is theirs, if it says an outage
        status = {500: 502}.get(only.failure.status, only.failure.status if only.failure.status > 500 else Unavailable.status)
        wait = only.retry_after_s
        code, source = only.failure.kind, _source(these)
        return UpstreamRefused(_said(only), status=status, code=code, source=source, retry_after=wait, headers=only.headers)
    return Unavailable(f"nobody can answer this call now: {_list(attempts)}", retry_after=_soonest(attempts))


def _auth(these: Sequence[Attempt], attempts: Sequence[Attempt]) -> SensoriumError:
    source = _source(these)
    secret = these[0].route.provider.credential.name or f"the key of provider {source}"
    if all(attempt.failure.code == SECRET_MISSING for attempt in these):
        return Unavailable(f"no key to answer with: {_list(attempts)}", code=SECRET_MISSING, hint=f"store a key in {secret}")
    # A guess: whoever speaks NVIDIA's own dialects takes NVIDIA's keys.
    wanted = "a build.nvidia.com key (nvapi-...)" if these[0].route.dialect in ("genai", "nvidia") else f"a key that {source} accepts"
    return UpstreamRefused(
        f"Authentication failed: {source} refused the hub's key {secret}; store {wanted} there. {_list(attempts)}",
        status=401,
        code="upstream_key_rejected",
        source=source,
        retry_after=_soonest(these),
        headers=these[0].headers,
        hint="the operator of the hub stores it with `sensorium secret put`; your own token is fine",
    )


def _quota(these: Sequence[Attempt], attempts: Sequence[Attempt]) -> SensoriumError:
    message = f"the operator's account is out of credit: {_list(attempts)}"
    return UpstreamRefused(message, status=402, code="quota_exhausted", source=_source(these), headers=these[0].headers)


def _gone(these: Sequence[Attempt], attempts: Sequence[Attempt]) -> SensoriumError:
    message = f"the provider does not serve this model to this hub: {_list(attempts)}"
    if these[0].route.id in RETIRED:
        message += f"; use {' or '.join(SUCCESSORS)} instead"
    return UpstreamRefused(message, status=404, code="model_unavailable", source=_source(these), headers=these[0].headers)


_BY_KIND = {
    "semantic": _semantic, "rate_limited": _rate_limited, "provider_outage": _outage, "transport": _outage, "auth": _auth,
    "quota_exhausted": _quota, "model_unavailable": _gone,
}  # fmt: skip


def _source(attempts: Sequence[Attempt]) -> str:
    return attempts[0].route.provider.name


def _said(attempt: Attempt) -> str:
    return f"{attempt.route.provider.name}: {attempt.failure.message or f'answered {attempt.failure.status} without a reason'}"


def _list(attempts: Sequence[Attempt]) -> str:
    return "; ".join(_said(attempt) for attempt in attempts[:LISTED])


def _soonest(attempts: Sequence[Attempt]) -> float | None:
    return min((attempt.retry_after_s for attempt in attempts if attempt.retry_after_s is not None), default=None)
