"""
The figures: what each says, and that the text is one that Prometheus reads.
"""

from __future__ import annotations

import re

from support.cri import code_of
from support.images import ImageBuilder
from ullage.cri.metrics import METRICS, Histogram

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\\n]*",?)*)\})? (-?[0-9.e+-]+)')


def read(text):
    """
    The figures by name and labels; everything in the text is a comment that belongs or a figure that has one.
    """
    figures, typed = {}, {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            if word == "TYPE":
                typed[name] = rest
            else:
                assert (word, rest) == ("HELP", METRICS[name][1])
            continue
        name, labels, value = LINE.fullmatch(line).groups()
        family = re.sub("_(bucket|sum|count)$", "", name)
        assert name in typed or typed[family] in ("histogram", "summary"), line
        figures[name + (f"{{{labels}}}" if labels else "")] = float(value)
    assert typed == {name: kind for name, (kind, _) in METRICS.items()}
    return figures


def test_a_histogram_counts_what_is_at_most_each_bound():
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 2.0):
        histogram.observe(value)

    assert list(histogram.lines("x", {"a": "b"})) == [
        'x_bucket{a="b",le="0.1"} 2',
        'x_bucket{a="b",le="1"} 3',
        'x_bucket{a="b",le="+Inf"} 4',
        'x_sum{a="b"} 2.65',
        'x_count{a="b"} 4',
    ]


def test_every_figure_follows_what_happens(serving, open_store, registry, wait_until):
    cri = serving(open_store(max_storage=100_000))
    first = ImageBuilder(registry, "first").noise_layer(60_000).push("1")
    second = ImageBuilder(registry, "second").noise_layer(60_000, "x").push("1")
    before = read(cri.server.metrics.text(cri.service))
    assert before["ullage_images"] == before["ullage_pull_bytes_total"] == 0

    cri.pull(first.reference)
    cri.pull(first.reference)
    assert code_of(cri.pull, second.reference)[0] == "RESOURCE_EXHAUSTED"
    cri.list()

    calls = 'ullage_cri_requests_total{method="%s",code="%s"}'
    listed = calls % ("ListImages", "OK")
    wait_until(lambda: read(cri.server.metrics.text(cri.service)).get(listed))
    figures = read(cri.server.metrics.text(cri.service))
    assert figures['ullage_pulls_total{code="OK"}'] == figures[calls % ("PullImage", "OK")] == 2
    assert figures['ullage_pulls_total{code="RESOURCE_EXHAUSTED"}'] == 1
    assert figures["ullage_pull_duration_seconds_count"] == 3
    assert figures['ullage_pull_duration_seconds_bucket{le="+Inf"}'] == 3
    assert figures["ullage_pull_bytes_total"] == first.size + second.manifest.size
    assert figures["ullage_pulls_in_progress"] == 0
    assert figures["ullage_lock_wait_seconds_count"] >= 2
    assert figures["ullage_storage_limit_bytes"] == 100_000
    assert figures["ullage_storage_used_bytes"] == figures["ullage_storage_blob_bytes"] == first.size
    assert figures["ullage_storage_available_bytes"] == 100_000 - first.size
    assert (figures["ullage_images"], figures["ullage_blobs"]) == (1, len(first.blobs))


def test_images_that_went_for_a_pull_are_counted(serving, open_store, registry):
    from ullage import EvictionPolicy  # noqa: PLC0415

    cri = serving(open_store(max_storage=100_000, evict=EvictionPolicy()))
    images = [ImageBuilder(registry, f"a{n}").noise_layer(60_000, str(n)).push("1") for n in range(3)]

    for each in images:
        cri.pull(each.reference)

    figures = read(cri.server.metrics.text(cri.service))
    assert figures["ullage_evicted_images_total"] == 2
    assert [each.id for each in cri.list()] == [images[-1].image_id]
