"""``edgeseg bench``: latency and accuracy of the same file on the same machine, and what follows from them.

``measure`` runs every combination of model, size and engine in a process of its own (``worker``), in rounds;
``results`` is the file that comes out, which ``compare``, ``pick``, ``picture`` and ``page`` read.
"""
