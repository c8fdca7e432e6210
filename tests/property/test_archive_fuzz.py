"""
Archives and layouts with anything in them: read, or refused with an exception of ours.
"""

from __future__ import annotations

import copy
import json
import os
import random

import pytest

from support.archives import DockerSave, Layout, built, saved, tar_bytes
from ullage import ImageError
from ullage.archive import Place, open_source
from ullage.manifest import Manifest, parse_document

ROUNDS = 20_000 if os.environ.get("ULLAGE_TORTURE") else 300
ODD = (None, True, -1, 0, 1.5, 1 << 70, "", "x", "sha256:0", "../..", "\0", [], {}, [[]], [{}], {"": None})


class Bytes:
    """
    What a spool is, in memory.
    """

    def __init__(self, pieces):
        self._data = b"".join(pieces)
        self.size = len(self._data)

    def read_at(self, offset, size):
        return self._data[offset : offset + size]

    def close(self):
        pass


def read_all(path):
    """
    Everything that a pull would ask for.
    """
    with open_source(Place.parse(os.fspath(path)), spool=lambda pieces, _: Bytes(pieces)) as source:
        for image in source.images:
            assert image.references is not None
            repo = source.repo(image)
            head = repo.head_manifest(image.descriptor.digest)
            fetched = repo.get_manifest(image.descriptor.digest)
            document = parse_document(fetched.raw, media_type=head.media_type)
            for blob in document.blobs if isinstance(document, Manifest) else ():
                with repo.open_blob(blob.digest, size=blob.size) as stream:
                    while stream.read(1 << 16):
                        pass


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout").add(built("a", 200), "app:1", "x").add(built("b"), "latest")


@pytest.fixture
def docker():
    return (
        DockerSave(old=True).add(saved("a:1")).add(saved("b:1", seed="2", layers=({"a": b"1"}, {"b": b"2"})))
    )


def outcomes(tmp_path, contents):
    seen = set()
    for content in contents:
        (tmp_path / "archive").write_bytes(content)
        try:
            read_all(tmp_path / "archive")
        except ImageError as error:
            seen.add(type(error).__name__)
        else:
            seen.add("read")
    return seen


def test_bytes_that_were_changed_anywhere(layout, docker, tmp_path):
    random_ = random.Random(8)
    whole = [layout.archive(tmp_path / "a").read_bytes(), docker.archive(tmp_path / "b").read_bytes()]

    def changed():
        for _ in range(ROUNDS):
            content = bytearray(random_.choice(whole))
            for _ in range(random_.choice((1, 2, 5, 40))):
                at = random_.randrange(len(content))
                if random_.random() < 0.7:
                    content[at] = random_.randrange(256)
                elif random_.random() < 0.5:
                    del content[at : at + random_.choice((1, 512))]
                else:
                    content[at:at] = bytes(random_.choice((1, 512)))
            if random_.random() < 0.6:
                _sum_up(content)
            yield bytes(content)

    assert {"read", "InvalidArchive"} <= outcomes(tmp_path, changed())


def test_documents_with_anything_in_their_fields(layout, docker, tmp_path):
    random_ = random.Random(9)
    docker.archive(tmp_path / "b")
    archives = [
        (layout.files, ("index.json", "oci-layout")),
        (docker.files | {"manifest.json": json.dumps(docker.entries).encode()}, ("manifest.json",)),
    ]

    def changed():
        for _ in range(ROUNDS):
            files, names = random_.choice(archives)
            name = random_.choice(names)
            document = json.loads(files[name])
            for _ in range(random_.choice((1, 1, 3))):
                document = _with_something_odd(document, random_)
            yield tar_bytes(files | {name: json.dumps(document).encode()})

    assert {"read", "InvalidArchive", "InvalidManifest"} <= outcomes(tmp_path, changed())


def _sum_up(content):
    """
    Give headers the checksums that they would have, so that what was changed in them is looked at.
    """
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])


def _with_something_odd(document, random_):
    """
    The document with one value, somewhere in it, replaced or taken away.
    """
    document = copy.deepcopy(document)
    at = document
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            return random_.choice(ODD)
        key = random_.choice(keys)
        if random_.random() < 0.3 or not isinstance(at[key], dict | list) or not at[key]:
            if random_.random() < 0.2:
                del at[key]
            else:
                at[key] = random_.choice(ODD)
            return document
        at = at[key]
