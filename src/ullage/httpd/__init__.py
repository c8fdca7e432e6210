"""
The HTTP that registries speak, from the server's side: sockets in, requests; replies out. Knows no store.

`ullage.server` serves a store with it, and the registry of the demo and of the tests is made of it too.
"""

from ullage.httpd.connection import Connection
from ullage.httpd.listener import HTTPServer, Limits
from ullage.httpd.messages import Asked, Logged, Reply, error_reply, json_reply

__all__ = [
    "Asked",
    "Connection",
    "HTTPServer",
    "Limits",
    "Logged",
    "Reply",
    "error_reply",
    "json_reply",
]
