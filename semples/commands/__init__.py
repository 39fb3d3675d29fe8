"""The command `semples`, one file a command. Torch and all that computes is imported inside of them, so that --help is
fast."""
