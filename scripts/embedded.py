"""Make the embedded recognizer of one that scripts/pretrain_small.py trained, before and after its training on speech.

python scripts/embedded.py start small/model outputs/embedded-start
python scripts/finetune_asr.py --config configs/asr/embedded.yaml
python scripts/embedded.py export outputs/embedded sft_speech/assets/wav2vec2-small

``start`` lowers the frame rate from 50 to 33 per second, which halves the cost of training, and adds two layers that
change nothing at first. ``export`` writes weights in float16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from pretrain_small import save
from torch.nn import functional
from transformers import AutoProcessor, Wav2Vec2Config, Wav2Vec2ForCTC

NEW_LAYERS = 2
STRIDE = 3  # of the last convolution, instead of 2


def slowed(old: Any) -> Wav2Vec2ForCTC:
    """Return the model at the lower frame rate, with :data:`NEW_LAYERS` more layers."""
    config = Wav2Vec2Config.from_dict(old.config.to_dict())
    ratio = config.conv_stride[-1] / STRIDE
    config.conv_stride = [*config.conv_stride[:-1], STRIDE]
    config.num_conv_pos_embeddings = 2 * int(config.num_conv_pos_embeddings * ratio / 2)
    config.num_hidden_layers += NEW_LAYERS
    config.mask_time_length = round(config.mask_time_length * ratio)
    model: Any = Wav2Vec2ForCTC(config)
    kept = {name: value for name, value in old.state_dict().items() if "pos_conv_embed.conv.param" not in name}
    model.load_state_dict(kept, strict=False)
    with torch.no_grad():
        taps = old.wav2vec2.encoder.pos_conv_embed.conv.weight
        fewer = config.num_conv_pos_embeddings
        # Fewer taps over the same seconds have the same sum. Assigned as a whole, since the weight is normalized.
        taps = functional.interpolate(taps, size=fewer, mode="linear") * (taps.shape[2] / fewer)
        model.wav2vec2.encoder.pos_conv_embed.conv.weight = taps
        layers: Any = model.wav2vec2.encoder.layers[-NEW_LAYERS:]
        for layer in layers:
            for last in (layer.attention.out_proj, layer.feed_forward.output_dense):
                last.weight.zero_()
                last.bias.zero_()
    return model


def start(source: Path, output: Path) -> None:
    """Write the checkpoint that training starts from."""
    torch.manual_seed(0)
    slowed(Wav2Vec2ForCTC.from_pretrained(source)).save_pretrained(output)
    AutoProcessor.from_pretrained(source).save_pretrained(output)
    config = json.loads((output / "config.json").read_text())
    # On a CPU, with gradients and an attention mask, the fused kernel is slower.
    (output / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}, indent=2) + "\n")


def export(source: Path, output: Path) -> None:
    """Write a trained checkpoint with weights in float16."""
    model = Wav2Vec2ForCTC.from_pretrained(source)
    model.config.update({"activation_dropout": 0.0, "mask_time_prob": 0.05})  # light, for little data
    save(model, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["start", "export"])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    (start if args.verb == "start" else export)(args.source, args.output)
