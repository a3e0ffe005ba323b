"""Files: which file is meant, where it lies, what is in it, and how it is fetched, read and written."""
