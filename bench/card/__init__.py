"""What has to be known the first time a graphics card is at hand, measured in under eight minutes: ``python -m bench.card``.

``run.py`` starts every section in a process of its own, ``worker.py`` is that process, the other modules hold the sections.
"""
