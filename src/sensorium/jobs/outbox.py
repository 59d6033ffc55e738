"""stand-in until the branch lands"""

from sensorium.store.database import Connection


def add(db: Connection, request_id: str, caller: str, url: str, now: float) -> None:
    """x"""
