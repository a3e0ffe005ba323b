"""The one-shot swap systems of the research literature, from their authors' original files."""
