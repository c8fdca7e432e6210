"""
`Lookups`: what can be asked of a store without SQLAlchemy.
"""

from __future__ import annotations

from ullage.repository.history import History
from ullage.repository.looking import Looking
from ullage.repository.standing import Standing

__all__ = ["Lookups"]


class Lookups(Looking, History, Standing):
    """
    The rows of one store, for who only looks. All is SQL, in a `Database.glance`, and costs a tenth to load.
    """
