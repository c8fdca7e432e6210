"""
What a server counts, as the text that Prometheus reads.

No client library: the text is a line for each figure. Counters are of this process; what the store itself knows is
asked when somebody looks.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ullage.service import ImageService

__all__ = ["METRICS", "Histogram", "Metrics"]

_PULL_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_CALL_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

#: Each metric with its type and what it says, in the order of the text.
METRICS: Final = {
    "ullage_pulls_total": ("counter", "Pulls that ended, by gRPC code."),
    "ullage_pulls_in_progress": ("gauge", "Pulls that run or wait for their turn."),
    "ullage_pull_bytes_total": ("counter", "Bytes that pulls received over the network."),
    "ullage_pull_duration_seconds": ("histogram", "How long pulls took, whatever their end."),
    "ullage_evicted_images_total": ("counter", "Images that went to make room for a pull of this server."),
    "ullage_cri_requests_total": ("counter", "Answered calls, by method and gRPC code."),
    "ullage_cri_request_duration_seconds": ("histogram", "How long calls took, by method."),
    "ullage_lock_wait_seconds": (
        "summary",
        "How long write transactions of this process waited for their turn.",
    ),
    "ullage_storage_limit_bytes": ("gauge", "The storage limit."),
    "ullage_storage_used_bytes": (
        "gauge",
        "Bytes that count against the limit: blobs, trees, registered images.",
    ),
    "ullage_storage_reserved_bytes": (
        "gauge",
        "Bytes that pulls under way and partial blobs hold beside them.",
    ),
    "ullage_storage_available_bytes": ("gauge", "Bytes that a pull may still reserve."),
    "ullage_storage_blob_bytes": ("gauge", "Bytes of the blobs on disk."),
    "ullage_storage_tree_bytes": ("gauge", "Bytes that unpacked layers occupy."),
    "ullage_images": ("gauge", "Images in the store."),
    "ullage_blobs": ("gauge", "Blobs in the store."),
}


class Histogram:
    """
    Counts by upper bound, their number and their sum. Not safe for threads by itself.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterator[str]:
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            text = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield _line(f"{name}_bucket", {**labels, "le": text}, total)
        yield _line(f"{name}_sum", labels, round(self._sum, 6))
        yield _line(f"{name}_count", labels, total)


class Metrics:
    """
    The counters of one server. Safe for threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pulls: Counter[str] = Counter()
        self._pulling = 0
        self._pull_bytes = 0
        self._pull_seconds = Histogram(_PULL_SECONDS)
        self._evicted = 0
        self._calls: Counter[tuple[str, str]] = Counter()
        self._call_seconds: dict[str, Histogram] = {}

    def pulling(self, change: int) -> None:
        with self._lock:
            self._pulling += change

    def pulled(self, code: str, seconds: float, fetched_bytes: int, evicted: int) -> None:
        with self._lock:
            self._pulls[code] += 1
            self._pull_bytes += fetched_bytes
            self._evicted += evicted
            self._pull_seconds.observe(seconds)

    def called(self, method: str, code: str, seconds: float) -> None:
        with self._lock:
            self._calls[method, code] += 1
            self._call_seconds.setdefault(method, Histogram(_CALL_SECONDS)).observe(seconds)

    def text(self, service: ImageService) -> str:
        """
        All of it, with what the store says now.
        """
        usage = service.usage()
        waits = service.lock_waits()
        with self._lock:
            figures = {
                "ullage_pulls_total": [
                    _line("ullage_pulls_total", {"code": code}, count)
                    for code, count in sorted(self._pulls.items())
                ],
                "ullage_pull_duration_seconds": self._pull_seconds.lines("ullage_pull_duration_seconds", {}),
                "ullage_cri_requests_total": [
                    _line("ullage_cri_requests_total", {"method": method, "code": code}, count)
                    for (method, code), count in sorted(self._calls.items())
                ],
                "ullage_cri_request_duration_seconds": [
                    line
                    for method, histogram in sorted(self._call_seconds.items())
                    for line in histogram.lines("ullage_cri_request_duration_seconds", {"method": method})
                ],
                "ullage_lock_wait_seconds": [
                    _line("ullage_lock_wait_seconds_sum", {}, round(waits.waited_seconds, 6)),
                    _line("ullage_lock_wait_seconds_count", {}, waits.count),
                ],
                "ullage_pulls_in_progress": _one("ullage_pulls_in_progress", self._pulling),
                "ullage_pull_bytes_total": _one("ullage_pull_bytes_total", self._pull_bytes),
                "ullage_evicted_images_total": _one("ullage_evicted_images_total", self._evicted),
                "ullage_storage_limit_bytes": _one("ullage_storage_limit_bytes", usage.max_bytes),
                "ullage_storage_used_bytes": _one("ullage_storage_used_bytes", usage.used_bytes),
                "ullage_storage_reserved_bytes": _one("ullage_storage_reserved_bytes", usage.reserved_bytes),
                "ullage_storage_available_bytes": _one(
                    "ullage_storage_available_bytes", usage.available_bytes
                ),
                "ullage_storage_blob_bytes": _one("ullage_storage_blob_bytes", usage.blob_bytes),
                "ullage_storage_tree_bytes": _one("ullage_storage_tree_bytes", usage.tree_bytes),
                "ullage_images": _one("ullage_images", usage.image_count),
                "ullage_blobs": _one("ullage_blobs", usage.blob_count),
            }
            return "".join(
                f"# HELP {name} {says}\n# TYPE {name} {kind}\n"
                + "".join(f"{line}\n" for line in figures[name])
                for name, (kind, says) in METRICS.items()
            )


def _one(name: str, value: float) -> Iterable[str]:
    return [_line(name, {}, value)]


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    # Every label's value is one of ours: a method, a code, a bound. None of them needs escaping.
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"
