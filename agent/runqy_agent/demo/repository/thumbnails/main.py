"""Draws small pictures. A one-shot queue: each task has a process of its own, which ends with it."""

import os
import struct
import zlib

from runqy_python import run_once, task

LONGEST_SIDE = 96


class UnknownFormatError(Exception):
    """The picture is in a format that we cannot read."""


@task
def thumbnail(payload):
    name, width, height = payload["name"], payload["width"], payload["height"]
    print(f"shrinking {name}, {width}x{height}")
    stem, _, extension = name.rpartition(".")
    if extension == "raw":
        os._exit(3)  # a decoder written in C that gives up takes its process with it, and nothing else
    if extension not in ("jpg", "png"):
        raise UnknownFormatError(f"{name}: cannot read .{extension} pictures")
    scale = LONGEST_SIDE / max(width, height)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    return {"name": f"{stem}-small.png", "width": small[0], "height": small[1], "bytes": len(draw(*small))}


def draw(width, height):
    """A gradient as a PNG file."""
    rows = b"".join(
        b"\0" + b"".join(bytes((255 * x // width, 255 * y // height, 128)) for x in range(width)) for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


if __name__ == "__main__":
    run_once()
