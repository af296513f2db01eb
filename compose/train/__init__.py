"""Training: the embedded world model, its recognizer, and LoRA adapters."""
