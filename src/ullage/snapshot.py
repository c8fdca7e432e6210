"""
A read at SQLite's own speed: the statements of the hot look-ups, compiled once and run past SQLAlchemy's connection.

What SQLAlchemy adds to a statement of eight microseconds is seventy: a connection object, a transaction object, events,
a result. The look-ups that a host makes all day do without; what they ask is written in the same Core statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from sqlalchemy import Executable

__all__ = ["Rows", "Snapshot"]

_DIALECT: Final = SQLiteDialect_pysqlite()
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
    What a `Database.glance` reads: a driver's connection in a transaction, and the statements that it was given before.

    Statements are module constants, without lists among their parameters: each is compiled once in a process.
    """

    __slots__ = ("_driver",)

    _compiled: Final[dict[Executable, tuple[str, tuple[str, ...], Mapping[str, Any]]]] = {}

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def execute(self, statement: Executable, parameters: Mapping[str, Any] = _NO_PARAMETERS) -> Rows:
        """
        All that *statement* finds.
        """
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = _compile(statement)
        text, names, constants = compiled
        values = [parameters[name] if name in parameters else constants[name] for name in names]
        # All of them: a statement that is not at its end would keep the snapshot open past its transaction.
        return Rows(self._driver.execute(text, values).fetchall())


def _compile(statement: Executable) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
    compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]  # every statement has it
    constants = {name: value for name, value in compiled.params.items() if not compiled.binds[name].required}
    return str(compiled), tuple(compiled.positiontup or ()), constants
