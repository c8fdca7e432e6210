"""
A raw client of the CRI image service: a channel, method names, and messages made of the descriptor set.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing

import grpc

from ullage.cri.messages import message


def runtime(name, **fields):
    """
    A message of ``runtime.v1``.
    """
    return message(f"runtime.v1.{name}")(**fields)


def spec(image, **fields):
    return runtime("ImageSpec", image=image, **fields)


class CriClient:
    """
    One connection to a server. Each method is one call; a refusal is a `grpc.RpcError`.
    """

    def __init__(self, path, *, timeout=20.0):
        self.timeout = timeout
        self.channel = grpc.insecure_channel(
            f"unix:{path}",
            options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()

    def raw(self, method, data, *, timeout=None):
        """
        Bytes to bytes.
        """
        return self.channel.unary_unary(f"/runtime.v1.{method}")(data, timeout=timeout or self.timeout)

    def call(self, method, request, answer, *, timeout=None):
        data = self.raw(method, request.SerializeToString(), timeout=timeout)
        return message(f"runtime.v1.{answer}").FromString(data)

    # ImageService

    def list(self, image=None, **fields):
        request = runtime("ListImagesRequest")
        if image is not None:
            request.filter.image.CopyFrom(spec(image, **fields))
        return list(self.call("ImageService/ListImages", request, "ListImagesResponse").images)

    def stream(self, image=None):
        """
        The messages of the stream, each with its images.
        """
        request = runtime("StreamImagesRequest")
        if image is not None:
            request.filter.image.image = image
        answers = self.channel.unary_stream("/runtime.v1.ImageService/StreamImages")(
            request.SerializeToString(), timeout=self.timeout
        )
        return [list(message("runtime.v1.StreamImagesResponse").FromString(each).images) for each in answers]

    def status_answer(self, image, *, verbose=False, **fields):
        request = runtime("ImageStatusRequest", image=spec(image, **fields), verbose=verbose)
        return self.call("ImageService/ImageStatus", request, "ImageStatusResponse")

    def status(self, image, **fields):
        """
        The image; None when the answer has none.
        """
        answer = self.status_answer(image, **fields)
        return answer.image if answer.HasField("image") else None

    def start_pull(self, image, *, auth=None, timeout=None, **fields):
        """
        A call under way: ``.result()``, ``.cancel()``.
        """
        request = runtime("PullImageRequest", image=spec(image, **fields))
        if auth is not None:
            request.auth.CopyFrom(runtime("AuthConfig", **auth))
        return self.channel.unary_unary(
            "/runtime.v1.ImageService/PullImage",
            response_deserializer=message("runtime.v1.PullImageResponse").FromString,
        ).future(request.SerializeToString(), timeout=timeout)

    def pull(self, image, *, auth=None, timeout=None, **fields):
        """
        The image's id.
        """
        return self.start_pull(image, auth=auth, timeout=timeout or self.timeout, **fields).result().image_ref

    def remove(self, image, **fields):
        request = runtime("RemoveImageRequest", image=spec(image, **fields))
        return self.call("ImageService/RemoveImage", request, "RemoveImageResponse")

    def fs_info(self):
        return self.call("ImageService/ImageFsInfo", runtime("ImageFsInfoRequest"), "ImageFsInfoResponse")

    def usage(self):
        """
        (bytes, inodes) of the entry that kubelet reads.
        """
        first = self.fs_info().image_filesystems[0]
        return first.used_bytes.value, first.inodes_used.value

    # RuntimeService

    def version(self):
        return self.call(
            "RuntimeService/Version", runtime("VersionRequest", version="0.1.0"), "VersionResponse"
        )

    def runtime_status(self, *, verbose=False):
        request = runtime("StatusRequest", verbose=verbose)
        return self.call("RuntimeService/Status", request, "StatusResponse")

    # Health

    def health(self, service=""):
        request = message("grpc.health.v1.HealthCheckRequest")(service=service)
        data = self.channel.unary_unary("/grpc.health.v1.Health/Check")(
            request.SerializeToString(), timeout=self.timeout
        )
        return message("grpc.health.v1.HealthCheckResponse").FromString(data).status

    def watch_health(self, service=""):
        request = message("grpc.health.v1.HealthCheckRequest")(service=service)
        return self.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            response_deserializer=lambda data: (
                message("grpc.health.v1.HealthCheckResponse").FromString(data).status
            ),
        )(request.SerializeToString(), timeout=self.timeout)


def code_of(call, *args, **options):
    """
    The name of the gRPC code that a call is refused with, and the message.
    """
    try:
        call(*args, **options)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def crowd(root, count):
    """
    Registers *count* images in one transaction, as their host would one by one; their references, in order.
    """
    now = "2026-01-01T00:00:00.000000Z"
    names = [f"registry.example/many:{number}" for number in range(count)]
    with closing(sqlite3.connect(root / "ullage.db", timeout=30)) as connection, connection:
        for name in names:
            digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
            row = connection.execute(
                "INSERT INTO images (image_id, size, registered_bytes, spec_image_name, spec_tag, spec_digest,"
                " pulled_at, last_used_at) VALUES (?, 1, 1, ?, ?, '', ?, ?)",
                (digest, *name.rsplit(":", 1), now, now),
            ).lastrowid
            for table, reference in (
                ("repo_tags", name),
                ("repo_digests", f"registry.example/many@{digest}"),
            ):
                connection.execute(
                    f"INSERT INTO {table} (reference, image_id, digest, updated_at) VALUES (?, ?, ?, ?)",
                    (reference, row, digest, now),
                )
    return names
