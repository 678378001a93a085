"""Building blocks of networks that the methods share."""
