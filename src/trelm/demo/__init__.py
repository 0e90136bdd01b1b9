"""`trelm demo`: English from Python's own documentation, and a made-up language whose word links are known."""
