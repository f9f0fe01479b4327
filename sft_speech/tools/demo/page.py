"""The page itself, of gradio's components. It loads nothing from elsewhere and reports to nobody.

gradio is an extra, so it is only imported inside functions.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from sft_speech.errors import UserError
from sft_speech.machine import installer
from sft_speech.pages.markup import shown, user
from sft_speech.text.counted import counted
from sft_speech.tools.demo.answers import (
    MAX_CHARACTERS,
    Answer,
    ClassificationModel,
    ConversionModel,
    Model,
    RecognitionModel,
    SpeakingModel,
    SynthesisModel,
)

LOOPBACK = "127.0.0.1"
UPLOAD_MEGABYTES = 500
KEPT_SECONDS = 3600  # uploads and results of a page that runs on are removed when they are this old
# gradio's scripts are its own files, with inline styles and workers made in the page. The browser refuses all else.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
FONTS = ["system-ui", "sans-serif"]  # those of the visitor's system: nothing to load
STYLE = """
.note { min-height: 1.5em; overflow-wrap: anywhere; }
.problem { color: var(--error-text-color, #b91c1c); background: var(--error-background-fill);
           border: 1px solid var(--error-border-color); border-radius: var(--radius-md); padding: .5em .8em;
           overflow-wrap: anywhere; }
.subtitles { --size-64: 8rem; } /* the height of gradio's empty box */
.model { font-size: 1.15em; overflow-wrap: anywhere; }
"""


def gradio() -> ModuleType:
    """Import gradio with its telemetry switched off.

    Raises:
        UserError: it cannot be imported.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at every report
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Couldn't find ff", RuntimeWarning)  # pydub; audio is read without it
            import gradio
    except ImportError as error:
        why = f"gradio cannot be imported ({error})"
        raise UserError("sft-speech demo", why, f"{installer()} 'sft_speech[demo-page]'") from error
    return gradio


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for uploads and results, which is removed at the end, and let gradio use it."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="sft_speech-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


@contextmanager
def serving(models: Sequence[Model], port: int | None = None, share: bool = False) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        models: one or two of the same kind.
        port: None takes the first free one from 7860 on.
        share: open a tunnel through gradio's servers, too; gradio prints the public address.

    Yields:
        Its address on this machine.

    Raises:
        UserError: the port is taken, or the tunnel could not be opened.
    """
    gr = gradio()
    page = build(models)
    try:
        _, address, public = page.launch(
            server_name=LOOPBACK,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
            css=STYLE,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,  # it would start node
            pwa=False,
            mcp_server=False,
            max_file_size=UPLOAD_MEGABYTES * gr.FileSize.MB,
            app_kwargs={"middleware": _middleware()},
        )
    except OSError as error:
        wanted = "--port" if port is None else f"--port {port}"
        raise UserError(wanted, "the port is in use", "choose another one, such as --port 7999") from error
    try:
        if share and not public:
            raise UserError("--share", "gradio could not open the tunnel", "check the connection, or leave it out")
        yield address
    finally:
        page.close(verbose=False)


def _middleware() -> list[Any]:
    from starlette.middleware import Middleware

    return [Middleware(_OnlyOwnFiles)]


class _OnlyOwnFiles:
    """ASGI middleware that lets the browser load nothing from elsewhere."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


def build(models: Sequence[Model]) -> Any:
    """Return the page: what is entered once for all models, and a column for each model."""
    gr = gradio()
    layout = LAYOUTS[type(models[0])]
    title = layout.title if len(models) == 1 else f"{layout.title}: {counted(len(models), 'model')}"
    names = [_name(model.name) for model in models]
    if len(set(names)) < len(names):
        names = [model.name for model in models]
    with gr.Blocks(
        title=f"{title} – sft_speech", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.HTML(f"<h1>{shown(title)}</h1>")
        common = layout.inputs(gr, models[0])
        button = gr.Button(models[0].action, variant="primary")
        with gr.Row():
            for model, name in zip(models, names, strict=True):
                with gr.Column(min_width=320):
                    gr.HTML(f'<h2 class="model">{user(name)}</h2>')
                    own = _voices(gr, model) if isinstance(model, SpeakingModel) else []
                    note = gr.HTML(_note(None))
                    outputs = layout.outputs(gr)
                button.click(
                    partial(_values, model, len(outputs)),
                    [*common, *own],
                    [note, *outputs],
                    concurrency_id="models",  # one computation at a time
                    concurrency_limit=1,
                    api_visibility="private",
                )
    return page


def _name(model: str) -> str:
    """Return how a model is called on the page: paths of this machine are nobody's business."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _values(model: Model, outputs: int, *given: Any) -> list[Any]:
    """Return the note and the values of the outputs; None empties one."""
    answer = model.answer(*given)
    return [_note(answer), *(answer.values or [None] * outputs)]


def _note(answer: Answer | None) -> str:
    """Return the HTML of the note, which screen readers read out."""
    if answer is not None and answer.failed:
        return f'<div class="problem" role="alert">{shown(answer.note)}</div>'
    return f'<div class="note" role="status">{shown(answer.note) if answer else ""}</div>'


# ---- the kinds of models ----


class _Layout:
    """What the page of one kind of model shows."""

    def __init__(self, title: str, inputs: Callable[..., list[Any]], outputs: Callable[[Any], list[Any]]) -> None:
        self.title, self.inputs, self.outputs = title, inputs, outputs


def _recording(gr: Any, model: Model) -> list[Any]:
    label = f"Recording (at most {model.args.max_seconds:g} s)"
    return [gr.Audio(sources=["microphone", "upload"], type="filepath", label=label, buttons=[])]


def _text(gr: Any, model: Model) -> list[Any]:
    return [gr.Textbox(label="Text", lines=3, max_length=MAX_CHARACTERS, placeholder="Write what it should say.")]


def _voices(gr: Any, model: SpeakingModel) -> list[Any]:
    voice = gr.Dropdown(model.voices, value=model.voice, label="Voice", visible=bool(model.voices))
    with gr.Accordion("Or the voice of a recording (half a second or more)", open=False, visible=model.clones):
        reference = gr.Audio(sources=["microphone", "upload"], type="filepath", label="Voice", buttons=[])
    return [voice, reference]


def _transcript(gr: Any) -> list[Any]:
    return [
        gr.Textbox(label="Transcript", lines=3, interactive=False, buttons=["copy"]),
        gr.Dataframe(
            headers=["word", "start (s)", "end (s)", "confidence"],
            label="Words",
            interactive=False,
            max_height=320,
            buttons=[],
        ),
        gr.File(label="Subtitles", file_count="multiple", interactive=False, elem_classes="subtitles"),
    ]


def _labels(gr: Any) -> list[Any]:
    return [gr.Label(label="Labels")]


def _speech(gr: Any) -> list[Any]:
    return [gr.Audio(label="Speech", interactive=False, buttons=["download"])]


LAYOUTS: dict[type[Model], _Layout] = {
    RecognitionModel: _Layout("Speech recognition", _recording, _transcript),
    ClassificationModel: _Layout("Speech classification", _recording, _labels),
    SynthesisModel: _Layout("Speech synthesis", _text, _speech),
    ConversionModel: _Layout("Voice conversion", _recording, _speech),
}
