"""
``images``, ``inspect`` and ``rm``: what is here, and out with it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ullage.cli.failures import describe, tell
from ullage.cli.opening import StoreCommand, changing, looking
from ullage.cli.output import ago, emit, emit_json, plain, say, short, table
from ullage.cli.registries import registry_options
from ullage.errors import ImageError, ImageNotFound, InvalidReference, UnsupportedContent
from ullage.sizes import human

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ullage.cli.registries import Reach
    from ullage.document import Descriptor
    from ullage.model import ImageStatus
    from ullage.service import ImageService

__all__ = ["images", "inspect", "rm"]

_NONE = "<none>"


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage images
      ullage images alpine               every tag of alpine
      ullage images 'ghcr.io/*/app:1*'   names that fit a shell pattern
      ullage images --quiet alpine:3.20 | xargs ullage rm""",
)
@click.argument("reference", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each image, one a line.")
@click.option("-q", "--quiet", is_flag=True, help="Only the image ids, each once.")
@click.option("--digests", is_flag=True, help="Show the digests that the registry knows the images by.")
@click.option("--no-trunc", is_flag=True, help="Show ids and digests in full.")
def images(*, reference: str | None, as_json: bool, quiet: bool, digests: bool, no_trunc: bool) -> None:
    """
    List the images in the store.

    With REFERENCE only those that it names: a name without a tag is all of its tags, and a shell pattern is
    matched against names as they are shown. An image with two tags has two lines. Where there is no store the
    list is empty, and none is made.
    """
    fits = _filter(reference)
    with looking() as service:
        found = [] if service is None else [each for each in service.list_images() if fits(each)]
    if as_json:
        for image in found:
            emit_json(image)
    elif quiet:
        for image in found:
            emit(image.image_id)
    else:
        _print_table(found, digests=digests, full=no_trunc)


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage inspect alpine
      ullage inspect 4bcff63911fc | python3 -m json.tool
      ullage inspect --referrers ghcr.io/org/app:1""",
)
@click.argument("image")
@click.option(
    "--referrers",
    is_flag=True,
    help="Ask the registry what refers to the image: signatures, lists of parts, proofs of origin.",
)
@registry_options
def inspect(*, image: str, referrers: bool, reach: Reach) -> int:
    """
    Print all about IMAGE as a JSON object.

    IMAGE is a reference, an image id, or the first digits of one. The object has the fields of the image's
    status, and `config` (as it came from the registry), `manifest` (media type, digest, size, and the
    descriptors of config and layers), `storage` (what the image takes alone, and what it shares) and `sources`
    (by digest, the host that each blob came from, where that is known), and `mount`: for overlayfs, what `ullage pull
    --unpack` made of it, null when it is not unpacked. No registry is asked but for
    --referrers, which adds them under `referrers`.
    """
    with looking(registry=reach.client() if referrers else None) as service:
        status = None if service is None else service.image_status(image)
        if service is None or status is None:
            raise ImageNotFound(f"no such image: {image}", image=image)
        document = {
            **plain(status),
            "config": _config(service, status),
            "manifest": _manifest(service, status),
            "storage": plain(service.image_storage(status)[0]),
            "sources": service.sources(status),
            "mount": _mount(service, image, status),
            **({"referrers": plain(service.referrers(image))} if referrers else {}),
        }
    emit_json(document, indent=2)
    return 0


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage rm alpine:3.20
      ullage rm --missing-ok alpine busybox""",
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--missing-ok", is_flag=True, help="An image that is not here is no failure.")
def rm(*, images: tuple[str, ...], missing_ok: bool) -> int:
    """
    Remove images, with all their names.

    What an image alone used is free at once; layers that other images share stay. To take away one name only,
    use `ullage untag`. A pinned image is removed too: pinning protects from collection, not from you. After a
    failure the other images are still removed; the exit code is that of the first failure.
    """
    exit_code = 0
    for image in images:
        try:
            _remove(image, missing_ok=missing_ok)
        except ImageError as error:
            failure = describe(error)
            tell(failure, about=image if len(images) > 1 else "")
            exit_code = exit_code or failure.exit_code
    return exit_code


def _remove(image: str, *, missing_ok: bool) -> None:
    try:
        with changing(image=image) as service:
            status = service.image_status(image)
            freed = service.image_storage(status)[0].exclusive_bytes if status else 0
            service.remove_image(image, missing_ok=missing_ok)
    except ImageNotFound:
        if not missing_ok:
            raise
        status = None
    if status is not None:
        say(f"removed {image} ({short(status.image_id)}): {human(freed)} free")


# What `images` shows


def _filter(asked: str | None) -> Callable[[ImageStatus], bool]:
    """
    Which images *asked* names. Read as a reference first, then as a shell pattern.
    """
    from ullage.reference import Reference, familiar_match, parse_normalized  # noqa: PLC0415

    if asked is None:
        return lambda _image: True
    try:
        wanted = parse_normalized(asked)
    except InvalidReference:
        familiar_match(asked, Reference("docker.io", "library/x"))  # malformed is an error, not an empty list

        def fits(name: str) -> bool:
            return familiar_match(asked, Reference.parse(name))

        return lambda image: any(map(fits, (*image.repo_tags, *image.repo_digests)))
    if wanted.is_name_only:
        prefixes = (f"{wanted.name}:", f"{wanted.name}@")
        return lambda image: any(
            name.startswith(prefixes) for name in (*image.repo_tags, *image.repo_digests)
        )
    exact = str(Reference.parse(asked))
    return lambda image: exact in image.repo_tags or exact in image.repo_digests


def _print_table(found: list[ImageStatus], *, digests: bool, full: bool) -> None:
    heads = ["REPO", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "SIZE", "PULLED", "PINNED"]
    now = datetime.now(UTC)
    rows = []
    for image in found:
        image_id = image.image_id if full else short(image.image_id)
        rest = [image_id, human(image.size), ago(image.pulled_at, now), "yes" if image.pinned else ""]
        for repo, tag, digest in _names(image):
            shown = digest if full or digest == _NONE else f"{digest.partition(':')[0]}:{short(digest)}"
            rows.append([repo, tag, *([shown] if digests else []), *rest])
    table(heads, rows, right=("SIZE",))


def _names(image: ImageStatus) -> Iterator[tuple[str, str, str]]:
    """
    Repo, tag and digest for each line of an image: its tags; where a repo has only digests, those.
    """
    from ullage.reference import Reference  # noqa: PLC0415

    repos: dict[str, tuple[list[str], list[str]]] = {}
    for name in (*image.repo_tags, *image.repo_digests):
        # Normalised and checked when it was written. To read it by the grammar again is most of a long list's time.
        rest, _, digest = name.partition("@")
        domain, _, rest = rest.partition("/")
        path, _, tag = rest.partition(":")
        tags, digests = repos.setdefault(Reference(domain, path).familiar_name, ([], []))
        if digest:
            digests.append(digest)
        elif tag:
            tags.append(tag)
    for repo, (tags, digests) in repos.items():
        for tag in tags:
            yield repo, tag, digests[-1] if digests else _NONE
        if not tags:
            for digest in digests:
                yield repo, _NONE, digest
    if not repos:
        yield _NONE, _NONE, _NONE


# What `inspect` shows


def _config(service: ImageService, status: ImageStatus) -> dict[str, Any] | None:
    try:
        return service.config(status)
    except UnsupportedContent:
        return None  # an artifact, or registered by a host: there is no image config


def _mount(service: ImageService, image: str, status: ImageStatus) -> dict[str, Any] | None:
    try:
        spec = service.mount_spec(image)
    except (ImageNotFound, UnsupportedContent):
        return None  # not unpacked, or with nothing to unpack
    return {**plain(spec), "overlay": spec.overlay()} if spec.image_id == status.image_id else None


def _manifest(service: ImageService, status: ImageStatus) -> dict[str, Any] | None:
    try:
        manifest = service.manifest(status)
    except ImageNotFound:
        return None  # registered by a host: its content is kept elsewhere
    return {
        "media_type": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.raw),
        "artifact_type": manifest.artifact_type,
        "annotations": plain(manifest.annotations),
        "config": _descriptor(manifest.config),
        "layers": [_descriptor(layer) for layer in manifest.layers],
    }


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "media_type": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "annotations": plain(descriptor.annotations),
    }
