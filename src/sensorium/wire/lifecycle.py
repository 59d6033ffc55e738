"""How long a stored file lives and who may read it: the JSON of `X-Fal-Object-Lifecycle[-Preference]`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """`expires_s` seconds from its making on (None: as long as the hub keeps files); `acl` is `initial_acl` as it was given."""

    expires_s: float | None = None
    acl: dict[str, Any] | None = None


KEPT = Lifecycle()  # of a caller who said nothing
