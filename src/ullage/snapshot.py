"""
A read at SQLite's own speed: the look-ups, as SQL, run past SQLAlchemy on a connection of the standard library's.

What SQLAlchemy adds to a statement of eight microseconds is seventy: a connection object, a transaction object, events,
a result. And to load it takes more than the rest of a command that looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

__all__ = ["Rows", "Snapshot"]

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


class Snapshot:
    """
    What a `Database.glance` reads: a driver's connection in a transaction.
    """

    __slots__ = ("_driver",)

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def exec_driver_sql(self, statement: str, parameters: Mapping[str, Any] = _NO_PARAMETERS) -> Rows:
        """
        All that *statement* finds. The name is SQLAlchemy's: who looks up takes either.
        """
        # All of them: a statement that is not at its end would keep the snapshot open past its transaction.
        return Rows(self._driver.execute(statement, parameters).fetchall())

    def dictionaries(
        self, statement: str, parameters: Mapping[str, Any] = _NO_PARAMETERS
    ) -> list[dict[str, Any]]:
        """
        The same, by the names of the columns.
        """
        cursor = self._driver.execute(statement, parameters)
        names = [name for name, *_ in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
