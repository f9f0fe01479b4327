#!/usr/bin/env bash
# The whole way, without a GPU or the Hub; everything it makes lies in demo-output.
#   bash scripts/demo.sh        recognition: a corpus, a model fine-tuned on it, its word error rate before and after
#   bash scripts/demo.sh tts    synthesis: the recordings of one voice, a model that speaks in it, how well it is understood
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

    step "2. The embedded checkpoint on its test split, as it is ($small)"
    sft-speech evaluate $small --source $out/corpus --split test-demo --output $out/before

    step "3. Fine-tuning ($out/model)"
    python scripts/finetune_asr.py --config configs/asr/demo.yaml

    step "4. Three calls that it never heard, by voices that it never heard"
    calls=()
    for speaker in 17 18 19; do
        call=$out/corpus/test-demo/$speaker/1/$speaker-1
        calls+=("$call-0000.flac")
        echo "said   $(grep "^$speaker-1-0000 " $call.trans.txt)"
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
$out/model/run.yaml         every setting of the run
$out/model/evaluation       what was said and what was heard, call by call

Next, on real speech (.venv/bin holds the commands):
  sft-speech transcribe $small RECORDING.wav
  accelerate launch scripts/finetune_asr.py --config configs/asr/own_corpus.yaml --source YOUR_CORPUS
  ls configs/asr           # presets named after published set-ups, each with its command
END
}

voice=sft_speech/assets/speecht5-small

tts() {
    step "1. Fourteen minutes of a voice that the embedded SpeechT5 never heard ($out/reader)"
    rm -rf $out/voice $out/voice-before
    sft-speech make-demo-corpus $out/reader --reader steph --minutes 14

    step "2. The embedded SpeechT5 as it is, told by recordings how the voice sounds ($voice)"
    sft-speech evaluate-tts $voice --source $out/reader --split "[0.93:]" --judge $small --output $out/voice-before

    step "3. Fine-tuning ($out/voice)"
    python scripts/finetune_tts.py --config configs/tts/demo.yaml

    step "4. The same sentences, in the voice of the recordings"
    sft-speech evaluate-tts $out/voice --source $out/reader --split "[0.93:]" --judge $small

    step "5. A sentence that nobody has recorded"
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
    heard = f"the recognizer's CER {100 * figures['speech_cer']:.1f} %"
    print(f"{when:6} fine-tuning: {voice}, {heard}   ({file})")
copy = f"distortion {figures['copy_mcd']:.2f} dB, CER {100 * figures['copy_cer']:.1f} %"
print(f"as near as any model could come (the recordings through the same vocoder): {copy}")
PYTHON
    cat <<END

$out/voice/hello.wav        the sentence
$out/voice/samples          spoken while it learned, with pictures of spectrograms and attention
$out/voice/evaluation       every held-out sentence with its figures
$out/voice                  the model; plain transformers loads it too
END
}

"${1:-asr}"
