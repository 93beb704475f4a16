"""Hours of mixed clients against one gateway, and what memory and descriptors do meanwhile."""
