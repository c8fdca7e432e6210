"""
The messages: current, numbered as CRI numbers them, and no business of a host's own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import Default

import ullage.cri
from support.cri import runtime
from support.worker import run_python
from ullage.cri.messages import Malformed, decode, message

FOLDER = Path(ullage.cri.__file__).parent

#: What kubelet and crictl put on the wire: number, type and name of each field, from cri-api's api.proto.
FIELDS = (
    """
ImageSpec: 1 string image, 2 map annotations, 18 string user_specified_image, 19 string runtime_handler, 20
    string image_ref
ImageFilter: 1 ImageSpec image
ListImagesRequest: 1 ImageFilter filter
ListImagesResponse: 1 repeated Image images
StreamImagesRequest: 1 ImageFilter filter
StreamImagesResponse: 1 repeated Image images
Image: 1 string id, 2 repeated string repo_tags, 3 repeated string repo_digests, 4 uint64 size, 5 Int64Value
    uid, 6 string username, 7 ImageSpec spec, 8 bool pinned
Int64Value: 1 int64 value
UInt64Value: 1 uint64 value
ImageStatusRequest: 1 ImageSpec image, 2 bool verbose
ImageStatusResponse: 1 Image image, 2 map info
AuthConfig: 1 string username, 2 string password, 3 string auth, 4 string server_address, 5 string
    identity_token, 6 string registry_token
PullImageRequest: 1 ImageSpec image, 2 AuthConfig auth, 3 PodSandboxConfig sandbox_config
PullImageResponse: 1 string image_ref
RemoveImageRequest: 1 ImageSpec image
RemoveImageResponse:
ImageFsInfoRequest:
FilesystemIdentifier: 1 string mountpoint
FilesystemUsage: 1 int64 timestamp, 2 FilesystemIdentifier fs_id, 3 UInt64Value used_bytes, 4 UInt64Value
    inodes_used
ImageFsInfoResponse: 1 repeated FilesystemUsage image_filesystems, 2 repeated FilesystemUsage
    container_filesystems
VersionRequest: 1 string version
VersionResponse: 1 string version, 2 string runtime_name, 3 string runtime_version, 4 string
    runtime_api_version
StatusRequest: 1 bool verbose
StatusResponse: 1 RuntimeStatus status, 2 map info, 3 repeated RuntimeHandler runtime_handlers, 4
    RuntimeFeatures features
RuntimeStatus: 1 repeated RuntimeCondition conditions
RuntimeCondition: 1 string type, 2 bool status, 3 string reason, 4 string message
RuntimeHandler: 1 string name, 2 RuntimeHandlerFeatures features
RuntimeHandlerFeatures: 1 bool recursive_read_only_mounts, 2 bool user_namespaces
RuntimeFeatures: 1 bool supplemental_groups_policy, 2 bool user_namespaces_host_network, 3 bool mount_options
PodSandboxConfig: 1 PodSandboxMetadata metadata, 6 map labels, 7 map annotations
PodSandboxMetadata: 1 string name, 2 string uid, 3 string namespace, 4 uint32 attempt
""".strip()
    .replace("\n    ", " ")
    .splitlines()
)
TYPES = {3: "int64", 4: "uint64", 8: "bool", 9: "string", 13: "uint32"}


def described(field):
    name = field.message_type.name if field.message_type else TYPES[field.type]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return f"{field.number} map {field.name}"
    repeated = "repeated " if field in type_of(field.containing_type)["repeated"] else ""
    return f"{field.number} {repeated}{name} {field.name}"


def type_of(descriptor):
    # What says that a field is repeated has other names in other releases of protobuf.
    empty = message(descriptor.full_name)()
    return {
        "repeated": [
            each
            for each in descriptor.fields
            if hasattr(getattr(empty, each.name), "append") or hasattr(getattr(empty, each.name), "add")
        ]
    }


@pytest.mark.parametrize("line", FIELDS, ids=lambda line: line.partition(":")[0])
def test_fields_have_the_numbers_that_clients_use(line):
    name, _, fields = line.partition(":")

    descriptor = message(f"runtime.v1.{name}").DESCRIPTOR

    assert ", ".join(described(each) for each in descriptor.fields) == fields.strip()


def test_the_descriptors_are_what_the_proto_files_say(tmp_path):
    compiled = tmp_path / "protos.binpb"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "--proto_path",
            FOLDER,
            "--descriptor_set_out",
            compiled,
            "cri.proto",
            "health.proto",
        ],
        check=True,
    )

    shipped = FileDescriptorSet.FromString((FOLDER / "protos.binpb").read_bytes())

    assert shipped == FileDescriptorSet.FromString(compiled.read_bytes()), "make protos"


def test_a_host_may_have_its_own_messages_of_the_same_names():
    runtime("ImageSpec")

    with pytest.raises(KeyError):
        Default().FindMessageTypeByName("runtime.v1.ImageSpec")


def test_what_we_do_not_know_is_passed_over_and_what_is_no_message_is_not():
    assert decode("runtime.v1.ImageSpec", b"\x0a\x01a" + b"\xfa\x3f\x02hi").image == "a"
    with pytest.raises(Malformed):
        decode("runtime.v1.ImageSpec", b"\x0a\xff\xff")


def test_the_package_and_its_command_load_no_grpc_until_they_serve(root):
    code = (
        "import sys, ullage, ullage.cli.serve_cri\n"
        "with ullage.ImageService.open(sys.argv[1]) as images: images.list_images()\n"
        "print(*(name for name in sys.modules if re.match('grpc|google', name)))"
    )

    assert run_python("import re\n" + code, root).split() == []


def test_without_the_extra_the_command_says_how_to_get_it():
    code = (
        "import sys\n"
        "sys.modules['grpc'] = None\n"
        "from ullage.cli import main\n"
        "print(main(['--root', sys.argv[1] + '/none', 'serve-cri', '--socket', sys.argv[1] + '/sock']))"
    )

    assert run_python(code, FOLDER).split() == ["9"]
    assert not list(FOLDER.glob("none*"))


def test_every_method_of_the_proto_is_served(cri):
    text = (FOLDER / "cri.proto").read_text()
    methods = [
        f"{service}/{name}"
        for service, body in re.findall(r"service (\w+) \{(.*?)\}", text, re.DOTALL)
        for name in re.findall(r"rpc (\w+)", body)
    ]

    assert len(methods) == 8
    for each in methods:
        if "Stream" in each:
            assert list(cri.channel.unary_stream(f"/runtime.v1.{each}")(b"", timeout=10)) == []
        elif "Pull" not in each:
            cri.raw(each, b"")
