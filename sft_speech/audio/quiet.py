"""Silence of C libraries that write to stderr: the copy of libmpg123 inside libsndfile.

It prints lines such as "Xing stream size off by more than 1%" for thousands of MP3 files, without their names, and
libsndfile has no switch for it (libsndfile#958). Pointing file descriptor 2 elsewhere would also swallow what other
threads and child processes print. C libraries print to a variable instead, ``stderr`` of the C library, which a program
may set (manual of the GNU C library, "Standard Streams"). While libsndfile works, it is a stream to the null device.
Python, C++, child processes and fatal errors write to the descriptor, which stays as it is; only what another C library
prints to its ``stderr`` in the same milliseconds is lost. Defects that matter are found by
:mod:`sft_speech.audio.read`, which names the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading


class _Stderr:
    """The variable ``stderr`` of the C library, silent in ``with`` blocks, nested or of several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0  # blocks that have not ended
        self.variable: ctypes.c_void_p | None = None
        self.spoken: int | None = None  # the stream that it normally holds
        self.silent: int | None = None  # a stream to the null device, never closed
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):  # no C library that is known
            library = ctypes.CDLL(None)
            library.fopen.restype = ctypes.c_void_p
            library.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
            variable = ctypes.c_void_p.in_dll(library, "__stderrp" if sys.platform == "darwin" else "stderr")
            self.silent = library.fopen(os.fsencode(os.devnull), b"w")
            self.variable = variable if self.silent and variable.value else None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """Forget the threads of the parent, which a forked child doesn't have."""
        self.lock = threading.Lock()
        if self.users and self.variable is not None:
            self.variable.value = self.spoken
        self.users = 0

    def __enter__(self) -> None:
        if self.variable is None:
            return
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.spoken, self.variable.value = self.variable.value, self.silent

    def __exit__(self, *error: object) -> None:
        if self.variable is None:
            return
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.variable.value = self.spoken


_STDERR = _Stderr()


def quiet() -> contextlib.AbstractContextManager[None]:
    """Return a block in which what C libraries print to ``stderr`` is discarded."""
    return _STDERR
