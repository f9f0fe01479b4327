"""What C libraries print is discarded while audio is read; what anything else prints is not."""

from __future__ import annotations

import ctypes
import io
import os
import sys
import threading

import numpy as np
import pytest
import soundfile

from sft_speech.audio.quiet import quiet
from sft_speech.audio.read import probe, read

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other names in other C libraries")


def print_in_c(text: bytes) -> None:
    """Print as libraries do: ``fputs(text, stderr)``."""
    library = ctypes.CDLL(None)
    library.fputs(text, ctypes.c_void_p.in_dll(library, "stderr"))


def longer_mp3() -> bytes:
    """Return an MP3 that libmpg123 complains about."""
    encoded = io.BytesIO()
    soundfile.write(encoded, np.random.default_rng(0).uniform(-0.3, 0.3, 32_000), 16_000, format="MP3")
    return encoded.getvalue() + bytes(3000)


def test_libmpg123_prints_nothing(capfd):
    mp3 = longer_mp3()
    soundfile.SoundFile(io.BytesIO(mp3)).read()
    assert "Xing stream size off" in capfd.readouterr().err  # it does without us
    assert probe(mp3).seconds == 2
    read(mp3, 16_000)
    assert capfd.readouterr().err == ""


def test_others_print_meanwhile_and_c_prints_again_afterwards(capfd):
    with quiet():
        with quiet():
            print_in_c(b"lost\n")
        print_in_c(b"lost too\n")
        print("Python", file=sys.__stderr__, flush=True)
        os.write(2, b"descriptor\n")
        os.system("echo child >&2")
    print_in_c(b"kept\n")
    assert capfd.readouterr().err == "Python\ndescriptor\nchild\nkept\n"


def test_threads_share_the_silence(capfd):
    inside, leave = threading.Event(), threading.Event()

    def reader() -> None:
        with quiet():
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=reader)
    thread.start()
    assert inside.wait(20)
    with quiet():
        pass
    print_in_c(b"lost\n")  # the other thread is still reading
    leave.set()
    thread.join()
    print_in_c(b"kept\n")
    assert capfd.readouterr().err == "kept\n"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_meanwhile_is_not_silent(capfd):
    with quiet():
        child = os.fork()
        if child == 0:
            print_in_c(b"child\n")
            with quiet():
                print_in_c(b"lost\n")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert capfd.readouterr().err == "child\n"
