#!/usr/bin/env bash
# A complete example without a GPU; its output is in demo-output.
#   bash scripts/demo.sh            recognition: a published Whisper learns from 100 real recordings; WER before and after.
#                                   If none can be downloaded, `embedded` runs instead
#   bash scripts/demo.sh embedded   the same offline: the embedded model, on a corpus of synthetic speech
#   bash scripts/demo.sh tts        synthesis: makes recordings of one voice, fine-tunes a model, measures it before and after
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-asr}" in asr | embedded | tts) ;; *) echo "usage: bash scripts/demo.sh [asr|embedded|tts]" >&2 && exit 2 ;; esac
bash scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH:$PWD/.uv/bin"
SECONDS=0
small=sft_speech/assets/wav2vec2-small
out=demo-output
step() { printf '\n=== %s\n' "$*"; }

asr() {
    step "1. A published checkpoint: Whisper tiny.en (OpenAI, MIT)"
    local whisper
    if ! whisper=$(python -m sft_speech.tools.demo_checkpoint); then
        echo "It cannot be downloaded here, so the demo continues with the embedded checkpoint."
        embedded
        return
    fi
    echo "$whisper"

    step "2. Fine-tuning on 100 recordings of three speakers ($out/whisper), after an evaluation on a fourth speaker"
    export HF_HUB_OFFLINE=1
    rm -rf $out/whisper
    python scripts/finetune_asr.py --config configs/asr/whisper_demo.yaml --model "$whisper"

    step "3. Done in $SECONDS seconds: 100 recordings of a speaker who is not in the training data"
    python - $out/whisper/evaluation <<'PYTHON'
import json
import sys
from pathlib import Path

folders = [Path(sys.argv[1], "before"), Path(sys.argv[1])]
before, after = ([json.loads(line) for line in (folder / "test.jsonl").open()] for folder in folders)
wrong = {}  # one clip of each word that Whisper got wrong
for first, last in zip(before, after, strict=True):
    if first["word_errors"]:
        wrong.setdefault(first["reference"], (first["reference"], first["hypothesis"], last["hypothesis"]))
for row in [("reference", "before", "after"), *list(wrong.values())[:8]]:
    print("  ".join(f"{text[:28]:28}" for text in row).rstrip())
wer = [100 * json.loads((folder / "test.json").read_text())["wer"] for folder in folders]
print(f"\nWER {wer[0]:.1f} % -> {wer[1]:.1f} %")
PYTHON
    following $out/whisper whisper_own_corpus
}

# Print what a finished run holds, and what to do next, with the preset $2.
following() {
    cat <<END

$1              the model; plain transformers loads it too
$1/README.md    its model card
$1/run.yaml     every option of the run
$1/evaluation   reference and hypothesis of each recording

Next, on your own speech (.venv/bin holds the commands):
  sft-speech transcribe $1 RECORDING.wav
  sft-speech finetune-asr --config configs/asr/$2.yaml --source YOUR_CORPUS
  ls configs/asr           # other presets, each with its command
END
}

embedded() {
    export HF_HUB_OFFLINE=1
    step "1. A corpus of telephone calls, spoken by espeak-ng ($out/corpus)"
    rm -rf $out/before $out/model
    sft-speech make-demo-corpus $out/corpus

    step "2. The embedded checkpoint on the test split, before fine-tuning ($small)"
    sft-speech evaluate $small --source $out/corpus --split test-demo --output $out/before

    step "3. Fine-tuning ($out/model)"
    python scripts/finetune_asr.py --config configs/asr/demo.yaml

    step "4. Three unseen calls by unseen speakers"
    calls=()
    for speaker in 17 18 19; do
        call=$out/corpus/test-demo/$speaker/1/$speaker-1
        calls+=("$call-0000.flac")
        echo "reference  $(grep "^$speaker-1-0000 " $call.trans.txt)"
    done
    sft-speech transcribe $out/model "${calls[@]}"

    step "Done in $SECONDS seconds"
    python - $out/before $out/model <<'PYTHON'
import json
import sys

for when, folder in zip(("before", "after"), sys.argv[1:]):
    figures = json.load(open(f"{folder}/evaluation/test-demo.json"))
    print(f"WER {when:6} fine-tuning: {100 * figures['wer']:5.1f} %   ({folder}/evaluation/test-demo.json)")
PYTHON
    following $out/model own_corpus
}

voice=sft_speech/assets/speecht5-small

tts() {
    export HF_HUB_OFFLINE=1
    step "1. Fourteen minutes of a voice that the embedded SpeechT5 does not know ($out/reader)"
    rm -rf $out/voice $out/voice-before
    sft-speech make-demo-corpus $out/reader --reader steph --minutes 14

    step "2. The embedded SpeechT5 before fine-tuning, with a speaker embedding of the voice ($voice)"
    sft-speech evaluate-tts $voice --source $out/reader --split "[0.93:]" --judge $small --output $out/voice-before

    step "3. Fine-tuning ($out/voice)"
    python scripts/finetune_tts.py --config configs/tts/demo.yaml

    step "4. The same sentences after fine-tuning"
    sft-speech evaluate-tts $out/voice --source $out/reader --split "[0.93:]" --judge $small --output $out/voice

    step "5. A new sentence"
    sft-speech synthesize $out/voice "the ferry leaves at nine, and comes back in the evening." -o $out/voice/hello.wav

    step "Done in $SECONDS seconds"
    python - $out/voice-before $out/voice <<'PYTHON'
import json
import sys
from pathlib import Path

for when, folder in zip(("before", "after"), sys.argv[1:]):
    (file,) = Path(folder, "evaluation").glob("*.json")
    figures = json.loads(file.read_text())
    voice = f"mel cepstral distortion {figures['speech_mcd']:.2f} dB, cosine {figures['speech_speaker_similarity']:.3f}"
    judge = f"CER of the recognizer {100 * figures['speech_cer']:.1f} %"
    print(f"{when:6} fine-tuning: {voice}, {judge}   ({file})")
copy = f"distortion {figures['copy_mcd']:.2f} dB, CER {100 * figures['copy_cer']:.1f} %"
print(f"upper bound (the recordings through the same vocoder): {copy}")
PYTHON
    cat <<END

$out/voice/hello.wav        the sentence
$out/voice/samples          speech during training, with plots of spectrograms and attention
$out/voice/evaluation       every held-out sentence with its figures
$out/voice                  the model; plain transformers loads it too
END
}

"${1:-asr}"
