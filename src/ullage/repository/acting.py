"""
Who writes, and what that is called: said inside a transaction, for the triggers that keep the history.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

__all__ = ["Acting", "owner_name"]

_START: Final = (
    # OR REPLACE: somebody at the shell may have left a row.
    "INSERT OR REPLACE INTO acting (one, at, event, reference, detail, owner, pid)"
    " VALUES (1, :at, :event, :reference, :detail, :owner, :pid)"
)
_END: Final = "DELETE FROM acting"
_RECORD: Final = (
    "INSERT INTO history (at, event, reference, image_id, received_bytes, hosts, owner, pid, detail)"
    " VALUES (:at, :event, :reference, :image_id, :received_bytes, :hosts, :owner, :pid, :detail)"
)


@dataclass(frozen=True, slots=True)
class Acting:
    """
    Who does something, and when, as the history has it.
    """

    at: str
    owner: str
    pid: int

    @classmethod
    def now(cls, at: str) -> Self:
        """
        This process, at a time as the tables hold it.
        """
        return cls(at=at, owner=owner_name(), pid=os.getpid())

    @contextmanager
    def on_record(
        self,
        connection: Connection,
        *,
        event: str | None = None,
        reference: str | None = None,
        detail: str | None = None,
    ) -> Iterator[None]:
        """
        What is done inside is recorded as ours. Whatever ends it otherwise undoes the transaction, and this with it.
        """
        connection.exec_driver_sql(
            _START,
            {
                "at": self.at,
                "event": event,
                "reference": reference,
                "detail": detail,
                "owner": self.owner,
                "pid": self.pid,
            },
        )
        yield
        connection.exec_driver_sql(_END)

    def record(
        self,
        connection: Connection,
        event: str,
        *,
        reference: str | None = None,
        image_id: str | None = None,
        received_bytes: int | None = None,
        hosts: str | None = None,
        detail: str | None = None,
    ) -> None:
        """
        A line of history that no trigger can know of.
        """
        connection.exec_driver_sql(
            _RECORD,
            {
                "at": self.at,
                "event": event,
                "reference": reference,
                "image_id": image_id,
                "received_bytes": received_bytes,
                "hosts": hosts,
                "owner": self.owner,
                "pid": self.pid,
                "detail": detail,
            },
        )


def owner_name() -> str:
    """
    Who we are, for people: host and program.
    """
    return f"{os.uname().nodename} {Path(sys.argv[0]).name or 'python'}"
