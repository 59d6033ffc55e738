"""Steps at which a test may have the hub die by its own SIGKILL: nothing is cleaned up (jobs.md, 16).

One step is armed, by SENSORIUM_FAILPOINT, when the hub starts. Where none is, passing a step is one comparison.

    submit_uncommitted   the request is inserted, its transaction is open
    submit_committed     it is on disk, nobody has been told
    claimed              it is marked as running, nobody has been called
    job_known            a provider has named the job that it made of the call; the name is not kept
    job_kept             it is kept, and was not asked for yet
    result_read          the model's answer is here whole, no file of it is
    file_unsynced        a file's bytes are written, not synced
    result_half_spooled  a large result is synced, what its row will say is not
    finish_uncommitted   the end is written, its transaction is open
    finish_committed     it is on disk, nobody has been told
    webhook_sent         a receiver has answered, the try is not recorded
    cancel_committed     the wish to cancel is on disk, the run was not told
    payloads_erased      rows of old requests say that their payloads are gone; results that are files are still there
    file_removed         a file is marked and its bytes are deleted, its row is not
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

from sensorium.errors import SettingsError

VARIABLE: Final = "SENSORIUM_FAILPOINT"
STEPS: Final = (
    *("submit_uncommitted", "submit_committed", "claimed", "job_known", "job_kept", "result_read", "file_unsynced", "result_half_spooled"),
    *("finish_uncommitted", "finish_committed", "webhook_sent", "cancel_committed", "payloads_erased", "file_removed"),
)
_armed = ""


def arm(step: str) -> None:
    """Die at this step from now on; "" is nowhere. Raises SettingsError for one that is unknown."""
    global _armed
    if step and step not in STEPS:
        raise SettingsError([f"{VARIABLE}: there is no step {step!r}; it is one of {', '.join(STEPS)}"])
    _armed = step


def reach(step: str) -> None:
    """This step is reached; where it is the armed one, nothing follows. From any thread."""
    if step != _armed:
        return
    if sys.platform == "win32":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # on its way, the signal may leave this thread a moment
