"""
``pull``: images from their registries.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, TypedDict

import click

from ullage.cli import signals
from ullage.cli.carry import bring
from ullage.cli.failures import describe, tell
from ullage.cli.opening import StoreCommand, changing, current_root, rehearsing, there_is_a_store
from ullage.cli.output import emit, emit_json, printable, say, short
from ullage.cli.progress import progress
from ullage.cli.registries import credentials_options, registry_options, timeout_option
from ullage.errors import ImageError, ImageNotFound, InvalidReference, StorageLimitExceeded
from ullage.sizes import human

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.cli.registries import Reach
    from ullage.model import AuthConfig, ImageStatus, PullPlan, PullPolicy
    from ullage.service import ImageService

__all__ = ["credentials", "pull"]


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage pull alpine
      ullage pull ghcr.io/org/app:1 ghcr.io/org/tool@sha256:4bcff6…
      ullage pull --platform linux/arm64 --policy always alpine:3.20
      ullage pull registry.example:5000/app:1 --plain-http
      ullage pull alpine --hosts-dir /etc/containerd/certs.d
      ullage pull --unpack debian:12
      ullage pull oci:layout:latest docker-archive:images.tar
      pass show registry | ullage pull registry.example/app:1 --creds me --creds-stdin""",
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@credentials_options
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="The platform to choose; `all` for every one of them. Default: this machine's.",
)
@click.option(
    "--policy",
    type=click.Choice(["if-not-present", "always", "never"]),
    default="if-not-present",
    show_default=True,
    help="Whether an image that is here is taken as it is, asked for anew, or must be here.",
)
@registry_options
@click.option(
    "--evict",
    is_flag=True,
    help="Let images go to make room: the least recently used first, never one that is pinned or held. All "
    "fits and they go, or nothing goes.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would be fetched, whether it fits, and which images --evict would take.",
)
@click.option(
    "--with-referrers",
    is_flag=True,
    help="Pull what refers to each image as well: signatures, lists of parts, proofs of origin.",
)
@click.option(
    "--unpack",
    is_flag=True,
    help="Unpack each image's layers into the store as well, for overlayfs to mount; also of one that is here. What "
    "they take counts against the storage limit.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each image, one a line.")
@timeout_option("each image")
def pull(
    *,
    images: tuple[str, ...],
    creds: str | None,
    creds_stdin: bool,
    platform: str | None,
    policy: str,
    reach: Reach,
    evict: bool,
    dry_run: bool,
    with_referrers: bool,
    unpack: bool,
    quiet: bool,
    as_json: bool,
    timeout: float | None,
) -> int:
    """
    Pull images from their registries.

    IMAGE may also be oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:REF], as for `ullage import`.
    Prints the id of each image. What is here already is not fetched again, and whether the rest fits under
    the storage limit is decided before the first byte. A pull that fails or is interrupted leaves no image;
    what it had received of large blobs stays, counted, and the next pull goes on from there. After a failure
    the other images are still pulled; the exit code is that of the first failure. An image that is to be
    unpacked is here with its trees or not at all.
    """
    places = _places(images, refused=dry_run or with_referrers or policy == "never")
    auth = credentials(creds, tuple(each for each in images if each not in places), from_stdin=creds_stdin)
    if policy == "never":
        _check_never(images[0], with_referrers=with_referrers)
    _check_unpack(unpack=unpack, dry_run=dry_run)
    from ullage.model import PullPolicy  # noqa: PLC0415 -- see opening.py

    if dry_run:
        with rehearsing(registry=reach.client()) as service:
            wanted = _with_referrers(service, images, auth) if with_referrers else images
            plans = [service.plan_pull(image, auth=auth, platform=platform, evict=evict) for image in wanted]
        return _print_plans(plans, as_json=as_json)

    exit_code = 0
    cancel = threading.Event()
    with (
        changing(registry=reach.client(), unpack=unpack) as service,
        signals.gently(cancel.set) as stop,
    ):

        def pull_one(image: str) -> Iterator[ImageStatus]:
            how = _How(platform=platform, evict=evict, timeout=timeout, cancel=cancel)
            if image in places:
                return iter(bring(service, image, quiet=quiet, **how))
            policed = PullPolicy(policy)
            return _pull(
                service, image, how, auth, policed, quiet=quiet, with_referrers=with_referrers, unpack=unpack
            )

        for image in images:
            try:
                for status in pull_one(image):
                    _print(status, as_json=as_json)
            except ImageError as error:
                stop.check()
                failure = describe(error)
                tell(failure, about=image if len(images) > 1 else "")
                exit_code = exit_code or failure.exit_code
            else:
                stop.check()
    return exit_code


def _check_never(image: str, *, with_referrers: bool) -> None:
    """
    Raises:
        UsageError: a registry would have to be asked all the same.
        ImageNotFound: there is no store, so *image* is not in it.
    """
    if with_referrers:
        raise click.UsageError(
            "--with-referrers asks the registry, and --policy never forbids it", click.get_current_context()
        )
    if not there_is_a_store(current_root()):
        raise ImageNotFound(f"{image} is not here, and may not be pulled", image=image)


def _check_unpack(*, unpack: bool, dry_run: bool) -> None:
    """
    Raises:
        UsageError: nobody knows beforehand what trees take.
    """
    if unpack and dry_run:
        raise click.UsageError(
            "what --unpack takes is only known when it is done: --dry-run cannot say",
            click.get_current_context(),
        )


