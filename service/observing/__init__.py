"""What the service says of itself: logs, metrics and traces, never any submitted text."""
