"""Objects and files of other packs: insightface's, those of IP-Adapter, InstantID and PuLID nodes, and original checkpoints."""
