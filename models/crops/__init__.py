"""Between photograph and crop: templates, the canonical crop, the squares of other systems, and drawing a network's output back."""
