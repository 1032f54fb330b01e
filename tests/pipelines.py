"""A pipeline's encoders with small random weights, as diffusers and transformers save them."""

from pathlib import Path

import diffusers
import torch
import transformers


def save_pipeline(folder: Path) -> tuple:
    """Writes vae, text_encoder and tokenizer into a folder; returns the three torch objects."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    ).eval()
    vae.save_pretrained(folder / "vae")
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    t5 = transformers.T5EncoderModel(config).eval()
    t5.save_pretrained(folder / "text_encoder")
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [("▁", -2.0), ("▁one", -1.0), ("▁two", -1.5), ("▁drei", -1.5), ("s", -3.0)]
    tokenizer = transformers.T5Tokenizer(vocab=special + words, extra_ids=0)
    tokenizer.save_pretrained(folder / "tokenizer")
    return vae, t5, tokenizer
