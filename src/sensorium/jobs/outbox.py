"""stand-in until the branch lands"""

import sqlite3


def add(db: sqlite3.Connection, request_id: str, caller: str, url: str, now: float) -> None:
    """x"""
