"""The gated multi-LoRA product: ``((x A^T) * g) B^T`` for linears and convolutions."""

from compose.kernels.gated_lora.reference import gated_lora, gated_lora_conv2d

__all__ = ["gated_lora", "gated_lora_conv2d"]
