"""What a user of diffusers and PEFT writes to merge LoRAs: the yardstick of `whole_process`."""

from __future__ import annotations

import argparse

import torch
from diffusers import StableDiffusionPipeline


def main() -> None:
    """Load a model and adapters, make one picture, save it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("--model", required=True)
    parser.add_argument("--lora", action="append", default=[], help="FILE")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", required=True, help="FILE.png")
    args = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(
        args.model,
        dtype=torch.float32 if args.device == "cpu" else torch.float16,
        safety_checker=None,
        requires_safety_checker=False,
    ).to(args.device)
    names = [f"adapter_{index}" for index in range(len(args.lora))]
    for name, file in zip(names, args.lora, strict=True):
        pipe.load_lora_weights(file, adapter_name=name)
    if names:
        pipe.set_adapters(names, [1.0] * len(names))
    generator = torch.Generator("cpu").manual_seed(args.seed)
    out = pipe(
        args.prompt,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        generator=generator,
    )
    out.images[0].save(args.out)


if __name__ == "__main__":
    main()
