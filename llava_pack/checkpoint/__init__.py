"""What a LLaVA checkpoint is, without torch."""
