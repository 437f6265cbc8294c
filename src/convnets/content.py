"""What a configuration's content holds beside its keys."""

COMPUTATION = 1  # goes up with any change that makes the same configuration learn something else
