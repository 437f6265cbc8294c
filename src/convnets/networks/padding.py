"""Padding: the values that a convolution takes for pixels beyond the border of its image."""

from typing import Literal

# Away from the border all are equivariant to translation; "circular" is so everywhere, at stride 1.
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
