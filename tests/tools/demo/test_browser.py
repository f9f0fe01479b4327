"""The page in Chromium, with a recorded microphone.

It needs the extra demo-page, the package playwright and a Chromium on the PATH; without them it is skipped.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sft_speech.cli import main
from sft_speech.tools.demo import answers, demo

pytest.importorskip("gradio", reason="needs pip install 'sft_speech[demo-page]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")

ROOT = Path(__file__).parents[3]
MODEL = str(ROOT / "sft_speech/assets/wav2vec2-small")
CLIP = ROOT / "sft_speech/assets/digits/test/7_jackson_0.flac"
PATIENCE = 300_000  # milliseconds; a busy machine is slow
OWN = {"127.0.0.1", "localhost", None}


@pytest.fixture
def addresses(monkeypatch) -> list[object]:
    """Every host that this process looks up or connects to from now on."""
    found: list[object] = []
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def noted_look_up(host, *more, **settings):
        found.append(host.decode() if isinstance(host, bytes) else host)
        return look_up(host, *more, **settings)

    def noted_connect(self, address):
        if isinstance(address, tuple):
            found.append(address[0])
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", noted_look_up)
    monkeypatch.setattr(socket.socket, "connect", noted_connect)
    return found


@pytest.fixture
def answered(monkeypatch) -> list[tuple[str, answers.Answer]]:
    """What the models were given, and what they answered."""
    found: list[tuple[str, answers.Answer]] = []
    answer = answers.Model.answer

    def noted(self, *given):
        found.append((given[0], answer(self, *given)))
        return found[-1][1]

    monkeypatch.setattr(answers.Model, "answer", noted)
    return found


@pytest.fixture
def microphone(tmp_path) -> Path:
    """A recording as Chromium plays it in place of a microphone: a WAV file, which it repeats."""
    import soundfile

    samples, rate = soundfile.read(CLIP)
    soundfile.write(tmp_path / "microphone.wav", samples, rate, "PCM_16")
    return tmp_path / "microphone.wav"


@contextlib.contextmanager
def chromium(microphone: Path):
    """Yield a page of a browser with this microphone."""
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}")
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=PATIENCE)
        try:
            page = browser.new_context(accept_downloads=True, permissions=["microphone"]).new_page()
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            browser.close()


def visit(page, address: str, tmp_path: Path) -> None:
    """Record, transcribe, download subtitles, then upload a file that is not audio."""
    page.goto(address)
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_text(re.compile(r"^0:(0[2-9]|[1-5]\d)$")).wait_for()  # gradio's clock: two seconds or more
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_role("button", name="Transcribe").click()
    page.get_by_text("s of computing").wait_for()
    with page.expect_download() as download:
        page.get_by_role("row").filter(has_text=".srt").get_by_role("link").click()
    download.value.save_as(tmp_path / "subtitles.srt")
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_role("button", name="Upload file", exact=True).click()
    notes = tmp_path / "notes.wav"
    notes.write_text("These are notes, and no audio.")
    page.locator("input[type=file]:not([accept*=csv])").first.set_input_files(notes)
    page.get_by_role("button", name="Transcribe").click()
    page.get_by_role("alert").filter(has_text="notes.wav").wait_for()


def test_microphone_subtitles_and_a_bad_upload(monkeypatch, tmp_path, capsys, microphone, addresses, answered) -> None:
    requested: list[str] = []
    complaints: list[str] = []

    def as_a_visitor() -> None:
        """Visit the page in a thread: playwright does not run in that of an event loop."""
        address = capsys.readouterr().out.strip()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                with chromium(microphone) as page:
                    page.on("request", lambda request: requested.append(request.url))
                    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
                    visit(page, address, tmp_path)
            except BaseException as error:
                failures.append(error)

        visitor = threading.Thread(target=work)
        visitor.start()
        visitor.join()
        if failures:
            raise failures[0]

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")  # restores it afterwards
    monkeypatch.setattr(demo, "_wait", as_a_visitor)
    assert main(["demo", MODEL, "--device", "cpu", "--debug"]) == 0

    (recording, transcribed), (upload, refused) = answered
    assert not transcribed.failed
    assert transcribed.values[0].split() == [row[0] for row in transcribed.values[1]] != []
    assert "-->" in (tmp_path / "subtitles.srt").read_text()
    assert refused.failed
    assert not Path(recording).exists(), "recordings are removed when the page stops"
    assert not Path(upload).exists()
    web = {urlsplit(url).hostname for url in requested if url.startswith(("http", "ws"))}
    assert web == {"127.0.0.1"}
    assert set(addresses) <= OWN
    assert [line for line in complaints if "Content Security Policy" in line] == []
