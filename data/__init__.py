"""Text to arrays, on the host, in NumPy: corpora, tokenizers, examples, masks, loading."""
