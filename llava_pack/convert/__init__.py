"""Published weights and tokenizers into what the bundle carries."""
