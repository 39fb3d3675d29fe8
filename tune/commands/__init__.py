"""The command `semples-tune`, one file a command. Ray, Optuna and MLflow are imported inside of them, so that --help is
fast."""
