"""What a transformers model of each kind is in our terms: a file a kind, with its spec and its rules."""
