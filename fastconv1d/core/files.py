"""Paths that are opened: regular files only, and writes that take effect as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

_SPECIAL = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def what_special(path: str | os.PathLike[str]) -> str | None:
    """Return what is at `path` where it is no regular file, otherwise None.

    Whoever opens a pipe waits for its other end, and a device has no size to bound memory by.

    Raises
    ------
    OSError
        If there is nothing at `path`, or it cannot be looked at.

    Examples
    --------
    >>> import os
    >>> from fastconv1d.core.files import what_special
    >>> what_special(os.curdir)
    'a directory'
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _SPECIAL if is_kind(mode)), "a device")


def check_writable(path: Path) -> None:
    """Raise the OSError of writing to `path`, before there is something to write.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastconv1d.core.files import check_writable
    >>> check_writable(Path(tempfile.mkdtemp()))
    Traceback (most recent call last):
        ...
    IsADirectoryError: [Errno 21] Is a directory
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and what_special(path):
        return  # a pipe would wait for its reader, whose input would then end
    is_new = not path.exists()
    with path.open("a"):
        pass
    if is_new:
        path.unlink()


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a new path beside `target`, which it replaces unless the block raises.

    Where `target` is a link, the file that it leads to is replaced, and the link stays.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastconv1d.core.files import replacing
    >>> target = Path(tempfile.mkdtemp(), "answer")
    >>> with replacing(target) as unfinished:
    ...     _ = unfinished.write_text("42")
    >>> target.read_text()
    '42'
    """
    target = Path(os.path.realpath(target))
    # Not of the target's name, which may be as long as a name can be.
    unfinished = target.with_name(f".fastconv1d-{secrets.token_hex(8)}")
    try:
        yield unfinished
        if target.exists():
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
