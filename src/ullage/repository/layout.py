"""
What the store's ``index.json`` says: one descriptor for each name, and all that a salvage needs to know of it.
"""

from __future__ import annotations

from typing import Final

from ullage.repository.records import Records

__all__ = ["Layout"]

# Where nothing of this has changed, neither has what follows, and it costs the same in a store of any size: rows are
# numbered once, the history notes names that go, move and come, the ledger images that come and go, and pins
# (`Images.pin`). What it misses is typed in the shell: a pin, or another manifest of the same image under a name.
_MARKED: Final = (
    "uuid || '.' || ledger"
    " || '.' || ifnull((SELECT id || '-' || at FROM history ORDER BY id DESC LIMIT 1), '')"
    " || '.' || ifnull((SELECT group_concat(seq, '-') FROM sqlite_sequence"
    " WHERE name IN ('images', 'manifests', 'repo_tags', 'repo_digests')), '')"
)
_MARK: Final = f"SELECT {_MARKED} FROM store"

# Changes whenever a name comes, goes or moves, an image comes or goes, or is pinned or not: rows are numbered once.
_NAMES: Final = (
    "count(*) || '-' || ifnull(max(id), 0) || '-' || total(id * manifest_id)"
    " || '-' || ifnull(max(updated_at), '')"
)
_STATE: Final = (
    f"SELECT {_MARKED}, uuid || '.' || (SELECT {_NAMES} FROM repo_tags) || '.' || (SELECT {_NAMES} FROM repo_digests)"
    " || '.' || (SELECT count(*) || '-' || ifnull(max(id), 0) || '-' || total(id * id * pinned) FROM images)"
    " || '.' || (SELECT count(*) || '-' || ifnull(max(id), 0) FROM manifests)"
    " FROM store"
)

# Written by SQLite, which takes a tenth of the time that Python does. What is text of ours is quoted all the same: the
# shell may have put anything there.
_DESCRIPTOR: Final = (
    '\'{"mediaType":\' || json_quote(m.media_type) || \',"digest":"\' || m.digest || \'","size":\' || b.size'
)
_NAMED: Final = (
    ' || \',"annotations":{"org.opencontainers.image.ref.name":\' || json_quote(r.reference)'
    " || CASE WHEN r.digest <> m.digest THEN ',\"ullage.resolved\":\"' || r.digest || '\"' ELSE '' END"
    " || CASE WHEN r.platform IS NOT NULL THEN ',\"ullage.platform\":' || json_quote(r.platform) ELSE '' END"
)
_CONTAINERD: Final = " || ',\"io.containerd.image.name\":' || json_quote(r.reference)"
_IMAGE: Final = (
    " || ',\"ullage.image\":\"' || i.image_id || '\"'"
    " || CASE WHEN i.pinned THEN ',\"ullage.pinned\":\"true\"' ELSE '' END"
    " || ifnull((SELECT ',\"ullage.indexes\":\"' || group_concat(x.digest, ' ') || '\"' FROM manifest_blobs AS e"
    " JOIN blobs AS x ON x.id = e.blob_id WHERE e.manifest_id = m.id AND e.role = 'index' HAVING count(*)), '')"
    " || '}}'"
)
_FROM: Final = (
    " JOIN images AS i ON i.id = m.image_id JOIN blobs AS b ON b.digest = m.digest AND b.state = 'ready'"
    " WHERE m.complete = 1"
)


def _named(table: str, extra: str = "") -> str:
    return (
        f"SELECT {_DESCRIPTOR}{_NAMED}{extra}{_IMAGE} AS entry"
        f" FROM {table} AS r CROSS JOIN manifests AS m ON m.id = r.manifest_id{_FROM} ORDER BY r.reference"
    )


def _joined(statement: str) -> str:
    # One string, put together where no other thread waits for it.
    return f"SELECT ifnull(group_concat(entry, char(44, 10)), '') FROM ({statement})"


_STATEMENTS: Final = (
    _joined(_named("repo_tags", _CONTAINERD)),
    _joined(_named("repo_digests")),
    # What no name leads to is here as well.
    _joined(
        f"SELECT {_DESCRIPTOR} || ',\"annotations\":{{' || substr(''{_IMAGE}, 2) AS entry"
        f" FROM manifests AS m{_FROM}"
        " AND NOT EXISTS (SELECT 1 FROM repo_tags AS r WHERE r.manifest_id = m.id)"
        " AND NOT EXISTS (SELECT 1 FROM repo_digests AS r WHERE r.manifest_id = m.id) ORDER BY m.id"
    ),
)


class Layout(Records):
    """
    The part of `Lookups` that tells readers from outside what is here.
    """

    def layout_mark(self) -> str:
        """
        What has changed when the layout state has, at the cost of a look-up. One read.
        """
        with self._database.glance() as snapshot:
            return str(snapshot.exec_driver_sql(_MARK).scalar_one())

    def layout_state(self) -> tuple[str, str]:
        """
        The mark, and what tells one content of ``index.json`` from another, in printable characters. One read.
        """
        with self._database.glance() as snapshot:
            mark, state = snapshot.exec_driver_sql(_STATE).one()
            return str(mark), str(state)

    def layout_entries(self) -> tuple[str, str, str]:
        """
        Both, and the descriptors of the moment, as JSON with commas between: tags, digests, what has no name. One read.
        """
        with self._database.glance() as snapshot:
            mark, state = snapshot.exec_driver_sql(_STATE).one()
            parts = [snapshot.exec_driver_sql(statement).scalar_one() for statement in _STATEMENTS]
            return str(mark), str(state), ",\n".join(part for part in parts if part)
