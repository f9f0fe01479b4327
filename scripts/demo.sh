#!/usr/bin/env bash
# The whole way, without a GPU or the Hub: a corpus, a model fine-tuned on it, its word error rate before and after, and
# transcripts. Everything it makes lies in demo-output.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1
SECONDS=0
small=sft_speech/assets/wav2vec2-small
out=demo-output

step() { printf '\n=== %s\n' "$*"; }

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
