"""
From layers to directories: safe, exact, charged.

Knows files, tar and compression; nothing of SQL, HTTP or the service. What it decides where other engines differ is in
docs/unpacking.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ullage.exports import names_of

if TYPE_CHECKING:
    from ullage.layer.account import grown_since as grown_since
    from ullage.layer.account import occupied as occupied
    from ullage.layer.apply import apply_layer as apply_layer
    from ullage.layer.apply import apply_overlay as apply_overlay
    from ullage.layer.attributes import as_if_alone as as_if_alone
    from ullage.layer.chain import chain_id as chain_id
    from ullage.layer.chain import chain_ids as chain_ids
    from ullage.layer.composing import ComposeResult as ComposeResult
    from ullage.layer.composing import compose as compose
    from ullage.layer.decompress import decompressed as decompressed
    from ullage.layer.fresh import empty_directory as empty_directory
    from ullage.layer.fresh import fresh_directory as fresh_directory
    from ullage.layer.fresh import made_directory_in as made_directory_in
    from ullage.layer.fresh import remove_tree as remove_tree
    from ullage.layer.fresh import require_free as require_free
    from ullage.layer.options import ApplyOptions as ApplyOptions
    from ullage.layer.options import Budget as Budget
    from ullage.layer.options import IdRange as IdRange
    from ullage.layer.options import LayerResult as LayerResult
    from ullage.layer.options import Limits as Limits
    from ullage.layer.options import Unlimited as Unlimited
    from ullage.layer.reading import read_inside as read_inside
    from ullage.layer.reading import write_new as write_new
    from ullage.layer.refused import translated as translated
    from ullage.layer.stream import LayerStream as LayerStream
    from ullage.layer.stream import Readable as Readable
    from ullage.layer.syscalls import spread_directories as spread_directories
    from ullage.layer.tar import Blocks as Blocks
    from ullage.layer.tar import Entry as Entry
    from ullage.layer.tar import Kind as Kind
    from ullage.layer.tar import TarReader as TarReader
    from ullage.layer.unpacking import LayerBlob as LayerBlob
    from ullage.layer.unpacking import apply_overlays as apply_overlays
    from ullage.layer.unpacking import compose_directory as compose_directory
    from ullage.layer.unpacking import unpack as unpack
    from ullage.layer.unpacking import unpack_into as unpack_into
    from ullage.layer.writeback import Writeback as Writeback

__all__, __getattr__ = names_of(
    __name__,
    {
        "account": ("grown_since", "occupied"),
        "apply": ("apply_layer", "apply_overlay"),
        "attributes": ("as_if_alone",),
        "chain": ("chain_id", "chain_ids"),
        "composing": ("ComposeResult", "compose"),
        "decompress": ("decompressed",),
        "fresh": ("empty_directory", "fresh_directory", "made_directory_in", "remove_tree", "require_free"),
        "options": ("ApplyOptions", "Budget", "IdRange", "LayerResult", "Limits", "Unlimited"),
        "reading": ("read_inside", "write_new"),
        "refused": ("translated",),
        "stream": ("LayerStream", "Readable"),
        "syscalls": ("spread_directories",),
        "tar": ("Blocks", "Entry", "Kind", "TarReader"),
        "unpacking": ("LayerBlob", "apply_overlays", "compose_directory", "unpack", "unpack_into"),
        "writeback": ("Writeback",),
    },
)
