"""What rfm costs, next to its peers; see README.md."""
