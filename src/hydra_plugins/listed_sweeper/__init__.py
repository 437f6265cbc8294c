"""A Hydra sweeper for values that go together, and for lists of whole override sets."""
