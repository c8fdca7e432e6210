"""
A store served to others: the pull half of the distribution API, read-only.
"""

from ullage.server.server import ImageServer

__all__ = ["ImageServer"]
