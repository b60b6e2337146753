#!/usr/bin/python3 -I
"""The code interpreter's service. Binds its port before anything else is loaded: whoever connects meanwhile waits."""

import os
import socket
import sys

PORT = 49999
# Connections that may wait while the rest is loaded.
BACKLOG = 128


def listener():
    """The socket of the service."""
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind(("0.0.0.0", PORT))
    own.listen(BACKLOG)
    own.setblocking(False)
    return own


def main():
    sock = listener()
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
    import contexts

    # The slowest of all is the start of Python's kernel: it goes on while the rest is loaded.
    registry = contexts.Registry()
    registry.begin()
    import app

    app.serve(sock, registry)


if __name__ == "__main__":
    main()
