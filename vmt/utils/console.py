"""What commands and scripts do with their streams and with the errors of their users.

The reader of standard output may leave (``| head``): the work goes on, the text goes nowhere.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vmt.utils.errors import USER_ERRORS

Main = Callable[[Sequence[str] | None], int]


class OpenEnded:
    """A text stream that a closed pipe behind it does not break.

    Args:
        stream: where the text goes as long as somebody reads it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text while somebody reads; its length."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush while somebody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        """What follows, and what waits in the buffer, is thrown away."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        finally:
            os.close(nowhere)


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run the main function of a script; exit with its status, whoever reads what it prints."""
    with open_ended_streams():
        status = main()
    sys.exit(status)


def one_line_errors(main: Main) -> Callable[..., int]:
    """The main function of a script, for which a user's error is one line and status 2."""
    program = Path(main.__globals__["__file__"]).stem

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except USER_ERRORS as error:
            sys.stderr.write(f"{program}: {error}\n")
            return 2

    return guarded


@contextlib.contextmanager
def open_ended_streams() -> Iterator[None]:
    """Put :class:`OpenEnded` around standard output and error; both are flushed at the end."""
    out, err = OpenEnded(sys.stdout), OpenEnded(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()
