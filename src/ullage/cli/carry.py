"""
``import``, ``export`` and ``index``: images from directories and archives, and into them; and the store as one.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import click

from ullage.cli import signals
from ullage.cli.opening import StoreCommand, changing, current_root, there_is_a_store
from ullage.cli.output import emit, emit_json, say, short
from ullage.cli.progress import progress
from ullage.cli.registries import timeout_option
from ullage.errors import StoreError
from ullage.sizes import human

if TYPE_CHECKING:
    from ullage.model import ImageStatus
    from ullage.service import ImageService

__all__ = ["bring", "export", "import_", "index"]


@click.command(
    "import",
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage import images.tar                     what docker save or podman save wrote
      ullage import oci:layout:latest --as app:1   one image of an OCI layout
      docker save app:1 | ullage import -""",
)
@click.argument("path")
@click.option(
    "--as",
    "name",
    metavar="NAME",
    help="What to call the image. Without a tag, each image gets the tag that it has there.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="The platform to choose; `all` for every one of them. Default: this machine's.",
)
@click.option(
    "--evict",
    is_flag=True,
    help="Let images go to make room: the least recently used first, never one that is pinned or held.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each image, one a line.")
@timeout_option("all of it")
def import_(
    *,
    path: str,
    name: str | None,
    platform: str | None,
    evict: bool,
    quiet: bool,
    as_json: bool,
    timeout: float | None,
) -> None:
    """
    Bring in the images of a directory or an archive.

    PATH is an OCI layout, an OCI archive or a Docker archive, compressed or not: it is looked at. oci:DIR[:TAG],
    oci-archive:FILE[:TAG] and docker-archive:FILE[:REF] say which, and choose one image; - is a pipe. Prints the
    id of each image. What is here already is not read again, and whether the rest fits under the storage limit
    is decided before the first byte, as in a pull.
    """
    if _is_pipe(path) and sys.stdin.isatty():
        raise click.UsageError("no archive comes from a terminal: send one in", click.get_current_context())
    cancel = threading.Event()
    with changing() as service, signals.gently(cancel.set) as stop:
        try:
            found = bring(
                service,
                path,
                name=name,
                platform=platform,
                evict=evict,
                quiet=quiet,
                timeout=timeout,
                cancel=cancel,
            )
        finally:
            stop.check()
        for image in found:
            emit_json(image) if as_json else emit(image.image_id)


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage export app:1 other:2 images.tar       an OCI archive of both
      ullage export app:1 docker-archive:app.tar   for docker load
      ullage export app:1 oci:layout:latest        into an OCI layout, new or not
      ullage export --platform all app:1 app.tar   the index, and every platform's image
      ullage export app:1 - --format docker-archive | docker load""",
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.argument("path")
@click.option(
    "--format",
    "form",
    type=click.Choice(["oci", "oci-archive", "docker-archive"]),
    help="What to write. Default: what PATH says, else an OCI archive, or a layout where there is a directory.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Another platform's image of the index that the image came by; `all` for the index with all that it "
    "names, which has to be here. Default: the image's own manifest.",
)
@click.option(
    "--sparse",
    is_flag=True,
    help="With --platform all: what of the index is here is enough; it goes out as it is, and names what does not.",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary.")
def export(
    *,
    images: tuple[str, ...],
    path: str,
    form: str | None,
    platform: str | None,
    sparse: bool,
    quiet: bool,
) -> None:
    """
    Write images to a directory or an archive.

    PATH is a file, a directory or - for a pipe; oci:DIR[:TAG], oci-archive:FILE[:TAG] and docker-archive:FILE say
    what it is to be. What the images share is in it once, and the same images give the same bytes. A file that
    is there is replaced when the new one is whole; a layout that is there is added to.
    """
    if _is_pipe(path) and sys.stdout.isatty():
        raise click.UsageError(
            "an archive is not for a terminal: send it somewhere", click.get_current_context()
        )
    if sparse and platform != "all":
        raise click.UsageError("--sparse is for --platform all", click.get_current_context())
    with changing(image=images[0]) as service:
        found = service.export_images(images, path, form=form, platform=platform, sparse=sparse)
    if not quiet:
        count = len({image.id for image in found})
        say(f"{path}: {count} image{'s' * (count != 1)}")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage index && skopeo copy oci:$ULLAGE_ROOT:docker.io/library/alpine:3.20 docker://registry.example/alpine""",
)
def index() -> None:
    """
    Make the index.json of the store current.

    The store is an OCI layout that skopeo, umoci and podman read. Its index.json follows by itself, a second after
    a change and when a command ends; only after a crash, or a change in the sqlite3 shell, is it behind until the
    store is opened next. Prints its path.
    """
    root = current_root()
    if not there_is_a_store(root):
        raise StoreError(f"there is no store in {root}")
    with changing() as service:
        was_behind = service.write_index()
    say("it was behind, and is current" if was_behind else "it is current")
    emit(str(root / "index.json"))


def _is_pipe(path: str) -> bool:
    from ullage.archive import Place  # noqa: PLC0415 -- see opening.py

    return Place.parse(path).is_pipe


def bring(
    service: ImageService,
    path: str,
    *,
    name: str | None = None,
    platform: str | None,
    evict: bool,
    quiet: bool,
    timeout: float | None,
    cancel: threading.Event,
) -> list[ImageStatus]:
    """
    Import, and say on stderr how far it is and what came of it.
    """
    with progress(path, quiet=quiet) as shown:
        found = service.import_images(
            path,
            name=name,
            platform=platform,
            timeout=timeout,
            cancel=cancel,
            on_progress=shown,
            evict=evict,
        )
    for image in [] if quiet else found:
        names = " ".join(image.repo_tags) or f"{short(image.image_id)}, without a name"
        say(f"{path}: {names}: {human(image.size)}")
    sys.stdout.flush()
    return found
