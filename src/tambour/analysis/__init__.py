"""Which blocks of a base model tell embroidery from flat design: inversion, features, similarity, choice."""
