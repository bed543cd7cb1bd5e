"""The run itself: plan, loop, devices, progress and records."""
