"""The first process: accepts connections and keeps the others running."""
