"""Messages between the library and a session: JSON behind its length in four bytes.

Bytes travel as Latin-1 text.
"""

import json
import struct

MAX_MESSAGE_BYTES = 2**26


def send(sock, message):
    """Writes one message."""
    data = json.dumps(message).encode("ascii")
    sock.sendall(struct.pack("!I", len(data)) + data)


def receive(sock):
    """Reads one message; None at the end."""
    header = _exactly(sock, 4)
    if header is None:
        return None
    (size,) = struct.unpack("!I", header)
    data = _exactly(sock, size) if size <= MAX_MESSAGE_BYTES else None
    return None if data is None else json.loads(data)


def _exactly(sock, size):
    parts = []
    while size:
        try:
            part = sock.recv(min(size, 1 << 16))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
