"""
Manifests, indexes and configs: agreement with containerd and image-spec, and the limits.
"""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ullage import manifest as module
from ullage.conformance import validate_document
from ullage.digest import Digest, digest_of
from ullage.document import MAX_DOCUMENT_BYTES, read_object
from ullage.errors import (
    ContentError,
    DigestMismatch,
    ImageError,
    InvalidManifest,
    NoMatchingPlatform,
    SizeMismatch,
    UnsupportedContent,
)
from ullage.manifest import (
    ACCEPT,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_INDEX_DEPTH,
    MAX_LAYERS,
    MAX_MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    choose,
    document_kind,
    is_image_config,
    is_index,
    is_manifest,
    parse_config,
    parse_document,
    select_manifest,
)
from ullage.matcher import ALL, only, only_strict
from ullage.platform import Platform

DATA = Path(__file__).parents[1] / "data/vectors"
VECTORS = json.loads((DATA / "platforms.json").read_text())
DOCUMENTS = json.loads((DATA / "documents.json").read_text())["cases"]

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
HEX = "e6" * 32
AMD64 = Platform("linux", "amd64")

#: Names of cases (`mediatype`) where `parse_document` differs from containerd on purpose.
DIFFERENT_ON_PURPOSE = {
    "layers-only": "without a config there is no image id; containerd reads it and fails when it fetches ''",
}


def platform_of(fields):
    return Platform(
        fields["os"],
        fields["architecture"],
        fields.get("variant", ""),
        fields.get("os.version", ""),
        tuple(fields.get("os.features", ())),
    )


def descriptor(raw=b"x", media_type=LAYER, **more):
    return {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw), **more}


def manifest(config=None, layers=None, **more):
    return {
        "schemaVersion": 2,
        "config": descriptor(b"{}", OCI_CONFIG) if config is None else config,
        "layers": [descriptor()] if layers is None else layers,
        **more,
    }


def encoded(document):
    return json.dumps(document).encode()


def parsed(document, media_type=OCI_MANIFEST):
    return parse_document(encoded(document), media_type=media_type)


def outcome(function, *arguments, **more):
    """
    What *function* returns, or the class of the error it raises.
    """
    try:
        return function(*arguments, **more)
    except ImageError as error:
        return type(error)


def kind_of_error(text):
    return UnsupportedContent if "unexpected media type" in text or "schema 1" in text else InvalidManifest


# What a media type makes of a document


def test_a_media_type_makes_of_every_document_of_the_vectors_what_containerd_makes_of_it():
    for case in VECTORS["mediatype"]:
        found = outcome(document_kind, case["body"].encode(), media_type=case["declared"])

        if case["valid"]:
            assert found == ("index" if is_index(case["declared"]) else "manifest"), case
        else:
            assert found is kind_of_error(case["expect"]["error"]), case


def test_every_document_of_the_vectors_is_parsed_or_refused_as_containerd_does():
    for case in VECTORS["mediatype"]:
        found = outcome(parse_document, case["body"].encode(), media_type=case["declared"])

        if not case["valid"]:
            assert found is kind_of_error(case["expect"]["error"]), case
        elif case["name"] in DIFFERENT_ON_PURPOSE:
            assert found is InvalidManifest, case
        elif is_index(case["declared"]):
            assert isinstance(found, Index), case
        else:
            assert isinstance(found, Manifest), case
            assert found.config.digest == case["expect"]["config"], case
            assert len(found.layers) == case["expect"]["layers"], case


@pytest.mark.parametrize("media_type", [SCHEMA_1, SCHEMA_1.replace("prettyjws", "json")])
def test_schema_1_is_refused_by_name(media_type):
    with pytest.raises(UnsupportedContent, match="schema 1") as caught:
        parse_document(b"not even JSON", media_type=media_type)

    assert caught.value.media_type == media_type


