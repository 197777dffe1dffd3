"""Redis: asynq's data model, the scripts that change it, and the way there."""
