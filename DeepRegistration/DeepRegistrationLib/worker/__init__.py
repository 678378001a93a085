"""The engine in a process of its own: the parent's side is `client` (no torch), the child's `serve`."""
