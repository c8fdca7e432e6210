"""
`Lookups`: what can be asked of a store without SQLAlchemy, and what any host does.
"""

from __future__ import annotations

from ullage.repository.history import History
from ullage.repository.holding import Holding
from ullage.repository.layout import Layout
from ullage.repository.looking import Looking
from ullage.repository.standing import Standing

__all__ = ["Lookups"]


class Lookups(Looking, History, Standing, Layout, Holding):
    """
    The rows of one store, for who looks, holds and unpacks. All is SQL, in a `Database.glance` or a
    `Database.write_plainly`, and costs a tenth to load.
    """
