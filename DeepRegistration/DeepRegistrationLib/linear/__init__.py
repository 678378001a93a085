"""The linear stage in parts: looks (what is compared), measure, search, refine, landmarks, verdict."""
