"""Bytes and text to tensors: pictures, video, documents, tokenizers, prompts and datasets. Knows nothing of models."""
