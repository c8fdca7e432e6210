"""
``df``, ``quota`` and ``gc``: where the bytes are, how many there may be, and which are free to go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ullage.cli.opening import StoreCommand, changing, looking
from ullage.cli.output import emit, emit_json, plain, say, short, table
from ullage.sizes import human, parse

if TYPE_CHECKING:
    from ullage.model import ImageStatus, ImageStorage, Reclaimed, StorageUsage
    from ullage.service import ImageService

__all__ = ["df", "gc", "quota"]


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on only
    """
    A size on the command line, in bytes.
    """

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        try:
            return value if isinstance(value, int) else parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage df
      ullage df -v                                  what each image takes
      ullage df --json | python3 -m json.tool
      sqlite3 ROOT/ullage.db 'select * from storage_usage'   the same figures""",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Show for each image what it shares and what it takes alone."
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object with the columns of the view storage_usage."
)
def df(*, verbose: bool, as_json: bool) -> None:
    """
    Show where the bytes are.

    Used and reserved bytes never pass the limit. Content counts once, however many images share it: the last
    lines say what that saves, and what `ullage gc` would free. A directory without a store uses nothing, and
    none is made.
    """
    with looking() as service:
        if service is None:
            usage, reclaimable, images = _nothing(), [], []
        else:
            usage, reclaimable = service.usage(), service.view("reclaimable")
            images = list(_storage_by_image(service)) if verbose else []
    if as_json:
        document = plain(usage)
        if verbose:
            document["reclaimable"] = reclaimable
            document["images"] = [
                {**plain(storage), "repo_tags": list(status.repo_tags)} for storage, status in images
            ]
        emit_json(document)
        return
    _print_usage(usage, reclaimable)
    if verbose:
        emit("")
        table(
            ("IMAGE", "IMAGE ID", "SIZE", "SHARED", "EXCLUSIVE"),
            [
                (
                    _name(status),
                    short(storage.image_id),
                    *map(human, (storage.size, storage.shared_bytes, storage.exclusive_bytes)),
                )
                for storage, status in images
            ],
            right=("SIZE", "SHARED", "EXCLUSIVE"),
        )


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage quota
      ullage quota --max 20GiB""",
)
@click.option(
    "--max",
    "max_bytes",
    type=_Size(),
    metavar="SIZE",
    help="Set the limit: plain bytes, or a number with K, M, G, T (powers of 1000: 1M is 1000000 bytes) or "
    "Ki, Mi, Gi, Ti (powers of 1024: 1Mi is 1048576 bytes), with or without a B.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object with the columns of the view storage_usage."
)
def quota(*, max_bytes: int | None, as_json: bool) -> None:
    """
    Show or set the storage limit.

    The limit is kept in the store, whoever opens it. A pull that does not fit under it is refused before its
    first byte. A limit below what is used admits nothing more, and removes nothing.
    """
    if max_bytes is None:
        with looking() as service:
            usage = _nothing() if service is None else service.usage()
    else:
        with changing(max_storage=max_bytes) as service:
            usage = service.usage()
    if as_json:
        emit_json(usage)
    else:
        emit(f"limit      {human(usage.max_bytes)}")
        emit(f"used       {human(usage.used_bytes)}")
        emit(f"available  {human(usage.available_bytes)}")
    if usage.used_bytes + usage.reserved_bytes > usage.max_bytes:
        over = usage.used_bytes + usage.reserved_bytes - usage.max_bytes
        say(f"warning: {human(over)} over the limit: nothing more is admitted until that much is removed")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage gc
      sqlite3 ROOT/ullage.db 'select * from reclaimable'   what it would free""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with what was freed.")
def gc(*, as_json: bool) -> None:
    """
    Free what nothing needs.

    That is content which no image names, and what interrupted pulls had received and could go on with. No
    image is removed. What it says is freed is gone from the disk.
    """
    freed = _collected()
    if as_json:
        emit_json(freed)
        return
    total = human(freed.blob_bytes + freed.partial_bytes)
    counts = f"{_count(freed.blob_count, 'blob')}, {_count(freed.partial_count, 'partial blob')}"
    emit(f"freed {total}: {counts}")


def _collected() -> Reclaimed:
    with looking() as service:
        if service is None:
            from ullage.model import Reclaimed  # noqa: PLC0415 -- what is light to load is loaded late all the same

            return Reclaimed()
    with changing() as writer:
        return writer.collect()


def _nothing() -> StorageUsage:
    """
    The usage of a store that is not there yet: it would start so.
    """
    from ullage.model import DEFAULT_MAX_STORAGE, StorageUsage  # noqa: PLC0415

    return StorageUsage(DEFAULT_MAX_STORAGE, 0, 0, DEFAULT_MAX_STORAGE, 0, 0, 0, 0, 0, 0, 0)


def _print_usage(usage: StorageUsage, reclaimable: list[dict[str, Any]]) -> None:
    counts = f"{_count(usage.image_count, 'image')}, {_count(usage.blob_count, 'blob')}"
    lines = [("limit", usage.max_bytes, ""), ("used", usage.used_bytes, counts)]
    if usage.registered_bytes:
        lines.append(("registered", usage.registered_bytes, "of the used, kept elsewhere by a host"))
    lines.append(
        ("reserved", usage.reserved_bytes, "by pulls, running or interrupted" if usage.reserved_bytes else "")
    )
    lines.append(("available", usage.available_bytes, ""))
    if usage.doomed_bytes:
        lines.append(("doomed", usage.doomed_bytes, "beside all that, about to be unlinked"))
    width = max(len(human(size)) for _, size, _ in lines)
    for name, size, note in lines:
        emit(f"{name:<10}  {human(size):>{width}}  {note}".rstrip())
    emit("")
    # Blobs that no image names take room and are shared by nobody; doomed ones are not among the used.
    idle = sum(row["bytes"] for row in reclaimable if row["kind"] == "blob") - usage.doomed_bytes
    saved = max(0, usage.logical_bytes - (usage.used_bytes - idle))
    emit(f"sharing saves {human(saved)}: alone, the images would take {human(usage.logical_bytes)}")
    free = sum(row["bytes"] for row in reclaimable)
    emit(f"`ullage gc` would free {human(free)}")


def _storage_by_image(service: ImageService) -> list[tuple[ImageStorage, ImageStatus]]:
    by_id = {status.id: status for status in service.list_images()}
    return [(storage, by_id[storage.id]) for storage in service.image_storage() if storage.id in by_id]


def _name(status: ImageStatus) -> str:
    from ullage.reference import Reference  # noqa: PLC0415

    names = (*status.repo_tags, *status.repo_digests)
    if not names:
        return "<none>"
    familiar = Reference.parse(names[0]).familiar
    return (
        familiar
        if len(names) == 1 or not status.repo_tags[1:]
        else f"{familiar} and {len(status.repo_tags) - 1} more"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
