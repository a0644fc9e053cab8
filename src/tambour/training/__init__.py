"""The method's training: LoRA block modulation, self-generated pairs, contrastive stage (method, sections 3 to 5)."""
