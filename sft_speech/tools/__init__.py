"""Tools for the work before and after training. A new tool is a module and a line here."""

from __future__ import annotations

from sft_speech.options.spec import Verb

TOOLS: dict[str, Verb] = {
    "evaluate": Verb("sft_speech.tools.evaluate", "evaluate a model on a corpus"),
    "evaluate-tts": Verb("sft_speech.tools.evaluate_tts", "compare the speech of a model with recordings"),
    "evaluate-vc": Verb("sft_speech.tools.evaluate_vc", "compare converted recordings with their targets"),
    "compare": Verb(
        "sft_speech.tools.compare.compare", "train several models or with several settings, and recommend one"
    ),
    "self-train": Verb(
        "sft_speech.tools.self_train.self_train", "train in rounds on labels and on pseudo-labels of unlabelled speech"
    ),
    "report": Verb("sft_speech.tools.report.report", "make the report of a run, or put several runs side by side"),
    "check": Verb("sft_speech.tools.check.check", "look for errors in a corpus before training"),
    "find-lr": Verb("sft_speech.tools.find_lr", "find the learning rate of a run, with a picture"),
    "cut": Verb("sft_speech.tools.cut", "cut long recordings at the ends of sentences"),
    "import-ctranslate2": Verb(
        "sft_speech.tools.import_ctranslate2", "make a transformers directory of a faster-whisper model"
    ),
    "export": Verb("sft_speech.tools.export.export", "write a model for ONNX, CTranslate2, OpenVINO or whisper.cpp"),
    "merge": Verb("sft_speech.tools.merge", "make a plain model of a LoRA adapter and its base"),
    "interpolate": Verb("sft_speech.tools.interpolate", "mix the weights of a model before and after fine-tuning"),
    "push": Verb("sft_speech.tools.push", "upload the result of a run to the Hub"),
    "demo": Verb("sft_speech.tools.demo.demo", "try a model out in the browser, or two side by side"),
    "doctor": Verb("sft_speech.tools.doctor", "look for errors in this machine and its installation"),
    "make-demo-corpus": Verb("sft_speech.corpora.synthetic", "make a small corpus of synthetic speech"),
}
