"""From log-probabilities to text: greedy, prefix beam search, n-gram language models."""
