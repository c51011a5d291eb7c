"""CLIP networks: the towers, the tokenizer and the loaders of published weights."""
