"""
A transaction at SQLite's own speed: look-ups, and what any host writes, as SQL, run past SQLAlchemy on a connection of
the standard library's.

What SQLAlchemy adds to a statement of eight microseconds is seventy: a connection object, a transaction object, events,
a result. And to load it takes more than the rest of a command that looks, or than unpacking a small image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

__all__ = ["Draft", "Rows", "Snapshot"]

_NO_PARAMETERS: Final[Mapping[str, Any]] = {}


class Rows(list[Any]):
    """
    All rows of a statement, as tuples. The methods are those of a result of SQLAlchemy.
    """

    __slots__ = ()

    def first(self) -> Any:  # noqa: ANN401 -- as the statement says
        return self[0] if self else None

    def one(self) -> Any:  # noqa: ANN401
        assert len(self) == 1, "whoever asks so knows that there is one"
        return self[0]

    def all(self) -> Rows:
        return self

    def scalar(self) -> Any:  # noqa: ANN401
        return self[0][0] if self else None

    def scalar_one(self) -> Any:  # noqa: ANN401
        return self.one()[0]


class Snapshot:
    """
    What a `Database.glance` reads: a driver's connection in a transaction.
    """

    __slots__ = ("driver",)

    def __init__(self, driver: sqlite3.Connection) -> None:
        self.driver = driver

    def exec_driver_sql(self, statement: str, parameters: Mapping[str, Any] = _NO_PARAMETERS) -> Rows:
        """
        All that *statement* finds. The name is SQLAlchemy's: who looks up takes either.
        """
        # All of them: a statement that is not at its end would keep the snapshot open past its transaction.
        return Rows(self.driver.execute(statement, parameters).fetchall())

    def dictionaries(
        self, statement: str, parameters: Mapping[str, Any] = _NO_PARAMETERS
    ) -> list[dict[str, Any]]:
        """
        The same, by the names of the columns.
        """
        cursor = self.driver.execute(statement, parameters)
        names = [name for name, *_ in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


class Draft(Snapshot):
    """
    What a `Database.write_plainly` writes with: the same, in a transaction that may.
    """

    __slots__ = ()
