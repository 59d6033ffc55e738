"""Every error that Sensorium raises on purpose. Each api file renders them in its own dialect.

    SensoriumError
    ├── BadRequest              400  the request cannot be read
    │   ├── InvalidImage        400  a picture that cannot be used; names the part
    │   ├── InvalidModel        400  a model name that no model can have, or that cannot serve this call
    │   └── AddressRefused      400  a URL that may not be called on a caller's behalf
    ├── Unauthorized            401  no token, or an unknown one
    │   └── TokenMissing        401  no token at all
    ├── Forbidden               403  a known caller without the right
    ├── NotFound                404  no such route
    │   ├── UnknownModel        404  no such model
    │   └── NotConfigured       404  a modality that nobody set up; names the setting
    ├── MethodNotAllowed        405
    ├── BodyTooLarge            413
    ├── UnsupportedMedia        415  a file format that the model cannot read; names those that it can
    ├── Unprocessable           422  a parameter outside its rules; names parameter, value and range
    ├── Busy                    429  the queue is full; has Retry-After
    ├── Cancelled               499  the caller went away
    ├── UpstreamFailed          502  the model's side broke or sent nonsense
    ├── UpstreamRefused         any  the model's side answered with an error; its class is the code
    ├── Unavailable             503  nobody can answer now
    │   └── DeviceLost          503  the device can do nothing more for this process; a new one can
    ├── DeadlineExceeded        504
    └── SettingsError           (no reply)  the hub cannot start; lists every problem

A caller's side of the wire has two more, in `client`: HubUnreachable and CallFailed.
The error reply of an engine on this machine is not an exception: it is relayed as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Cause = Literal["death", "connection_error", "server_error", "timeout", "busy", "final"]
"""What a call came to grief of, as `routing/repeat` tells it: whether it may be run again, and as what that counts."""


class SensoriumError(Exception):
    """Base of the tree: a message for the caller, and where it applies.

    `param` names the offending parameter, `hint` says what to do, `retry_after` is in seconds. `retryable` says that somebody
    else may still answer the same call; `cause` is set where it is raised, if only there it is known.
    """

    code = "internal_error"
    status = 500
    retryable = False
    kind = "server_error"
    cause: Cause | None = None

    def __init__(
        self, message: str, *, param: str | None = None, hint: str | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class BadRequest(SensoriumError):
    """The request cannot be read as this protocol."""

    code, status, kind = "invalid_request", 400, "invalid_request_error"


class InvalidImage(BadRequest):
    """A picture that cannot be used."""

    code = "invalid_image"


class InvalidModel(BadRequest):
    """A model name that no model can have, or a call that no configured model can serve."""

    code = "invalid_model"


class AddressRefused(BadRequest):
    """A URL whose address may not be called on a caller's behalf."""

    code = "address_refused"


class Unauthorized(SensoriumError):
    """No token, or one that this hub does not know."""

    code, status, kind = "invalid_token", 401, "authentication_error"


class TokenMissing(Unauthorized):
    """No token was sent. The code is the same; fal's dialect has other words for it."""


class Forbidden(SensoriumError):
    """A known caller without the right to do this."""

    code, status, kind = "forbidden", 403, "permission_error"


class NotFound(SensoriumError):
    """No such route."""

    code, status, kind = "unknown_route", 404, "invalid_request_error"


class UnknownModel(NotFound):
    """No model of this name is served here."""

    code = "model_not_found"


class NotConfigured(NotFound):
    """The modality exists but nobody set it up; the message names the setting."""

    code = "not_configured"


class MethodNotAllowed(SensoriumError):
    """The route exists for other methods: `allow` lists them, as the Allow header does."""

    code, status, kind = "method_not_allowed", 405, "invalid_request_error"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTooLarge(SensoriumError):
    """The body exceeds the route's cap; the message gives both sizes."""

    code, status, kind = "body_too_large", 413, "invalid_request_error"


class UnsupportedMedia(SensoriumError):
    """A file in a format that the model cannot read."""

    code, status, kind = "unsupported_media", 415, "invalid_request_error"


class Unprocessable(SensoriumError):
    """A parameter outside its rules."""

    code, status, kind = "invalid_parameter", 422, "invalid_request_error"


class Busy(SensoriumError):
    """The queue of this device is full; try again after `retry_after` seconds."""

    code, status, retryable, kind = "busy", 429, True, "rate_limit_error"


class Cancelled(SensoriumError):
    """The caller went away; nothing is answered."""

    code, status = "client_closed", 499


class UpstreamFailed(SensoriumError):
    """The model's side broke off or sent something that is not an answer."""

    code, status, retryable, kind = "upstream_failed", 502, True, "upstream_error"


class UpstreamRefused(SensoriumError):
    """The hosted provider `source` answered with an error: its words, cleaned, under the status that its class has.

    `headers` are those of its reply that go on: the call's id there, and its limits. `lost` says that a hosted job which was begun is gone
    there: only a new one can answer the call.
    """

    kind = "upstream_error"
    lost = False

    def __init__(self, message: str, *, status: int, code: str, source: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(message, code=code, **more)
        self.status = status
        self.source = source
        self.headers = dict(headers or {})


class Unavailable(SensoriumError):
    """Nobody can answer this call now."""

    code, status, retryable, kind = "unavailable", 503, True, "upstream_error"


class DeviceLost(Unavailable):
    """A device that fails whatever it is asked, for as long as this process lives; the process ends, and the next one can answer."""

    code = "device_lost"


class DeadlineExceeded(SensoriumError):
    """The call took longer than its deadline."""

    code, status, retryable, kind = "deadline_exceeded", 504, True, "upstream_error"


class SettingsError(SensoriumError):
    """The settings cannot be used; `problems` lists all of them, one sentence each."""

    code = "invalid_settings"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
