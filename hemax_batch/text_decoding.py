"""Decode text files as laboratories write them: UTF-8, UTF-16 with its mark, Windows-1252."""

from __future__ import annotations

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def decode_text(raw: bytes) -> str:
    r"""Return the text of a file's bytes. UnicodeDecodeError if no usual encoding fits.

    >>> decode_text(b"\xff\xfea\x00"), decode_text("é".encode("cp1252")), decode_text("é".encode())
    ('a', 'é', 'é')
    """
    if raw.startswith(_UTF16_MARKS):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def column_separator(text: str) -> str:
    r"""Return the mark that separates the columns of the first line: comma, semicolon or tab.

    >>> column_separator("slide;class\n1,5;2")
    ';'
    """
    head = text.split("\n", 1)[0]
    return max(",;\t", key=head.count)
