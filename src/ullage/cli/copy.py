"""
``copy``: an image from one place to another.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypedDict

import click

from ullage.cli import signals
from ullage.cli.opening import StoreCommand, changing
from ullage.cli.output import emit, emit_json, say
from ullage.cli.progress import progress
from ullage.cli.pulls import credentials
from ullage.cli.push import summary
from ullage.cli.registries import registry_options, timeout_option
from ullage.errors import ImageError

if TYPE_CHECKING:
    from ullage.cli.progress import Shown
    from ullage.cli.registries import Reach
    from ullage.delivery import Pushed
    from ullage.model import AuthConfig, ImageStatus
    from ullage.service import ImageService

__all__ = ["copy"]

_STORE = "store:"


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage copy alpine:3.20 registry.example/mirror/alpine:3.20
      ullage copy --platform all alpine:3.20 registry.example/mirror/alpine:3.20
      ullage copy alpine:3.20 oci-archive:alpine.tar:3.20
      ullage copy oci:build:1 localhost:5000/app:1
      ullage copy store:app registry.example/app --dest-creds me
      ullage copy docker-archive:saved.tar store:app:1""",
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--src-creds",
    metavar="USER[:PASSWORD]",
    help="Credentials for the registry that is copied from. Without a password it is asked for on the terminal.",
)
@click.option(
    "--dest-creds",
    metavar="USER[:PASSWORD]",
    help="Credentials for the registry that is copied to. Without a password it is asked for on the terminal.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="The platform to choose of an index; `all` for the index with all that it names. Default: this "
    "machine's.",
)
@registry_options
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what it is there, and what was sent.")
@timeout_option("it")
def copy(
    *,
    source: str,
    destination: str,
    src_creds: str | None,
    dest_creds: str | None,
    platform: str | None,
    reach: Reach,
    quiet: bool,
    as_json: bool,
    timeout: float | None,
) -> int:
    """
    Copy an image from one place to another.

    SRC and DST are references of registries, store:IMAGE, oci:DIR[:TAG], oci-archive:FILE[:TAG] or
    docker-archive:FILE[:REF]. Between registries, layouts and archives nothing is kept here: what comes in goes
    out, verified in between. What DST has is not sent. Prints what the image is there.
    """
    cancel = threading.Event()
    auth = credentials(src_creds, (source,), from_stdin=False)
    destination_auth = credentials(dest_creds, (destination,), from_stdin=False)
    how = _How(platform=platform, timeout=timeout, cancel=cancel)
    with signals.gently(cancel.set) as stop:
        try:
            with progress(destination, quiet=quiet, doing="copying") as shown:
                if source.startswith(_STORE):
                    image = source.removeprefix(_STORE)
                    with changing(image=image, registry=reach.client()) as service:
                        done = _out_of(service, image, destination, destination_auth, how, shown)
                elif destination.startswith(_STORE):
                    with changing(registry=reach.client()) as service:
                        done = _into(service, source, destination.removeprefix(_STORE), auth, how, shown)
                else:
                    from ullage.copying import copy_image  # noqa: PLC0415 -- see opening.py

                    with reach.client() as client:
                        done = copy_image(
                            source,
                            destination,
                            registry=client,
                            auth=auth,
                            destination_auth=destination_auth,
                            on_progress=shown,
                            **how,
                        )
        except ImageError:
            stop.check()
            raise
    _report(done, destination, as_json=as_json, quiet=quiet)
    return 0


class _How(TypedDict):
    """
    What is the same wherever it goes.
    """

    platform: str | None
    timeout: float | None
    cancel: threading.Event


def _out_of(
    service: ImageService,
    image: str,
    destination: str,
    auth: AuthConfig | None,
    how: _How,
    shown: Shown,
) -> Pushed | ImageStatus:
    """
    From the store to a registry, a layout or an archive, or to another name in the store.
    """
    from ullage.archive import Place  # noqa: PLC0415

    place = Place.named(destination)
    if place is None and not destination.startswith(_STORE):
        return service.push_image(image, destination, auth=auth, on_progress=shown, **how)
    if how["platform"] is not None:
        raise click.UsageError(
            "what is in the store has its platform: --platform is for registries", click.get_current_context()
        )
    if place is None:
        return service.tag_image(image, destination.removeprefix(_STORE), move=True)
    (status,) = service.export_images([image], place)
    return status


def _into(
    service: ImageService,
    source: str,
    name: str,
    auth: AuthConfig | None,
    how: _How,
    shown: Shown,
) -> ImageStatus:
    """
    From a registry, a layout or an archive into the store, under *name* or what it is called there.
    """
    from ullage.archive import Place  # noqa: PLC0415
    from ullage.model import PullPolicy  # noqa: PLC0415

    place = Place.named(source)
    if place is not None:
        return service.import_images(place, name=name or None, on_progress=shown, **how)[0]
    known = service.image_status_by_ref(source)
    status = service.pull_image(source, auth=auth, policy=PullPolicy.ALWAYS, on_progress=shown, **how)
    if name:
        status = service.tag_image(source, name, move=True)
        if known is None and source not in (name, *status.repo_digests):
            status = service.untag_image(source)
    return status


def _report(done: Pushed | ImageStatus, destination: str, *, as_json: bool, quiet: bool) -> None:
    from ullage.delivery import Pushed  # noqa: PLC0415

    if isinstance(done, Pushed):
        if not quiet:
            say(summary(destination, done))
        line = done.repo_digest or done.digest
    else:
        line = done.image_id
    if as_json:
        emit_json(done)
    else:
        emit(line)