def test_a_registry_that_says_nothing_is_not_second_guessed():
    with pytest.raises(UnsupportedContent, match="unexpected media type: ''"):
        parse_document(encoded(manifest()), media_type="")


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (manifest(Manifests=None), OCI_MANIFEST),
        (manifest(mediaType=DOCKER_LIST), DOCKER_MANIFEST),
        ({"manifests": [], "Config": None}, OCI_INDEX),
        ({"manifests": [], "layers": None}, DOCKER_LIST),
    ],
)
def test_a_document_that_could_be_read_as_either_kind_is_refused(document, media_type):
    """
    Go finds a field whatever its case: another reader would see another document.
    """
    with pytest.raises(InvalidManifest, match="but found"):
        parsed(document, media_type)


def test_what_is_asked_for_is_what_is_understood():
    assert ACCEPT == (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
    assert all(is_index(each) != is_manifest(each) for each in ACCEPT)
    assert is_image_config(OCI_CONFIG)
    assert is_image_config("application/vnd.docker.container.image.v1+json")
    assert not is_image_config("application/vnd.oci.empty.v1+json")


# What a document says


def test_a_manifest_says_what_its_bytes_say_and_keeps_them():
    data = base64.b64encode(b"{}").decode()
    config = descriptor(b"{}", OCI_CONFIG, data=data, urls=["https://a/b"], annotations={"k": "v"})
    subject = descriptor(b"s", OCI_MANIFEST, artifactType="a/b")
    document = manifest(config, subject=subject, annotations={"a": "b"}, artifactType="x/y")
    raw = json.dumps(document, indent=3).encode() + b"\n"

    found = parse_document(raw, media_type=OCI_MANIFEST, digest=digest_of(raw, "sha512"))

    assert found.raw is raw
    assert found.descriptor == Descriptor(OCI_MANIFEST, digest_of(raw, "sha512"), len(raw))
    assert found.config == Descriptor(
        OCI_CONFIG, digest_of(b"{}"), 2, ("https://a/b",), {"k": "v"}, None, "", b"{}"
    )
    assert found.layers == (Descriptor(LAYER, digest_of(b"x"), 1),)
    assert found.subject == Descriptor(OCI_MANIFEST, digest_of(b"s"), 1, artifact_type="a/b")
    assert (found.annotations, found.artifact_type) == ({"a": "b"}, "x/y")
    assert str(raw) not in repr(found)


def test_an_index_says_what_its_bytes_say():
    fields = {
        "os": "windows",
        "architecture": "arm",
        "variant": "v7",
        "os.version": "10",
        "os.features": ["f"],
    }
    document = {"manifests": [descriptor(b"m", OCI_MANIFEST, platform=fields), descriptor(b"n", OCI_INDEX)]}

    found = parsed(document, DOCKER_LIST)

    assert found.digest == digest_of(found.raw)
    assert found.manifests == (
        Descriptor(OCI_MANIFEST, digest_of(b"m"), 1, platform=Platform("windows", "arm", "v7", "10", ("f",))),
        Descriptor(OCI_INDEX, digest_of(b"n"), 1),
    )


def test_bytes_that_were_not_promised_are_refused():
    raw = encoded(manifest())

    with pytest.raises(DigestMismatch) as caught:
        parse_document(raw, media_type=OCI_MANIFEST, digest=digest_of(b"promised"))

    assert (caught.value.expected, caught.value.actual) == (digest_of(b"promised"), digest_of(raw))


def test_a_blob_that_a_manifest_names_twice_is_one_blob():
    found = parsed(manifest(descriptor(b"c"), [descriptor(b"a"), descriptor(b"c"), descriptor(b"a")]))

    assert [each.digest for each in found.blobs] == [digest_of(b"c"), digest_of(b"a")]


@pytest.mark.parametrize(
    "document",
    [
        manifest(layers=[]),
        {key: value for key, value in manifest().items() if key != "schemaVersion"},
        {key: value for key, value in manifest().items() if key != "layers"},
        manifest(layers=None, annotations=None, subject=None, artifactType=None),
        manifest(mediaType=DOCKER_MANIFEST),
        manifest(config=descriptor(b"{}", "application/vnd.oci.empty.v1+json")),
        manifest(config=descriptor(b"any", "model/x")),
        manifest(layers=[{"digest": digest_of(b"x"), "size": 1}]),
        manifest(layers=[descriptor(media_type="not a media type")]),
        manifest(layers=[{**descriptor(), "size": 2**50}]),
        manifest(layers=[{**descriptor(), "size": 0}]),
        manifest(layers=[descriptor() | {"digest": f"sha512:{HEX * 2}"}]),
        manifest(layers=[descriptor()] * MAX_LAYERS),
        manifest(unknown=[1.5, {"deep": None}]),
    ],
)
def test_what_registries_serve_against_the_schema_can_be_pulled(document):
    assert isinstance(parsed(document), Manifest)


@pytest.mark.parametrize(
    "document",
    [
        manifest(config="x"),
        {key: value for key, value in manifest().items() if key != "config"},
        manifest(schemaVersion="2"),
        manifest(schemaVersion=True),
        manifest(layers={}),
        manifest(layers=[None]),
        manifest(layers=["x"]),
        manifest(layers=[descriptor()] * (MAX_LAYERS + 1)),
        manifest(layers=[{"mediaType": LAYER, "size": 1}]),
        manifest(layers=[{"mediaType": LAYER, "digest": f"sha256:{HEX}"}]),
        *(
            manifest(layers=[{**descriptor(), "size": size}])
            for size in (-1, 2**50 + 1, 1.0, True, "1", None)
        ),
        *(
            manifest(layers=[{**descriptor(), "digest": digest}])
            for digest in (
                "",
                "sha256",
                f"sha256:{HEX[1:]}",
                f"sha256:{HEX.upper()}",
                f"../{HEX}",
                f"sha256:{HEX}\n",
                1,
            )
        ),
        manifest(layers=[descriptor(media_type=1)]),
        manifest(layers=[descriptor(urls="x")]),
        manifest(layers=[descriptor(urls=[1])]),
        manifest(layers=[descriptor(data="?")]),
        manifest(layers=[descriptor(data=1)]),
        manifest(layers=[descriptor(annotations={"a": 1})]),
        manifest(layers=[descriptor(annotations=[])]),
        manifest(layers=[descriptor(platform="linux")]),
        manifest(layers=[descriptor(platform={"os": 1})]),
        manifest(layers=[descriptor(platform={"os.features": "f"})]),
        manifest(annotations={"a": None}),
        manifest(artifactType=[]),
        manifest(mediaType=2),
        manifest(subject=".nope"),
        manifest(layers=[descriptor(b"x"), {**descriptor(b"x"), "size": 2}]),
    ],
)
def test_what_is_no_manifest_is_refused(document):
    with pytest.raises(InvalidManifest) as caught:
        parsed(document)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("algorithm", [f"sha384:{HEX}{HEX[:32]}", f"blake3:{HEX}", "sha256+b64u:LCa0a2j_xo"])
def test_content_that_we_cannot_verify_is_unsupported(algorithm):
    with pytest.raises(UnsupportedContent, match="digest algorithm"):
        parsed(manifest(layers=[{**descriptor(), "digest": algorithm}]))
    with pytest.raises(UnsupportedContent, match="digest algorithm"):
        parsed(manifest(config={**descriptor(), "digest": algorithm}))


def test_an_entry_that_we_cannot_verify_does_not_spoil_the_index_for_others():
    strange = {**descriptor(b"s", OCI_MANIFEST, platform={"os": "linux", "architecture": "386"})}
    raw = encoded(manifest())
    good = descriptor(raw, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"})
    index = parsed({"manifests": [strange | {"digest": f"blake3:{HEX}"}, good]}, OCI_INDEX)

    entry, found = select_manifest(index, AMD64, lambda _: raw)

    assert (entry.digest, found.raw) == (digest_of(raw), raw)
    with pytest.raises(UnsupportedContent, match="digest algorithm"):
        select_manifest(index, Platform("linux", "386"), lambda _: raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"{}{}",
        b'{"a":1,"a":1}',
        b'{"config":{"x":1,"x":2}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":"\x01"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"{}" + b" " * MAX_DOCUMENT_BYTES,
    ],
    ids=lambda raw: ascii(raw[:20]),
)
def test_bytes_that_two_readers_might_read_differently_are_no_document(raw):
    for read in (read_object, parse_config):
        with pytest.raises(InvalidManifest):
            read(raw)
    for media_type in ACCEPT:
        with pytest.raises(InvalidManifest):
            parse_document(raw, media_type=media_type)


def test_a_document_may_be_exactly_as_large_as_the_limit():
    raw = b"{}".ljust(MAX_DOCUMENT_BYTES)

    assert read_object(raw) == {}
    assert read_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_an_index_has_a_bounded_number_of_entries():
    entries = [descriptor(b"m", OCI_MANIFEST)] * MAX_MANIFESTS

    assert len(parsed({"manifests": entries}, OCI_INDEX).manifests) == MAX_MANIFESTS
    with pytest.raises(InvalidManifest, match="limit"):
        parsed({"manifests": [*entries, entries[0]]}, OCI_INDEX)


# Which manifest of an index is pulled


def test_every_host_of_the_vectors_is_given_the_manifest_that_containerd_gives_it():
    for case in VECTORS["select"]:
        blobs = {name: text.encode() for name, text in case["blobs"].items()}
        target, host = case["target"], platform_of(case["host"])
        document = parse_document(
            blobs[target["digest"]], media_type=target["mediaType"], digest=Digest(target["digest"])
        )
        matcher = {"only": only, "strict": only_strict}[case["kind"]](host)

        def fetch(wanted, blobs=blobs):
            return blobs[wanted.digest]

        found = outcome(select_manifest, document, host, fetch, matcher=matcher)

        if "error" in case["expect"]:
            assert found is NoMatchingPlatform, case["expect"]
        else:
            assert found[1].config.digest == case["expect"]["config"], case["expect"]


class Blobs(dict):
    """
    A registry's content by digest, and a builder of what points to it.
    """

    def add(self, document, media_type=OCI_MANIFEST, **more):
        raw = encoded(document)
        self[digest_of(raw)] = raw
        return descriptor(raw, media_type, **more)

    def image(self, platform="linux/amd64", **more):
        own = Platform.parse(platform)
        config = self.add(
            {"os": own.os, "architecture": own.architecture, "variant": own.variant}, OCI_CONFIG
        )
        return self.add(manifest(config), **more)

    def fetch(self, wanted):
        return self[wanted.digest]


def fields(text):
    platform = Platform.parse(text)
    return {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}


def test_entries_that_fit_come_best_first_and_those_without_a_platform_last():
    texts = ["linux/386", None, "linux/amd64", "linux/arm64", "linux/amd64/v2", "linux/amd64"]
    entries = [
        descriptor(bytes([number]), OCI_MANIFEST, **({"platform": fields(text)} if text else {}))
        for number, text in enumerate(texts)
    ]
    index = parsed({"manifests": entries}, OCI_INDEX)

    def places(matcher):
        return [index.manifests.index(each) for each in choose(index, matcher)]

    assert places(only(Platform("linux", "amd64", "v2"))) == [4, 2, 5, 0, 1]
    assert places(only_strict(AMD64)) == [2, 5, 1]
    assert places(ALL) == [0, 2, 3, 4, 5, 1]


def test_a_manifest_asked_for_by_itself_is_taken_whatever_it_runs_on():
    blobs = Blobs()
    raw = blobs.fetch(parsed({"manifests": [blobs.image("linux/s390x")]}, OCI_INDEX).manifests[0])
    document = parse_document(raw, media_type=OCI_MANIFEST)

    entry, found = select_manifest(document, AMD64, blobs.fetch)

    assert (entry, found) == (document.descriptor, document)


def test_an_index_without_the_platform_says_what_it_has():
    blobs = Blobs()
    attestation = blobs.image() | {"platform": {"os": "unknown", "architecture": "unknown"}}
    entries = [blobs.image("linux/arm64") | {"platform": fields("linux/arm64")}, attestation]
    windows = {"os": "windows", "architecture": "amd64", "os.version": "10.0.17763"}
    index = parsed({"manifests": [*entries, entries[0], entries[0] | {"platform": windows}]}, OCI_INDEX)

    with pytest.raises(NoMatchingPlatform) as caught:
        select_manifest(index, AMD64, blobs.fetch)

    assert caught.value.platform == "linux/amd64"
    assert caught.value.available == ("linux/arm64", "windows(10.0.17763)/amd64")


def test_a_manifest_without_a_platform_is_judged_by_its_config():
    blobs = Blobs()
    index = parsed({"manifests": [blobs.image("linux/arm/v6")]}, OCI_INDEX)

    entry, _ = select_manifest(index, Platform("linux", "arm", "v7"), blobs.fetch)

    assert entry == index.manifests[0]
    with pytest.raises(NoMatchingPlatform) as caught:
        select_manifest(index, AMD64, blobs.fetch)
    assert caught.value.available == ("linux/arm/v6",)


def nested(blobs, depth):
    entry = blobs.image() | {"platform": fields("linux/amd64")}
    for _ in range(depth):
        document = {"manifests": [entry]}
        entry = blobs.add(document, OCI_INDEX)
    return parsed(document, OCI_INDEX)


def test_indexes_may_stand_in_indexes_so_deep_and_no_deeper():
    blobs = Blobs()

    assert select_manifest(nested(blobs, MAX_INDEX_DEPTH), AMD64, blobs.fetch)[1].layers
    with pytest.raises(InvalidManifest, match="indexes within indexes"):
        select_manifest(nested(blobs, MAX_INDEX_DEPTH + 1), AMD64, blobs.fetch)


def test_an_index_that_points_to_itself_comes_to_an_end():
    """
    No digest can name itself; a registry that pretends so is found out at once.
    """
    raw = encoded({"manifests": [descriptor(b"itself", OCI_INDEX)]})
    asked = []

    def fetch(wanted):
        asked.append(wanted)
        return raw[: wanted.size]

    with pytest.raises(ContentError):
        select_manifest(parse_document(raw, media_type=OCI_INDEX), AMD64, fetch)
    assert len(asked) == 1


def test_what_is_fetched_on_the_way_is_checked():
    blobs = Blobs()
    index = parsed({"manifests": [blobs.image() | {"platform": fields("linux/amd64")}]}, OCI_INDEX)
    good = blobs.fetch(index.manifests[0])
    huge = replace(index, manifests=(replace(index.manifests[0], size=MAX_DOCUMENT_BYTES + 1),))
    foreign = replace(index, manifests=(replace(index.manifests[0], media_type="application/xml"),))

    with pytest.raises(SizeMismatch):
        select_manifest(index, AMD64, lambda _: good + b" ")
    with pytest.raises(DigestMismatch):
        select_manifest(index, AMD64, lambda _: good.replace(b"2", b"3", 1))
    with pytest.raises(InvalidManifest, match="too large"):
        select_manifest(huge, AMD64, pytest.fail)
    with pytest.raises(UnsupportedContent, match="application/xml"):
        select_manifest(foreign, AMD64, pytest.fail)


# Configs


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", None, ""),
        ("1002", 1002, ""),
        ("0", 0, ""),
        ("007:1", 7, ""),
        ("www-data", None, "www-data"),
        ("www-data:100", None, "www-data"),
        ("1003:users", 1003, ""),
        (":100", None, ""),
        ("1_000", None, "1_000"),
        (" 1", None, " 1"),
        ("\u0661", None, "\u0661"),
        ("9" * 19, None, "9" * 19),
        ("9" * 100, None, "9" * 100),
    ],
)
def test_a_user_is_a_number_or_a_name_and_never_both(user, uid, username):
    config = parse_config(encoded({"config": {"User": user}}))

    assert (config.uid, config.username) == (uid, username)


