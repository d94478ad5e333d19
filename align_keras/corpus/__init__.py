"""From raw sources to clean pairs: pictures, captions, and what was dropped."""
