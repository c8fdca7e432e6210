"""
${message}

A revision says why it exists, is explicit SQL where SQL is clearer, never imports ullage.schema (that is tomorrow's
schema), and is never edited once it has landed. Its id is the next number of four digits; that number is the level in
``user_version``, which is set for it. `make schema` writes head.sql anew, of which new stores are made.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# Who may use a store at this revision, by level, which is the number of the newest revision that a release knows.
# min_reader: releases from there on read it right. An earlier one qualifies if every table, column and view that it
# reads is still there and means what it meant.
# min_writer: releases from there on may write to it. An earlier one qualifies if what it does not know about cannot
# be wronged by what it does, files included; when in doubt, this revision's own number.
min_reader = int(revision)
min_writer = int(revision)

# What a downgrade from here would lose, for `ullage db downgrade` to name before it does: queries of this revision's
# schema, each giving rows of (what, how many, bytes on disk beside the database). What is completed in
# `37 events of the history`. Nothing that an upgrade would make again belongs here, and rows that say 0 are left out.
losses = ()

# Directories of the root that this revision came with: a downgrade removes them after its commit, since the releases
# before know nothing of them.
directories = ()


def upgrade() -> None:
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    """
    Back to the schema before, to the letter, with every row that it has a place for.
    """
    ${downgrades if downgrades else "raise NotImplementedError"}
