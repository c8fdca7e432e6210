"""
The next release: this one, with one revision more. For processes of their own, which share a root with ours.

    release = Tomorrow(folder, min_reader=1, min_writer=9)
    release.run("print(ImageService.open(sys.argv[1]).image_count())", root)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import ullage
from support.worker import environment
from ullage.schema import HEAD_REVISION, LEVEL, REVISIONS

__all__ = ["NEXT_LEVEL", "NEXT_REVISION", "Tomorrow"]

NEXT_LEVEL = LEVEL + 1
NEXT_REVISION = f"{NEXT_LEVEL:04}"

_PROJECT = Path(__file__).parent.parent.parent
_REVISION = '''"""
What comes next.
"""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = depends_on = None
min_reader, min_writer = {min_reader}, {min_writer}
losses = ("SELECT 'wishes', count(*), 0 FROM wishes",)
directories = ("dreams",)


def upgrade():
    op.execute("CREATE TABLE wishes (id INTEGER PRIMARY KEY, wish TEXT NOT NULL) STRICT")
    {upgrade}


def downgrade():
    op.execute("DROP TABLE wishes")
'''
_PRELUDE = (
    "import sys\nfrom pathlib import Path\nfrom ullage import *\nfrom ullage import releases, migrate\n"
)


_KNOWN = re.compile(r"^REVISIONS: Final = .*$", re.MULTILINE)


def _link(ours: Path, theirs: Path, *, around: Path, leaving: tuple[str, ...] = ()) -> None:
    """
    Links in *theirs* to all that is in *ours*, but for the file *around*, whose directories are made anew.
    """
    theirs.mkdir(parents=True, exist_ok=True)
    for path in ours.iterdir():
        if path.name in ("__pycache__", *leaving) or path == around:
            continue
        if path in around.parents:
            _link(path, theirs / path.name, around=around)
        else:
            (theirs / path.name).symlink_to(path)


class Tomorrow:
    """
    A package laid out in *folder*, most of it links to ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        min_reader: int = NEXT_LEVEL,
        min_writer: int = NEXT_LEVEL,
        upgrade: str = "pass",
    ) -> None:
        self.folder = folder
        ours = Path(ullage.__file__).parent
        theirs = folder / "ullage"
        versions = theirs / "migrations" / "versions"
        versions.mkdir(parents=True)
        (where,) = (path for path in ours.rglob("*.py") if _KNOWN.search(path.read_text()))
        _link(ours, theirs, around=where, leaving=("migrations",))
        for folder_of_ours, of_theirs in (
            (_PROJECT / "migrations", theirs / "migrations"),
            (_PROJECT / "migrations" / "versions", versions),
        ):
            for path in folder_of_ours.glob("*.*"):
                (of_theirs / path.name).symlink_to(path)
        text = _KNOWN.sub(f"REVISIONS: Final = {(*REVISIONS, NEXT_REVISION)!r}", where.read_text())
        (theirs / where.relative_to(ours)).write_text(text)
        (versions / f"{NEXT_REVISION}_next.py").write_text(
            _REVISION.format(
                revision=NEXT_REVISION,
                before=HEAD_REVISION,
                min_reader=min_reader,
                min_writer=min_writer,
                upgrade=upgrade,
            )
        )

    @property
    def environment(self) -> dict[str, str]:
        here = environment()
        return here | {"PYTHONPATH": os.pathsep.join([str(self.folder), here["PYTHONPATH"]])}

    def run(self, code: str, *arguments: object, fails: bool = False) -> str:
        """
        What *code* printed; with *fails*, what it said of its failure.
        """
        done = subprocess.run(
            [sys.executable, "-c", _PRELUDE + code, *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    def open(self, root: Path) -> None:
        """
        Open the store and close it again, which upgrades it.
        """
        said = self.run("with ImageService.open(sys.argv[1]): print(migrate.HEAD_REVISION)", root)
        assert said == f"{NEXT_REVISION}\n"
