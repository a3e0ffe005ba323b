"""Takes other packs' objects and files, and makes them: insightface's, those of IP-Adapter, InstantID and PuLID, and old checkpoints."""
