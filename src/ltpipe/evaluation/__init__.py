"""Loss, accuracy, perplexity and retention of dense models and tickets."""
