"""
The command line: commands in, `ImageService` calls, text and exit codes out.

stdout is data and stderr is talk. What takes long to load (the service, SQLAlchemy, bars) is loaded by the
command that needs it, when it runs: ``ullage --help`` loads none of it.
"""

from ullage.cli.app import main

__all__ = ["main"]
