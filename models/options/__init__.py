"""What can be chosen: the words and ranges of a stage's settings, and their defaults. Loads no torch, so that help texts can list them."""
