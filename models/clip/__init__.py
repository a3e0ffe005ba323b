"""Clips of any length: frames are read one after another and never kept. ``find`` makes Faces of them, ``swap`` the new frames."""
