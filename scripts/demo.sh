#!/usr/bin/env bash
# A complete example without a GPU or the Hub; its output is in demo-output.
#   bash scripts/demo.sh        recognition: makes a corpus, fine-tunes a model, shows its WER before and after
#   bash scripts/demo.sh tts    synthesis: makes recordings of one voice, fine-tunes a model, measures it before and after
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-asr}" in asr | tts) ;; *) echo "usage: bash scripts/demo.sh [asr|tts]" >&2 && exit 2 ;; esac
bash scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1
SECONDS=0
small=sft_speech/assets/wav2vec2-small
out=demo-output
step() { printf '\n=== %s\n' "$*"; }

asr() {
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
    cat <<END

$out/model                  the model; plain transformers loads it too
$out/model/README.md        its model card
$out/model/run.yaml         every option of the run
$out/model/evaluation       reference and hypothesis of each call

Next, on real speech (.venv/bin holds the commands):
  sft-speech transcribe $small RECORDING.wav
  accelerate launch scripts/finetune_asr.py --config configs/asr/own_corpus.yaml --source YOUR_CORPUS
  ls configs/asr           # presets of published recipes, each with its command
END
}

voice=sft_speech/assets/speecht5-small

tts() {
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