def _with_referrers(
    service: ImageService, images: tuple[str, ...], auth: AuthConfig | None
) -> tuple[str, ...]:
    """
    *images*, and what refers to them.
    """
    found = [each for image in images for each in service.referrers(image, auth=auth, follow=True)]
    return (*images, *(each.reference for each in found))


class _How(TypedDict):
    """
    What is the same for a registry and for an archive.
    """

    platform: str | None
    evict: bool
    timeout: float | None
    cancel: threading.Event


def _pull(
    service: ImageService,
    image: str,
    how: _How,
    auth: AuthConfig | None,
    policy: PullPolicy,
    *,
    quiet: bool,
    with_referrers: bool,
    unpack: bool,
) -> Iterator[ImageStatus]:
    """
    *image* from its registry, and what refers to it: each an image of its own, and named.
    """
    with progress(image, quiet=quiet) as shown:
        status = service.pull_image(
            image, auth=auth, policy=policy, on_progress=shown, unpack=unpack or None, **how
        )
    if not quiet:
        say(shown.summary(status))
        if unpack:
            _say_unpacked(service, image, status)
    yield status
    if not with_referrers:
        return
    with progress(f"what refers to {image}", quiet=quiet) as shown:
        found = service.pull_referrers(
            image,
            auth=auth,
            on_progress=shown,
            evict=how["evict"],
            timeout=how["timeout"],
            cancel=how["cancel"],
        )
    for each in found:
        if not quiet:
            manifest = service.manifest(each)
            kind = printable(manifest.artifact_type or manifest.config.media_type)
            say(f"{image}: {short(each.image_id)} refers to it: {kind}")
        yield each


def _say_unpacked(service: ImageService, image: str, status: ImageStatus) -> None:
    (storage,) = service.image_storage(status)
    if not storage.tree_bytes:
        return  # an image without layers
    spec = service.mount_spec(image)
    say(f"{image}: unpacked, {human(storage.tree_bytes)}")
    if spec.options:
        say(
            f"  not root: all files are yours; {spec.forgiven} owners, devices and attributes are left out or noted"
        )


def _places(images: tuple[str, ...], *, refused: bool) -> set[str]:
    """
    Those of *images* that are layouts and archives.

    Raises:
        UsageError: there are some, and they are *refused*.
    """
    from ullage.archive import Place  # noqa: PLC0415 -- see opening.py

    places = {image for image in images if Place.named(image) is not None}
    if places and refused:
        raise click.UsageError(
            "a layout or an archive is always read: --dry-run, --with-referrers and --policy never are for registries",
            click.get_current_context(),
        )
    return places


def _print(status: ImageStatus, *, as_json: bool) -> None:
    if as_json:
        emit_json(status)
    else:
        emit(status.image_id)
    sys.stdout.flush()  # whoever reads along need not wait for the other images


def _print_plans(plans: list[PullPlan], *, as_json: bool) -> int:
    for plan in plans:
        emit_json(plan) if as_json else _print_plan(plan)
    return 0 if all(plan.fits for plan in plans) else StorageLimitExceeded.exit_code


def _print_plan(plan: PullPlan) -> None:
    emit(f"{plan.reference}: {plan.digest}")
    for name, size in (
        ("to fetch", plan.fetch_bytes),
        ("on its way", plan.awaited_bytes),
        ("here", plan.present_bytes),
    ):
        emit(f"  {name:<10}  {human(size)}")
    for victim in plan.evicted:
        emit(f"  would evict {' '.join(victim.repo_tags) or victim.image_id}: {human(victim.freed_bytes)}")
    emit(f"  {'fits' if plan.fits else plan.refusal}")


def credentials(creds: str | None, images: tuple[str, ...], *, from_stdin: bool) -> AuthConfig | None:
    """
    Raises:
        UsageError: there is no password to be had, or the credentials would go to two registries.
    """
    if creds is None:
        if from_stdin:
            raise click.UsageError("--creds-stdin needs --creds USER", click.get_current_context())
        return None
    username, colon, password = creds.partition(":")
    if not username:
        raise click.UsageError("--creds needs a user", click.get_current_context())
    _require_one_registry(images)
    if from_stdin:
        if colon:
            raise click.UsageError("two passwords: in --creds and on stdin", click.get_current_context())
        password = sys.stdin.readline().rstrip("\r\n")
    elif not colon:
        password = _ask(username)
    from ullage.model import AuthConfig  # noqa: PLC0415

    return AuthConfig(username=username, password=password)


def _ask(username: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(
            "no terminal to ask for the password on: pass --creds-stdin or USER:PASSWORD",
            click.get_current_context(),
        )
    answer: str = click.prompt(f"Password for {username}", hide_input=True, err=True)
    return answer


def _require_one_registry(images: tuple[str, ...]) -> None:
    """
    Credentials are for one registry: a second one among the images must not get to see them.
    """
    from ullage.reference import Reference  # noqa: PLC0415

    domains = set()
    for image in images:
        try:
            domains.add(Reference.parse(image).domain)
        except InvalidReference:
            continue  # its own pull says so
    if len(domains) > 1:
        raise click.UsageError(
            f"--creds is for one registry, and these are {', '.join(sorted(domains))}",
            click.get_current_context(),
        )
