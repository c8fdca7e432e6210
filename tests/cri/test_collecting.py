"""
kubelet's image garbage collector, as it drives a runtime: it lists, sorts, removes, and counts what that freed.
"""

from __future__ import annotations

import json

from support.images import ImageBuilder


def collect(cri, to_free, last_used):
    """
    Remove images that are not pinned, the least recently used first, until enough is gone: what went and what it freed.
    """
    freed = {}
    for image in sorted(cri.list(), key=lambda image: last_used.index(image.id)):
        if sum(freed.values()) >= to_free:
            break
        if not image.pinned:
            before, _ = cri.usage()
            cri.remove(image.id)
            freed[image.id] = before - cri.usage()[0]
    return freed


def test_a_collector_frees_what_each_image_says_and_leaves_the_pinned(serving, registry):
    cri = serving(pinned_images=(f"{registry.host}/app1",), store_options={"unpack": True})
    images = []
    for number in range(4):
        builder = ImageBuilder(registry, f"app{number}").layer({"etc/shared": b"s" * 50_000})
        images.append(builder.noise_layer(20_000, str(number)).push("1"))
        cri.pull(images[-1].reference)

    def said(image):
        return json.loads(cri.status_answer(image.reference, verbose=True).info["storage"])

    alone = said(images[0])["exclusiveBytes"]
    assert 0 < alone < cri.status(images[0].reference).size, "the rest is shared"

    freed = collect(cri, to_free=2 * alone, last_used=[each.image_id for each in images])

    assert list(freed) == [images[0].image_id, images[2].image_id]
    assert freed[images[0].image_id] == alone
    assert {each.id for each in cri.list()} == {images[1].image_id, images[3].image_id}

    # The last but one that shares a layer has it for itself when the others are gone.
    cri.remove(images[1].reference)
    assert said(images[3])["sharedBytes"] == 0
    last = cri.status(images[3].reference).size
    before, _ = cri.usage()
    cri.remove(images[3].reference)
    assert cri.usage() == (before - last, 0) == (0, 0)
