"""
From layers to directories: safe, exact, charged.

Knows files, tar and compression; nothing of SQL, HTTP or the service. What it decides where other engines differ is in
docs/unpacking.md.
"""

from ullage.layer.account import occupied
from ullage.layer.apply import apply_layer, apply_overlay
from ullage.layer.chain import chain_id, chain_ids
from ullage.layer.compose import ComposeResult, compose
from ullage.layer.decompress import decompressed
from ullage.layer.fresh import fresh_directory, made_directory_in, remove_tree, require_free
from ullage.layer.options import ApplyOptions, Budget, IdRange, LayerResult, Limits, Unlimited
from ullage.layer.reading import read_inside, write_new
from ullage.layer.refused import translated
from ullage.layer.stream import LayerStream, Readable
from ullage.layer.syscalls import spread_directories, sync_filesystem
from ullage.layer.tar import Blocks, Entry, Kind, TarReader
from ullage.layer.unpack import (
    LayerBlob,
    apply_overlays,
    compose_directory,
    unpack,
    unpack_into,
)

__all__ = [
    "ApplyOptions",
    "Blocks",
    "Budget",
    "ComposeResult",
    "Entry",
    "IdRange",
    "Kind",
    "LayerBlob",
    "LayerResult",
    "LayerStream",
    "Limits",
    "Readable",
    "TarReader",
    "Unlimited",
    "apply_layer",
    "apply_overlay",
    "apply_overlays",
    "chain_id",
    "chain_ids",
    "compose",
    "compose_directory",
    "decompressed",
    "fresh_directory",
    "made_directory_in",
    "occupied",
    "read_inside",
    "remove_tree",
    "require_free",
    "spread_directories",
    "sync_filesystem",
    "translated",
    "unpack",
    "unpack_into",
    "write_new",
]
