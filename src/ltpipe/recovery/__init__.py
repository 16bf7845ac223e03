"""Recovery: tickets of pretrained language models, trained on a number of tokens with their masks held exactly."""
