"""Which blocks of a base model see the embroidery: inversion, self-attention features, similarity, choice."""
