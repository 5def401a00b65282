"""Reads TensorBoard's event files: records with a length, checksums and one event."""

import struct

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event


def events(folder):
    """All events of the one event file, with their checksums checked."""
    (path,) = folder.glob("tensorboard/events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record = data[12 : 12 + length]
        crc = crc32c(record)
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked,)
        found.append(Event.FromString(record))
        data = data[16 + length :]
    return found
