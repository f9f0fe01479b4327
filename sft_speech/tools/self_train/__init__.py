"""Self-training: rounds of labelling and training, in which the student of a round is the teacher of the next."""
