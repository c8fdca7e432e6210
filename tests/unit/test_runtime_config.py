"""
What a runtime is told, of what an image says.
"""

from __future__ import annotations

import json

import pytest

from ullage.accounts import Account
from ullage.errors import ImageError, InvalidManifest, InvalidProcess, UnsupportedContent
from ullage.runtime_config import BundleOptions, IdMapping, process_of, runtime_config

IMAGE = {
    "os": "linux",
    "architecture": "arm64",
    "variant": "v8",
    "author": "somebody",
    "created": "2024-01-02T03:04:05Z",
    "config": {
        "Entrypoint": ["/bin/app", "--serve"],
        "Cmd": ["now"],
        "Env": ["A=1", "PATH=/bin", "A=2", "EMPTY="],
        "User": "www",
        "WorkingDir": "srv/../app/",
        "Labels": {"a": "b", "org.opencontainers.image.author": "the label wins"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGQUIT",
        "Volumes": {"/data/": {}, "/cache": {}},
    },
}
ROOT = Account(0, 0, (), "/root")


def made(config=IMAGE, *, account=ROOT, mappings=None, **options):
    options = BundleOptions(**options)
    return runtime_config(
        config,
        process=process_of(config, options),
        account=account,
        options=options,
        hostname="0123456789ab",
        mappings=mappings,
    )


def test_the_config_is_that_of_the_image():
    document = made(account=Account(33, 34, (4, 5), "/var/www"))

    process = document["process"]
    assert process["args"] == ["/bin/app", "--serve", "now"]
    assert process["env"] == ["A=2", "PATH=/bin", "EMPTY=", "HOME=/var/www"]
    assert process["cwd"] == "/app"
    assert process["user"] == {"uid": 33, "gid": 34, "additionalGids": [4, 5]}
    assert document["annotations"] == {
        "org.opencontainers.image.os": "linux",
        "org.opencontainers.image.architecture": "arm64",
        "org.opencontainers.image.variant": "v8",
        "org.opencontainers.image.author": "the label wins",
        "org.opencontainers.image.created": "2024-01-02T03:04:05Z",
        "org.opencontainers.image.stopSignal": "SIGQUIT",
        "org.opencontainers.image.exposedPorts": "53/udp,80/tcp",
        "a": "b",
    }
    assert document["root"] == {"path": "rootfs", "readonly": False}
    assert document["hostname"] == "0123456789ab"


def test_a_process_that_is_not_root_has_no_capability_to_begin_with():
    assert made(account=Account(33, 34))["process"]["capabilities"]["effective"] == []
    capabilities = made()["process"]["capabilities"]
    assert capabilities["effective"] == capabilities["permitted"] == capabilities["bounding"]
    assert "CAP_SYS_ADMIN" not in capabilities["bounding"]
    assert capabilities.keys() == {"bounding", "effective", "permitted"}  # nothing to inherit


def test_what_the_caller_wants_goes_before_what_the_image_says():
    document = made(
        args=("later",),
        env=("B=3", "A=4"),
        working_dir="/x/./y",
        terminal=True,
        read_only=True,
        hostname="box",
    )

    process = document["process"]
    assert process["args"] == ["/bin/app", "--serve", "later"]
    assert process["env"] == ["A=4", "PATH=/bin", "EMPTY=", "B=3", "TERM=xterm", "HOME=/root"]
    assert (process["cwd"], process["terminal"]) == ("/x/y", True)
    assert document["root"]["readonly"]
    assert document["hostname"] == "box"
    assert made(entrypoint=("/bin/sh",))["process"]["args"] == ["/bin/sh"]
    assert made(entrypoint=(), args=("ls", "-l"))["process"]["args"] == ["ls", "-l"]
    assert process_of(IMAGE, BundleOptions(user="1:2")).user == "1:2"
    assert process_of(IMAGE, BundleOptions()).user == "www"


def test_volumes_can_be_written_to_where_the_root_cannot():
    places = {mount["destination"]: mount for mount in made(read_only=True)["mounts"]}

    assert places["/data"]["type"] == places["/cache"]["type"] == "tmpfs"
    assert "/data" not in {mount["destination"] for mount in made()["mounts"]}


def test_an_image_that_says_nothing_gets_what_every_container_has():
    document = made({}, args=("/bin/true",), account=Account(0, 0))

    assert document["process"]["env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert document["process"]["cwd"] == "/"
    assert document["annotations"] == {}
    assert {mount["destination"] for mount in document["mounts"]} == {
        "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"
    }  # fmt: skip
    assert {each["type"] for each in document["linux"]["namespaces"]} == {
        "pid", "network", "ipc", "uts", "mount", "cgroup"
    }  # fmt: skip
    assert "/proc/kcore" in document["linux"]["maskedPaths"]
    assert "/proc/sys" in document["linux"]["readonlyPaths"]
    assert "uidMappings" not in document["linux"]
    assert json.loads(json.dumps(document)) == document


def test_a_rootless_container_has_a_user_namespace_and_mounts_that_it_may_have():
    mappings = ((IdMapping(0, 1000, 1), IdMapping(1, 100_000, 65_536)), (IdMapping(0, 1000, 1),))

    document = made(mappings=mappings)

    linux = document["linux"]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["uidMappings"] == [
        {"containerID": 0, "hostID": 1000, "size": 1},
        {"containerID": 1, "hostID": 100_000, "size": 65_536},
    ]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert "resources" not in linux
    mounts = {mount["destination"]: mount for mount in document["mounts"]}
    assert "/sys/fs/cgroup" not in mounts
    assert "rbind" in mounts["/sys"]["options"]
    assert "gid=5" not in mounts["/dev/pts"]["options"]


def test_ids_that_the_user_namespace_lacks_are_said_before_the_runtime_fails():
    mappings = ((IdMapping(0, 1000, 1), IdMapping(1, 100_000, 1000)), (IdMapping(0, 1000, 1),))

    for account, field in (
        (Account(1001, 0), "linux.uidMappings"),
        (Account(1000, 1), "linux.gidMappings"),
        (Account(0, 0, (7,)), "linux.gidMappings"),
    ):
        with pytest.raises(InvalidProcess, match="not mapped") as refused:
            made(account=account, mappings=mappings)
        assert refused.value.field == field
    made(account=Account(1000, 0), mappings=mappings)


@pytest.mark.parametrize(
    "section",
    [
        {"Entrypoint": "/bin/sh"},
        {"Entrypoint": ["/bin/\0sh"]},
        {"Entrypoint": [1]},
        {"Cmd": {"0": "sh"}},
        {"Env": ["NONE"]},
        {"Env": ["=x"]},
        {"Env": ["A=\0"]},
        {"Env": "A=1"},
        {"User": 0},
        {"WorkingDir": ["/"]},
        {"WorkingDir": "/\0"},
        {"Labels": {"a": 1}},
        {"Labels": ["a"]},
        {"ExposedPorts": ["80"]},
        {"StopSignal": 9},
        {"Volumes": {"/": {}}},
        {"Volumes": {"/proc/self": {}}},
        {"Volumes": {"x/../../dev": {}}},
        {"Volumes": {"/a\0b": {}}},
        {"Volumes": ["/data"]},
    ],
)
def test_a_hostile_config_is_refused(section):
    with pytest.raises(InvalidManifest):
        made({"config": {"Cmd": ["sh"], **section}}, read_only=True)


def test_a_section_that_is_none_is_refused():
    for config in ({"config": []}, {"os": 1}, {"author": {}}, {"os.features": "x"}):
        with pytest.raises(InvalidManifest):
            made({"config": {"Cmd": ["sh"]}, **config})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"args": ("a\0",)}, "process.args"),
        ({"args": ("\udcff",)}, "process.args"),
        ({"entrypoint": ("\0",)}, "process.args"),
        ({"entrypoint": ()}, "process.args"),
        ({"entrypoint": ("",)}, "process.args"),
        ({"env": ("A",)}, "process.env"),
        ({"env": ("=A",)}, "process.env"),
        ({"env": ("A=\udcff",)}, "process.env"),
        ({"working_dir": "/\0"}, "process.cwd"),
        ({"hostname": ""}, "hostname"),
        ({"hostname": "x" * 65}, "hostname"),
        ({"hostname": "a b"}, "hostname"),
        ({"hostname": "a\n"}, "hostname"),
        ({"hostname": "\udcff"}, "hostname"),
    ],
)
def test_what_no_process_can_have_is_refused(options, field):
    with pytest.raises(InvalidProcess) as refused:
        made(**options)

    assert refused.value.field == field
    assert isinstance(refused.value, ImageError)


def test_an_image_with_nothing_to_run_says_how_to_say_it():
    with pytest.raises(InvalidProcess, match="nothing about what to run") as refused:
        process_of({"config": {"Cmd": None}}, BundleOptions())

    assert "-- COMMAND" in refused.value.hint


def test_an_image_of_another_system_is_not_for_bundles():
    with pytest.raises(UnsupportedContent, match="windows"):
        process_of({"os": "windows"}, BundleOptions(args=("cmd",)))


@pytest.mark.parametrize(
    ("said", "meant"),
    [("", "/"), ("/", "/"), ("//", "/"), ("a", "/a"), ("/../..", "/"), ("//a//b/", "/a/b"), ("a/../b", "/b")],
)
def test_a_working_directory_is_below_the_root(said, meant):
    assert process_of({"config": {"Cmd": ["x"], "WorkingDir": said}}, BundleOptions()).cwd == meant


def test_a_home_that_no_variable_can_hold_is_left_out():
    for home in ("", "relative", "/a\0b", "/\udcff"):
        assert not any(
            each.startswith("HOME=") for each in made(account=Account(0, 0, (), home))["process"]["env"]
        )
    assert "HOME=/mine" in made(env=("HOME=/mine",))["process"]["env"]
