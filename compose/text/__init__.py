"""From a prompt to embeddings: weights, windows, text encoders, and which position is which word.

Tokenizers and text encoders are passed in; nothing here imports diffusers or transformers.
"""
