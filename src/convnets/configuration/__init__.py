"""The choices and keys of a training: what they may be, what they mean, and what their run is called."""
