"""A T5 text encoder of random weights and its tokenizer, for Stable Diffusion 3 and FLUX."""

from __future__ import annotations

from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tests.tiny import WORDS

T5_WIDTH = 32
T5 = (
    "encoder.block.0.layer.0.SelfAttention.q",
    "encoder.block.1.layer.0.SelfAttention.o",
    "encoder.block.1.layer.1.DenseReluDense.wi_0",
    "encoder.block.0.layer.1.DenseReluDense.wo",
)


def t5_tokenizer() -> T5Tokenizer:
    """Letters, and the words of `WORDS` as one piece each."""
    special = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    words = [(f"▁{word}", -1.0) for word in WORDS]
    letters = [(chr(code), -4.0) for code in range(33, 127)]
    pieces = dict([*special, ("▁", -3.0), *words, *letters])
    return T5Tokenizer(vocab=list(pieces.items()), extra_ids=0)


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Two layers with gated feed-forwards, as T5 v1.1 has them."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            use_cache=False,
        )
    )