def test_a_config_says_what_its_bytes_say_and_keeps_their_text():
    document = {
        "os": "linux",
        "architecture": "arm64",
        "variant": "v8",
        "config": {"User": "a", "Env": ["é=1"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{HEX}", f"sha256:{HEX}"]},
    }
    raw = json.dumps(document, ensure_ascii=False, indent=1).encode()

    config = parse_config(raw)

    assert config.platform == Platform("linux", "arm64", "v8")
    assert config.diff_ids == (f"sha256:{HEX}",) * 2
    assert config.text.encode() == raw


def test_a_config_may_leave_everything_out():
    config = parse_config(b'{"config":null,"rootfs":{}}')

    assert (config.platform, config.user, config.diff_ids) == (Platform("", ""), "", ())


@pytest.mark.parametrize(
    "document",
    [
        {"os": 1},
        {"config": []},
        {"config": {"User": 1}},
        {"rootfs": "x"},
        {"rootfs": {"diff_ids": "x"}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": [None]}},
        {"rootfs": {"diff_ids": [f"sha256:{HEX}"] * (MAX_LAYERS + 1)}},
    ],
)
def test_what_is_no_config_is_refused(document):
    with pytest.raises(InvalidManifest):
        parse_config(encoded(document))


# Conformance


def test_every_document_of_the_vectors_conforms_or_not_as_image_spec_says():
    differing = []
    for case in DOCUMENTS:
        found = outcome(validate_document, case["mediaType"], case["doc"].encode())
        if found is not (None if case["valid"] else InvalidManifest):
            differing.append((case["mediaType"], case["doc"]))

    assert differing == []


@pytest.mark.parametrize(
    ("media_type", "document", "conforms"),
    [
        (OCI_INDEX, {"schemaVersion": 2, "manifests": []}, True),
        (OCI_INDEX, {"schemaVersion": 1, "manifests": []}, False),
        (OCI_INDEX, {"schemaVersion": 2, "manifests": [{**descriptor(), "size": -1}]}, True),
        (OCI_INDEX, {"schemaVersion": 2, "manifests": [{**descriptor(), "platform": None}]}, False),
        (OCI_MANIFEST, manifest(), True),
        (OCI_MANIFEST, manifest(layers=[descriptor(platform=None)]), True),
        (OCI_MANIFEST, manifest(layers=[descriptor(data="?")]), False),
        (OCI_MANIFEST, manifest(layers=[descriptor() | {"digest": "x:y"}]), True),
        (OCI_MANIFEST, manifest(annotations={"a": 1}), False),
        (OCI_MANIFEST, manifest() | {"schemaVersion": 2.0}, False),
        (OCI_MANIFEST, manifest(layers=[descriptor(urls=["https://a/%zz"])]), False),
    ],
)
def test_conformance_is_to_the_letter(media_type, document, conforms):
    found = outcome(validate_document, media_type, encoded(document))

    assert found is (None if conforms else InvalidManifest)


@pytest.mark.parametrize(
    ("change", "conforms"),
    [
        ({}, True),
        ({"created": "2015-10-31T22:22:56.015925234Z"}, True),
        ({"created": "2016-02-29T22:22:56+23:59"}, True),
        ({"created": "2015-02-29T22:22:56Z"}, False),
        ({"created": "2015-10-31t22:22:56z"}, False),
        ({"created": "2015-10-31"}, False),
        ({"created": "2015-10-31T24:00:00Z"}, False),
        ({"config": {"Env": ["A=", "B=c=d"]}}, True),
        ({"config": {"Env": ["=b"]}}, False),
        ({"config": {"Env": ["A"]}}, False),
        ({"config": {"Env": None}}, False),
        ({"config": {"Cmd": None, "Entrypoint": ["x"], "Volumes": {"/v": {}}, "Labels": None}}, True),
        ({"config": {"Volumes": {"/v": "x"}}}, False),
        ({"config": {"ArgsEscaped": "yes"}}, False),
        ({"rootfs": {"type": "layers"}}, False),
        ({"rootfs": {"type": "other", "diff_ids": []}}, False),
        ({"history": [{"empty_layer": True}]}, True),
        ({"history": [{"empty_layer": 1}]}, False),
    ],
)
def test_a_config_conforms_to_the_letter(change, conforms):
    document = {"architecture": "a", "os": "b", "rootfs": {"type": "layers", "diff_ids": ["any"]}} | change

    found = outcome(validate_document, OCI_CONFIG, encoded(document))

    assert found is (None if conforms else InvalidManifest)


def test_there_is_no_schema_for_a_layer():
    with pytest.raises(UnsupportedContent):
        validate_document(LAYER, b"{}")


def test_everything_public_is_there():
    assert all(hasattr(module, name) for name in module.__all__)
