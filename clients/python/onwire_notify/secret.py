"""Reads the file of a key, as `onwire keygen --notify` makes it."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Union

from .envelope import Key

_MOST_BYTES = 4096


class KeyFileError(ValueError):
    """A key file that cannot be used; the text says why and what to do."""


def read_key(path: Union[str, "os.PathLike[str]"], key_id: int = 1) -> Key:
    """The key in a file: one line of base64, which only one user may read. `key_id` is its number at the appliance."""
    file = Path(path)
    try:
        # Not to wait for a writer where the file is a pipe.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(_MOST_BYTES)
    except OSError as error:
        raise KeyFileError(f"{file}: {error.strerror}; `onwire keygen --notify {file}` makes a key") from error
    if not stat.S_ISREG(mode):
        raise KeyFileError(f"{file} is no regular file")
    if mode & 0o077:
        raise KeyFileError(f"{file} has mode {mode & 0o777:04o}, so others can read it; run: chmod 600 {file}")
    try:
        secret = base64.b64decode(content.strip(), validate=True)
        return Key(key_id, secret)
    except (binascii.Error, ValueError) as error:
        raise KeyFileError(f"{file} is no key, a line of base64 of 16 to 64 bytes: {error}") from error
