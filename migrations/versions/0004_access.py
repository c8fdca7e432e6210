"""
Access: whose credentials an image was fetched with, so that it can be told who may use it.

A row says that somebody was served the image, from one repo, just now; it holds a hash of the credentials under a key
that is not in the database, or nothing where none were asked for. It is written in the transaction that makes or names
the image. What is not on record is not known: an image that an earlier release pulled has no row, and whoever wants it
is to ask its registry once more.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# An earlier release finds all that it reads. What it pulls is nobody's until it is asked for anew.
min_reader = 1
min_writer = 2

losses = (
    "SELECT 'records of whose credentials fetched an image, to be verified anew', count(*), 0 FROM access",
)
directories = ()

_WHOLE = "length({0}) = length(CAST({0} AS BLOB))"
_TIME = (
    f"{_WHOLE} AND substr({{0}}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND {{0}} > '0001'"
    " AND substr({0}, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr({0}, 1, 19), '+0 days')"
)
#: Of one image and repo: passwords change, and tokens that are sent as they are change every hour.
_MOST_ROWS = 64

TABLE = f"""
CREATE TABLE access (
  -- Whose credentials an image was fetched with. Its registry is asked about everybody else, who is told that it is not here.
  image_id INTEGER NOT NULL,
  repo TEXT NOT NULL, -- domain and path that it was fetched from; empty: imported without a name
  credential TEXT NOT NULL, -- HMAC-SHA-256 of registry and credentials; empty: none were asked for, so everybody may
  verified_at TEXT NOT NULL, -- when the registry last said so
  CONSTRAINT pk_access PRIMARY KEY (image_id, repo, credential),
  CONSTRAINT fk_access_image_id_images FOREIGN KEY (image_id) REFERENCES images (id),
  CONSTRAINT ck_access_credential CHECK (
    {_WHOLE.format("credential")} AND length(credential) IN (0, 64) AND credential NOT GLOB '*[^0-9a-f]*'),
  CONSTRAINT ck_access_verified_at CHECK ({_TIME.format("verified_at")})
) STRICT, WITHOUT ROWID
"""

TRIGGERS = (
    """CREATE TRIGGER access_sound BEFORE INSERT ON access
WHEN NOT EXISTS (SELECT 1 FROM images WHERE id = NEW.image_id)
BEGIN SELECT RAISE(ABORT, 'ullage: access is to images that are here'); END""",
    """CREATE TRIGGER access_immutable BEFORE UPDATE ON access
WHEN NEW.image_id IS NOT OLD.image_id OR NEW.repo IS NOT OLD.repo OR NEW.credential IS NOT OLD.credential
BEGIN SELECT RAISE(ABORT, 'ullage: access is given or taken away, and not passed on'); END""",
    f"""CREATE TRIGGER access_trimmed AFTER INSERT ON access BEGIN
  DELETE FROM access WHERE image_id = NEW.image_id AND repo = NEW.repo AND credential IN (
    SELECT credential FROM access WHERE image_id = NEW.image_id AND repo = NEW.repo
     ORDER BY verified_at DESC, credential LIMIT -1 OFFSET {_MOST_ROWS});
END""",
    """CREATE TRIGGER access_gone AFTER DELETE ON images BEGIN
  DELETE FROM access WHERE image_id = OLD.id;
END""",
)


def upgrade() -> None:
    for statement in (TABLE, *TRIGGERS):
        op.execute(statement.strip())


def downgrade() -> None:
    op.execute("DROP TRIGGER access_gone")
    op.execute("DROP TABLE access")
