"""The tables of the settings file about what outlives a connection: the queue, its callers, files, webhooks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sensorium.options import Section, Variable


class Jobs(Section):
    """Calls that outlive a connection: videos, and the requests of fal's queue."""

    at_once: int = Field(default=8, ge=1, le=1000, description="how many run at the same time; more wait their turn")
    per_model: int | None = Field(
        default=None,
        ge=1,
        description="of these, how many of one model; by default the slots of one on this machine, mostly 1, and no limit for others",
    )
    limits: dict[str, Annotated[int, Field(ge=1)]] = Field(default={}, description="`per_model` for some, by the model's id")
    max_waiting: int = Field(default=100_000, ge=1, description="how many may wait; more are answered 429")
    max_unserved_s: float = Field(
        default=3600.0, ge=0, description="a request that nobody can serve fails after that; 0: it waits for ever"
    )
    keep_days: float = Field(default=30.0, gt=0, description="how long inputs and results are kept")
    log_days: float = Field(default=7.0, gt=0, description="how long the lines that requests logged are kept")
    low_max_wait_s: float | None = Field(
        default=None, gt=0, description="after that a request of low priority counts as normal; by default never"
    )


class FilesSettings(Section):
    """Uploads, and files that models made."""

    quota_mb: int = Field(default=10_240, ge=1, description="megabytes that one caller may keep; more are answered 413")
    max_mb: int = Field(default=2048, ge=1, description="megabytes of one file")
    keep_days: float = Field(default=30.0, gt=0, description="how long a file without a lifetime of its own is kept")


class WebhookSettings(Section):
    """Notifications of ended requests. Private receivers are those of `server.allow_egress`."""

    keep_days: float = Field(default=30.0, gt=0, description="how long the record of deliveries is kept")


class CallerSettings(Section):
    """A caller with a token of its own. Its requests and files are seen by nobody else."""

    token_env: Variable = Field(description="the environment variable that holds its token, read at start")
    weight: float = Field(default=1.0, gt=0, le=1000, description="its share of the queue, against others'")
    max_running: int | None = Field(
        default=None, ge=1, description="how many of its requests run at the same time; by default no limit of its own"
    )
    max_waiting: int | None = Field(default=None, ge=1, description="how many of its requests may wait; more are answered 429")
    webhook_secret_env: Variable | None = Field(
        default=None, description="the environment variable of its `whsec_...` secret: webhooks are signed with it too"
    )
