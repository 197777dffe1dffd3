"""The body of an answer, bounded while it is decoded: a few bytes of gzip can stand for gigabytes."""

from __future__ import annotations

import zlib

_GZIP = zlib.MAX_WBITS | 16
_SHOWN = 40  # characters of an encoding's name in an error


class BoundedBody:
    """Collects a body in no encoding or in gzip; nested or other encodings, which nobody asked for, are refused.

    A ValueError tells, in words that follow "the answer", why it cannot be had.
    """

    def __init__(self, encoding: str, most: int) -> None:
        """Begin.

        Args:
            encoding: the header ``Content-Encoding``, empty for none.
            most: the bound in bytes, before and after decoding.
        """
        self._encoding = encoding.strip().lower()
        self._most = most
        self._received = 0
        self._body = bytearray()
        self._gzip = zlib.decompressobj(_GZIP) if self._encoding in {"gzip", "x-gzip"} else None

    def add(self, chunk: bytes) -> None:
        """Take the next bytes as they were received.

        Raises:
            ValueError: they are too many, not in the encoding named, or in one that was not asked for.
        """
        self._received += len(chunk)
        if self._gzip is None:
            if self._encoding not in {"", "identity"}:
                name = "".join(c for c in self._encoding[:_SHOWN] if c.isprintable())
                raise ValueError(f"is encoded as {name}, which was not asked for")
            self._body += chunk
        else:
            try:
                self._body += self._gzip.decompress(chunk, self._most + 1 - len(self._body))
            except zlib.error:
                raise ValueError("is not the gzip that it claims to be") from None
            if self._gzip.unused_data:
                raise ValueError("goes on after the end of its gzip")
        if max(self._received, len(self._body)) > self._most:
            raise ValueError(f"is larger than {self._most // 1024**2} MiB")

    def begun(self) -> bytes:
        """What there is of it, up to the bound."""
        return bytes(self._body[: self._most])

    def whole(self) -> bytes:
        """All of it.

        Raises:
            ValueError: it ends too early.
        """
        if self._gzip is not None and self._received and not self._gzip.eof:
            raise ValueError("ends in the middle of its gzip")
        return bytes(self._body)
