"""
The stores that the crash tests begin with, and what is done to each.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.flows import open_store
from support.images import ImageBuilder, gzip_of, noise
from support.killpoints import OUTSIDE
from support.layers import DIRECTORY, FIFO, LINK, SYMLINK, entry, pax, tar
from ullage.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.images import Image
    from support.nursery import Child, Nursery
    from support.registry import FaultRegistry

__all__ = ["SCENES", "Scene", "Workshop"]

#: More than is worth resuming, and more than one chunk of a body.
LARGE_BYTES = 300_000


class Workshop:
    """
    What scenes are made with: images in a registry, an empty store to copy, children, and room for stores.
    """

    def __init__(self, registry: FaultRegistry, nursery: Nursery, room: Path) -> None:
        self.registry = registry
        self.nursery = nursery
        self.room = room
        base = {"etc/base": noise(2000, "base")}
        big = noise(LARGE_BYTES, "big")
        self.small = self._image("small", base, {"bin/small": noise(500, "small")})
        self.sibling = self._image("sibling", base, {"bin/sibling": noise(700, "sibling")})
        self.large = self._image("large", base, {"lib/big": big}, {"lib/more": noise(100_000, "more")})
        self.larger = self._image("larger", {"lib/big": big}, {"lib/larger": noise(50_000, "larger")})
        # Pulls that wait for each other: both has what near has and what far has.
        near, far = {"near": noise(900, "near")}, {"far": noise(900, "far")}
        self.near, self.far = self._image("near", near), self._image("far", far)
        self.both = self._image("both", near, far)
        self.rich = self._rich()
        self._made = 0
        self._templates: dict[str, Path] = {}

    def _image(self, name: str, *layers: dict[str, bytes]) -> Image:
        builder = ImageBuilder(self.registry, name)
        for each in layers:
            builder.layer(each)
        return builder.push("1")

    def _rich(self) -> Image:
        """
        Two layers with something of each kind; the upper one hides, and looks at, what the lower one has.
        """
        lower = tar(
            entry(b"etc", DIRECTORY, mode=0o711, uid=3),
            entry(b"etc/passwd", data=b"root:x:0:0::/:/bin/sh\n", uid=4, mode=0o4750),
            entry(b"etc/old", data=b"old"),
            entry(b"link", SYMLINK, link=b"x" * 80),
            entry(b"pipe", FIFO),
            pax({b"SCHILY.xattr.user.note": b"n"}) + entry(b"noted", data=noise(300, "noted")),
        )
        upper = tar(
            entry(b"etc/.wh.old"),
            entry(b"copy", LINK, link=b"etc/passwd", uid=9),
            entry(b"etc/new/", DIRECTORY),
            entry(b"etc/new/.wh..wh..opq"),
            entry(b"noted", DIRECTORY),
            entry(b"noted/in", data=noise(70_000, "in")),
        )
        builder = ImageBuilder(self.registry, "rich").config(Cmd=["true"])
        for each in (lower, upper):
            builder.raw_layer(gzip_of(each), diff_id=digest_of(each))
        return builder.push("1")

    def new_root(self) -> Path:
        self._made += 1
        return self.room / str(self._made)

    def copy(self, root: Path) -> Path:
        """
        Another store like this one. Nobody has it open. The headroom is left out: it is made again.
        """
        target = self.new_root()
        Path(f"{target}{OUTSIDE}").mkdir()
        if (root / "trees").exists():
            # Devices and fifos may be in them.
            subprocess.run(["cp", "-a", root, target], check=True)
            for each in target.glob("headroom*"):
                each.unlink()
        elif root.exists():
            shutil.copytree(root, target, ignore=shutil.ignore_patterns("headroom*"))
        return target

    def prepared(self, scene: Scene) -> Path:
        """
        The store that a scene begins with, made once.
        """
        if scene.name not in self._templates:
            root = self.new_root()
            scene.prepare(self, root)
            self._templates[scene.name] = root
        return self._templates[scene.name]

    def arguments(self, scene: Scene) -> dict[str, Any]:
        """
        The scene's arguments, with an image's reference for its name.
        """
        return {
            key: getattr(self, value[1:]).reference if isinstance(value, str) and value[0] == "@" else value
            for key, value in scene.arguments.items()
        }

    def spawn(self, scene: Scene, root: Path, **how: Any) -> Child:
        return self.nursery.spawn(
            scene.flow,
            root,
            self.arguments(scene),
            **{"arm": scene.arm, "options": scene.options(self)} | how,
        )


@dataclass(frozen=True)
class Scene:
    """
    A store and what is done to it.
    """

    name: str
    flow: str
    prepare: Callable[[Workshop, Path], None]
    arguments: dict[str, Any] = field(default_factory=dict)
    options: Callable[[Workshop], dict[str, Any]] = lambda _: {}
    arm: str = "opened"
    limit_was_lowered: bool = False
    #: One of so many of the points that other scenes are disturbed at: for those with many calls that are much alike.
    thin: int = 1


# ---------------------------------------------------------------------- stores to begin with


def _no_store(_workshop: Workshop, _root: Path) -> None:
    pass


def _with(*names: str) -> Callable[[Workshop, Path], None]:
    def prepare(workshop: Workshop, root: Path) -> None:
        with open_store(root) as store:
            for name in names:
                store.pull_image(getattr(workshop, name).reference)

    return prepare


def _unpacked(name: str) -> Callable[[Workshop, Path], None]:
    def prepare(workshop: Workshop, root: Path) -> None:
        with open_store(root) as store:
            store.pull_image(getattr(workshop, name).reference, unpack=True)

    return prepare


def _after_a_death(
    flow: str, reference: str, *, kinds: set[str], at: int, first: tuple[str, ...] = ()
) -> Any:
    """
    A store in which somebody died; nobody recovered it.
    """

    def prepare(workshop: Workshop, root: Path) -> None:
        _with(*first)(workshop, root)
        child = workshop.nursery.spawn(
            flow,
            root,
            {"reference": getattr(workshop, reference).reference},
            action="die",
            kinds=kinds,
            at=at,
        )
        child.wait()
        assert not child.completed, "it was to die"

    return prepare


def _with_a_partial(*first: str, layer: int = 1) -> Callable[[Workshop, Path], None]:
    """
    One of a layer of the large image; the larger one has layer 1 as well, and so goes on with that.
    """

    def prepare(workshop: Workshop, root: Path) -> None:
        _with(*first)(workshop, root)
        digest = workshop.large.layers[layer].digest
        for at in range(2, 16):
            # Which write is the layer's depends on the order in which they are fetched; the last one is whole, and not
            # in its place.
            tried = workshop.copy(root)
            child = workshop.nursery.spawn(
                "pull",
                tried,
                {"reference": workshop.large.reference},
                action="die",
                kinds={"write", "rename"},
                at=at,
            )
            child.wait()
            open_store(tried).close()
            if _ask(
                tried, f"SELECT count(*) FROM ingests WHERE digest = '{digest}' AND received_bytes > 65536"
            ):
                shutil.rmtree(root)
                tried.rename(root)
                return
        raise AssertionError("no death left a partial blob")

    return prepare


def _littered(workshop: Workshop, root: Path) -> None:
    """
    Doomed blobs, blobs that nothing names, and a partial one.
    """
    _with_a_partial("small", "sibling")(workshop, root)
    with closing(sqlite3.connect(root / "ullage.db", isolation_level=None)) as shell:
        shell.execute("DELETE FROM images WHERE image_id = ?", [workshop.small.image_id])
        shell.execute("UPDATE blobs SET state = 'doomed' WHERE referenced = 0")
        shell.execute("DELETE FROM images WHERE image_id = ?", [workshop.sibling.image_id])


def _wrecked(workshop: Workshop, root: Path) -> None:
    """
    Two pulls died: one in the middle of a blob, one with its files in place and its rows not; and garbage is left.
    """
    _after_a_death("pull", "large", kinds={"write"}, at=4, first=("small",))(workshop, root)
    child = workshop.nursery.spawn(
        "pull", root, {"reference": workshop.sibling.reference}, action="die", kinds={"rename"}, at=4
    )
    child.wait()
    assert not child.completed
    with closing(sqlite3.connect(root / "ullage.db", isolation_level=None)) as shell:
        shell.execute("DELETE FROM images WHERE image_id = ?", [workshop.small.image_id])
        shell.execute(
            "UPDATE blobs SET state = 'doomed' WHERE referenced = 0"
            " AND NOT EXISTS (SELECT 1 FROM lease_blobs WHERE blob_id = blobs.id)"
        )


def _half_unpacked(workshop: Workshop, root: Path) -> None:
    """
    Somebody died in the middle of the upper tree.
    """
    _after_a_death("make trees", "rich", kinds={"create", "mkdir"}, at=14, first=("rich", "near"))(
        workshop, root
    )


def _damaged(workshop: Workshop, root: Path) -> None:
    """
    One blob is gone, one has other bytes, one that nothing names is gone, and files are here that nobody knows.
    """
    _with("small", "large")(workshop, root)

    def path(digest: str) -> Path:
        return root / "blobs" / "sha256" / digest.partition(":")[2]

    path(workshop.small.layers[1].digest).unlink()
    bad = path(workshop.large.layers[2].digest)
    bad.chmod(0o644)
    bad.write_bytes(b"x" * workshop.large.layers[2].size)
    path(workshop.large.config.digest).unlink()
    stray = path("sha256:" + "ab" * 32)
    stray.write_bytes(b"nobody's")
    (root / "ingest" / ("cd" * 32)).write_bytes(b"nobody's")


def _ask(root: Path, sql: str) -> Any:
    with closing(sqlite3.connect(root / "ullage.db")) as shell:
        return shell.execute(sql).fetchone()[0]


def _room_for_one(workshop: Workshop) -> dict[str, Any]:
    return {"max_storage": workshop.large.size + 1000}


def _no_room(workshop: Workshop) -> dict[str, Any]:
    return {"max_storage": workshop.large.size - 1}


SCENES: dict[str, Scene] = {
    scene.name: scene
    for scene in (
        Scene("a store is made", "nothing", _no_store, arm="start"),
        Scene("a store is opened", "nothing", _with("small"), arm="start"),
        Scene("the first pull", "pull", _with(), {"reference": "@small"}),
        Scene("the first pull of large blobs", "pull", _with(), {"reference": "@large"}),
        Scene("a pull that shares layers", "pull", _with("small"), {"reference": "@sibling"}),
        Scene("a pull that goes on with a partial blob", "pull", _with_a_partial(), {"reference": "@large"}),
        Scene(
            "a pull that takes doomed blobs back",
            "pull what was doomed",
            _with("small"),
            {"reference": "@small"},
        ),
        Scene(
            "a pull that evicts",
            "pull",
            _with("small", "sibling"),
            {"reference": "@large", "evict": True},
            _room_for_one,
        ),
        Scene(
            "a pull that takes the room of a partial blob",
            "pull",
            _with_a_partial(layer=2),
            {"reference": "@larger"},
            # No less than what the dead left, or the limit would be one that was lowered below use.
            lambda workshop: {"max_storage": workshop.large.size},
        ),
        Scene(
            "a pull that does not fit",
            "pull what does not fit",
            _with_a_partial("small"),
            {"reference": "@larger", "evict": True},
            lambda workshop: {"max_storage": workshop.larger.size - 1},
        ),
        Scene("a pull after others died", "pull", _wrecked, {"reference": "@large"}, arm="start"),
        Scene("a removal", "remove", _with("small"), {"reference": "@small"}),
        Scene(
            "a removal of what shares layers", "remove", _with("small", "sibling"), {"reference": "@small"}
        ),
        Scene("a pull that unpacks", "pull", _with(), {"reference": "@near", "unpack": True}),
        Scene("an unpacking of what is here", "make trees", _with("rich"), {"reference": "@rich"}, thin=6),
        Scene(
            "an unpacking on top of half a tree", "make trees", _half_unpacked, {"reference": "@rich"}, thin=6
        ),
        Scene("a directory of layers", "unpack", _with("rich"), {"reference": "@rich"}, thin=6),
        Scene(
            "a bundle of trees", "unpack", _unpacked("rich"), {"reference": "@rich", "bundle": True}, thin=6
        ),
        Scene(
            "a pull that unpacks all kinds of entries",
            "pull",
            _with("near"),
            {"reference": "@rich", "unpack": True},
            thin=6,
        ),
        Scene("a removal of what is unpacked", "remove", _unpacked("near"), {"reference": "@near"}),
        Scene("a collection", "collect", _littered, arm="start"),
        Scene("a hold", "hold", _with("small"), {"reference": "@small"}),
        Scene("names", "name", _with("small"), {"reference": "@small", "tag": "other:1"}),
        Scene("a limit", "limit", _with("small"), {"max_bytes": 1 << 20}),
        Scene("a limit below use", "limit", _with("small"), {"max_bytes": 1000}, limit_was_lowered=True),
        Scene("a limit that evicts", "limit", _with("small", "sibling"), {"max_bytes": 5000, "evict": True}),
        Scene("a repair", "repair", _damaged),
        Scene("a recovery", "nothing", _wrecked, arm="start"),
    )
}
